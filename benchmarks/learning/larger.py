"""The model learned on 64 atoms of silicon on larger cells: temperature, energy, seconds of a jump and of a call.

    python benchmarks/learning/larger.py RUNS --copies 3 4 --picoseconds 10

Cells of 2 × 2 × 2 (64 atoms), 3 × 3 × 3 (216) and 4 × 4 × 4 (512) run with jumps; the engine is asked by the guards
alone. At a few frames it says the potential energy per atom, which is that of the small cell at the same temperature,
and how a jump without a thermostat changes the total energy. RUNS/silicon-larger.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import Trajectory
from ase.md.velocitydistribution import thermalize_momenta
from systems import SYSTEMS
from timed import Timed

from fastegnn_md import load
from fastegnn_md.integrators import LearnedDynamics, Schedule
from fastegnn_md.propagator.learned_map import LearnedMap

SETTLE = 2.0  # ps


def main() -> None:
    """Run each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--audits", type=int, default=5)
    options = parser.parse_args()
    path = options.runs / "silicon-larger.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for copies in options.copies:
        found[str(8 * copies**3)] = one(copies, options)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(found[str(8 * copies**3)]), flush=True)


def one(copies: int, options: argparse.Namespace) -> dict[str, Any]:
    """What a cell shows."""
    system = SYSTEMS["silicon"]
    model = load(options.runs / "silicon-learned.safetensors")
    atoms, rng = system.build(copies), np.random.default_rng(copies)
    # Half of what springs hold at this temperature; velocities bring the rest
    atoms.positions += 0.06 * rng.standard_normal(atoms.positions.shape)
    thermalize_momenta(atoms, temperature_K=system.temperature, rng=rng)
    atoms.calc = engine = Timed(system.engine())
    run = LearnedDynamics(
        atoms,
        model,
        temperature_K=system.temperature,
        friction=f"{system.friction}/ps",
        schedule=Schedule(classical=f"{system.timestep} fs"),
        rng=copies,
    )
    run.run(round(SETTLE / model.timestep))
    steps = round(options.picoseconds / model.timestep)
    kept, kelvin, seconds = [], [], []
    with Trajectory(options.runs / f"silicon-{len(atoms)}.traj", "w") as file:
        for step in range(steps):
            begun = time.process_time()
            run.run(1)
            seconds.append(time.process_time() - begun)
            kelvin.append(atoms.get_kinetic_energy() / (1.5 * len(atoms) * units.kB))
            file.write(atoms)
            if (step + 1) % (steps // options.audits) == 0:
                kept.append(atoms.copy())
    audits = [audit(frame, model, engine, system.temperature) for frame in kept]
    blocks = [np.mean(part) for part in np.array_split(kelvin, 5)]
    return {
        "atoms": len(atoms),
        "picoseconds": options.picoseconds,
        "T, K": [float(np.mean(kelvin)), float(np.std(blocks, ddof=1) / np.sqrt(len(blocks)))],
        "potential energy per atom, eV": [potential for potential, _ in audits],
        "change of the total energy by a jump, kT": [change for _, change in audits],
        "jump, CPU s": float(np.median(seconds)),
        "engine call, CPU s": float(np.median(engine.cpu)),
        "statistics": str(run.statistics),
    }


def audit(atoms: Atoms, model: LearnedMap, engine: Timed, temperature: float) -> tuple[float, float]:
    """Potential energy per atom (eV), and what a jump without a thermostat does to the total energy (kT)."""
    atoms.calc = engine
    potential, before = atoms.get_potential_energy(), atoms.get_total_energy()
    LearnedDynamics(atoms, model).run(1)
    return potential / len(atoms), (atoms.get_total_energy() - before) / (units.kB * temperature)


if __name__ == "__main__":
    main()
