"""Drift of the total energy at constant energy: jumps of ethanol-xtb beside classical steps of 1 fs, 50 ps each.

    python benchmarks/nve_ethanol.py --reference physics-output/ethanol-xtb/reference-10-*.trr \\
        --topology physics-output/ethanol-xtb/topology.xyz --output benchmarks/results/nve_ethanol.json

Several starts, the same for all, each written when it is done and kept when the command is given again. Linear and
angular momentum are conserved. With `conserve_energy` each jump is followed by a rescaling of the velocities, at one
energy of the engine per jump.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.md.verlet import VelocityVerlet
from physics_systems import ETHANOL
from tqdm import tqdm

from fastegnn_md import Propagator
from fastegnn_md._files import write_atomically
from fastegnn_md.data import load_universe
from fastegnn_md.engines.ase.stepper import guess_bonds
from fastegnn_md.engines.mdanalysis import state_from_universe
from fastegnn_md.integrators import Conserve, LearnedDynamics
from fastegnn_md.validation import energy_drift

EVERY = 8.0  # fs between energies


def starting(topology: Path, trajectory: Path) -> Atoms:
    """The last frame of a reference run, at rest as a whole."""
    universe = load_universe(topology, trajectory)
    universe.trajectory[-1]
    state = state_from_universe(universe.atoms)
    atoms = Atoms(numbers=state.numbers.numpy(), positions=state.positions.numpy())
    atoms.set_velocities(state.velocities.numpy() / (1000 * units.fs))
    atoms.calc = ETHANOL.calculator()
    return atoms


def record(dynamics: Any, atoms: Atoms, steps: int, count: int) -> dict[str, Any]:
    """Drift over ``count`` energies, ``steps`` of the dynamics apart; or where xTB gave up on a molecule too hot."""
    potential, kinetic = np.zeros(count), np.zeros(count)
    for k in tqdm(range(count), desc=type(dynamics).__name__, mininterval=10):
        try:
            dynamics.run(steps)
        except CalculationFailed as error:
            heated = (potential[k - 1] + kinetic[k - 1] - potential[0] - kinetic[0]) / (units.kB * 400)
            return {"stopped after, ps": 1e-3 * EVERY * k, "error": str(error), "change of the energy, kT": heated}
        potential[k], kinetic[k] = atoms.get_potential_energy(), atoms.get_kinetic_energy()
    times = 1e-3 * EVERY * np.arange(1, count + 1)
    per_mol = 1.0 / (units.kJ / units.mol)
    found = energy_drift(times, per_mol * (potential + kinetic), per_mol * kinetic, len(atoms))
    return {
        "drift, kJ/mol/ps per atom": found.per_atom,
        "drift over std(K), 1/ps": found.over_fluctuation,
        "change of the energy in 50 ps, kT": float(
            (potential[-1] + kinetic[-1] - potential[0] - kinetic[0]) / (units.kB * 400)
        ),
        "std of the energy, kT": float((potential + kinetic).std() / (units.kB * 400)),
        "mean kinetic energy, first and second half, kT": [
            float(half.mean() / (units.kB * 400)) for half in np.array_split(kinetic, 2)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ethanol-xtb")
    parser.add_argument("--reference", type=Path, nargs="+", required=True, help="a start from each")
    parser.add_argument("--topology", type=Path, required=True)
    parser.add_argument("--picoseconds", type=float, default=50.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    propagator = Propagator.load(arguments.model)
    propagator.compile()
    count, rows = round(1000 * arguments.picoseconds / EVERY), []
    if arguments.output is not None and arguments.output.exists():
        rows = json.loads(arguments.output.read_text(encoding="utf-8"))["starts"]
    for path in arguments.reference[len(rows) :]:
        row: dict[str, Any] = {}
        atoms = starting(arguments.topology, path)
        row["classical, 1 fs"] = record(VelocityVerlet(atoms, 1.0 * units.fs), atoms, round(EVERY), count)
        for name, rescale in (("jumps", False), ("jumps, conserve_energy", True)):
            atoms = starting(arguments.topology, path)
            dynamics = LearnedDynamics(atoms, propagator, conserve=Conserve(energy=rescale), bonds=guess_bonds(atoms))
            row[name] = record(dynamics, atoms, round(EVERY / (1000 * propagator.timestep)), count)
            row[name]["refused"] = dynamics.statistics.tried - dynamics.statistics.accepted
        rows.append(row)
        print(json.dumps(row, indent=1), flush=True)
        if arguments.output is not None:
            write(rows, arguments)


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """All starts so far, and the root mean square of those that were not stopped."""
    summary = {
        kind: {
            key: float(np.sqrt(np.mean([row[kind][key] ** 2 for row in rows if key in row[kind]])))
            for key in ("drift, kJ/mol/ps per atom", "drift over std(K), 1/ps")
        }
        for kind in rows[0]
    }
    result = {"picoseconds": arguments.picoseconds, "RMS over complete starts": summary, "starts": rows}
    write_atomically(arguments.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
