"""What a learned jump saves by the clock: against the classical steps in its place, measured in turn.

    OMP_NUM_THREADS=1 python benchmarks/gain.py --output benchmarks/results/gain_cpu.json

The trained models that come with the package, each beside its engine's own dynamics: Langevin of ASE, LangevinMiddle of
OpenMM on the platform that is fastest for 22 atoms; 10/ps, one thread. A jump has its thermostat, guards, neighbour
list and every check. Classical and learned dynamics take turns, and ``gain`` is the median over the rounds of classical
over learned time by the clock: a machine that slows down for a while favours neither. Milliseconds are CPU time, which
is that of the clock where nothing else runs.

Ethanol needs tblite, which pip does not install with the package: ``--only ethanol-xtb`` where it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from hybrid_ala2 import TEMPERATURE, TIMESTEP, Molecule, machine
from openmm import app
from physics_systems import ASE_SYSTEMS

from fastegnn_md import Propagator
from fastegnn_md.integrators import LearnedDynamics, LearnedIntegrator, LearnedSimulation

FRICTION = 10.0  # 1/ps
Stepper = Callable[[int], object]  # advances by a number of steps
# System -> model, engine in words, jumps of a round.
SYSTEMS = {
    "copper-emt": ("copper-emt", "EMT (ASE)", 10),
    "copper-emt-2048": ("copper-emt", "EMT (ASE)", 1),
    "ethanol-xtb": ("ethanol-xtb", "GFN2-xTB (tblite)", 10),
    "vacuum": ("ala2-vacuum", "amber14 (OpenMM)", 50),
    "gbn2": ("ala2-gbn2", "amber14, gbn2 (OpenMM)", 50),
}


def in_ase(name: str, propagator: Propagator) -> tuple[int, float, Stepper, Stepper]:
    """Number of atoms, classical step in fs, and classical and learned dynamics from one settled start."""
    system, friction = ASE_SYSTEMS[name], FRICTION / (1000 * units.fs)
    atoms, rng = system.atoms(), np.random.default_rng(0)
    thermalize_momenta(atoms, system.temperature, rng=rng)
    options = {"temperature_K": system.temperature, "friction": friction}
    classical = Langevin(atoms, system.timestep * units.fs, **options, rng=rng, fixcm=False)
    classical.run(round(300 / system.timestep))
    jumping = atoms.copy()
    jumping.calc = system.calculator()
    return len(atoms), system.timestep, classical.run, LearnedDynamics(jumping, propagator, **options, rng=1).run


def in_openmm(name: str, propagator: Propagator) -> tuple[int, float, Stepper, Stepper]:
    """The same of alanine dipeptide."""
    molecule = Molecule(name)
    classical = app.Simulation(
        molecule.topology, molecule.system(), molecule.langevin(FRICTION, 0), *molecule.platform()
    )
    molecule.settle(classical, 0)
    integrator = LearnedIntegrator(propagator, temperature=TEMPERATURE, friction=FRICTION, seed=1)
    learned = LearnedSimulation(molecule.topology, molecule.system(), integrator, *molecule.platform())
    state = classical.context.getState(positions=True, velocities=True)
    learned.context.setPositions(state.getPositions())
    learned.context.setVelocities(state.getVelocities())
    return molecule.topology.getNumAtoms(), 1e3 * TIMESTEP, classical.step, learned.step


def milliseconds(steps: Stepper, count: int) -> np.ndarray:
    """Time of a step, of ``count`` taken together: by the clock, and of the CPU."""
    begun = np.array([time.perf_counter(), time.process_time()])
    steps(count)
    return 1e3 * (np.array([time.perf_counter(), time.process_time()]) - begun) / count


def measure(name: str, rounds: int) -> dict[str, Any]:
    """A row of the results."""
    model, engine, jumps = SYSTEMS[name]
    propagator = Propagator.load(model)
    atoms, step, classical, learned = (in_ase if name in ASE_SYSTEMS else in_openmm)(name, propagator)
    each = round(1e3 * propagator.timestep / step)  # classical steps in place of a jump
    for warm in (classical, learned):
        warm(3)
    turns = np.array([(milliseconds(classical, each * jumps), milliseconds(learned, jumps)) for _ in range(rounds)])
    gains = each * turns[:, 0, 0] / turns[:, 1, 0]
    low, gain, high = np.percentile(gains, [10, 50, 90])
    step_ms, jump_ms = np.median(turns[:, :, 1], axis=0)
    return {
        "model": model,
        "engine": engine,
        "atoms": atoms,
        "jump, fs": 1e3 * propagator.timestep,
        "classical step, fs": step,
        "ms of a classical step": float(step_ms),
        "ms of a jump": float(jump_ms),
        "gain": float(gain),
        "gain, p10 and p90 of the rounds": [float(low), float(high)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, help="default: all but ethanol-xtb")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.only or [name for name in SYSTEMS if name != "ethanol-xtb"]
    rows = []
    for name in names:
        rows.append(measure(name, arguments.rounds))
        print(json.dumps(rows[-1]), flush=True)
    about = {**machine(), "threads": 1, "cores": os.cpu_count(), "load in the last 5 minutes": os.getloadavg()[1]}
    if arguments.output is not None:
        text = json.dumps({"machine": about, "rounds": arguments.rounds, "rows": rows}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
