"""Milliseconds of a jump through ASE and OpenMM: thermostat, constraints, guards and every check included.

    OMP_NUM_THREADS=1 python benchmarks/engines.py --output benchmarks/results/engines_cpu.json

The shipped models on one thread, Langevin of 10/ps: alanine dipeptide with held X-H bonds and 108 atoms of copper by
``LearnedDynamics`` of ASE, and alanine dipeptide in OpenMM on the Reference platform by the back-end ``host``, alone or
in turn with five classical steps, whose own time is taken off. ``network`` is the part of ``Propagator.predict``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from ase import Atoms, units
from ase.constraints import FixBondLengths
from ase.md.velocitydistribution import thermalize_momenta
from hybrid_ala2 import TEMPERATURE, Molecule, machine
from openmm import app, unit
from physics_systems import COPPER

from fastegnn_md import Propagator
from fastegnn_md.integrators import LearnedDynamics, LearnedIntegrator, LearnedSimulation, Schedule

FRICTION = 10.0  # 1/ps
CLASSICAL = 5  # steps between jumps


class Timed:
    """A propagator whose predictions are timed."""

    def __init__(self, name: str):
        self.propagator = Propagator.load(name)
        self.seconds = 0.0
        predict = self.propagator.predict

        def timed(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return predict(*given, **named)
            finally:
                self.seconds += time.perf_counter() - begun

        self.propagator.predict = timed  # type: ignore[method-assign]


def settled() -> tuple[Molecule, openmm.State]:
    """Alanine dipeptide in vacuum and a thermal state of it."""
    molecule = Molecule("vacuum")
    simulation = app.Simulation(
        molecule.topology, molecule.system(), molecule.langevin(FRICTION, 0), *molecule.platform()
    )
    molecule.settle(simulation, 0)
    return molecule, simulation.context.getState(positions=True, velocities=True)


def ala2_in_ase(timed: Timed) -> tuple[int, Callable[[int], object]]:
    """Atoms, and a function that makes jumps."""
    molecule, state = settled()
    system = molecule.system()
    atoms = Atoms(
        [atom.element.symbol for atom in molecule.topology.atoms()],
        state.getPositions(asNumpy=True).value_in_unit(unit.angstrom),
    )
    held = [system.getConstraintParameters(index)[:2] for index in range(system.getNumConstraints())]
    atoms.set_masses([system.getParticleMass(index)._value for index in range(len(atoms))])
    velocities = state.getVelocities(asNumpy=True).value_in_unit(unit.angstrom / unit.picosecond)
    atoms.set_velocities(velocities / (1000 * units.fs))
    atoms.set_constraint(FixBondLengths(held))
    bonds = np.array([[bond[0].index, bond[1].index] for bond in molecule.topology.bonds()])
    options = {"temperature_K": TEMPERATURE, "friction": FRICTION / (1000 * units.fs), "rng": 1}
    return len(atoms), LearnedDynamics(atoms, timed.propagator, **options, bonds=bonds).run


def copper_in_ase(timed: Timed) -> tuple[int, Callable[[int], object]]:
    """108 atoms, with their calculator for audits."""
    atoms = COPPER.atoms()
    thermalize_momenta(atoms, COPPER.temperature, rng=np.random.default_rng(0))
    options = {"temperature_K": COPPER.temperature, "friction": FRICTION / (1000 * units.fs), "rng": 1}
    return len(atoms), LearnedDynamics(atoms, timed.propagator, **options).run


def ala2_in_openmm(timed: Timed, classical: int) -> tuple[int, Callable[[int], object]]:
    """By the back-end ``host``; ``classical`` steps of OpenMM's before each jump."""
    molecule, state = settled()
    if classical:  # whose thermostat jumps take over
        schedule = Schedule(classical, 1, classical=molecule.langevin(FRICTION, 0))
        integrator = LearnedIntegrator(timed.propagator, schedule=schedule, seed=1)
    else:
        integrator = LearnedIntegrator(timed.propagator, temperature=TEMPERATURE, friction=FRICTION, seed=1)
    simulation = LearnedSimulation(
        molecule.topology, molecule.system(), integrator, *molecule.platform(), backend="host"
    )
    simulation.context.setPositions(state.getPositions())
    simulation.context.setVelocities(state.getVelocities())
    return molecule.topology.getNumAtoms(), lambda jumps: simulation.step(jumps * (classical + 1))


def classical_steps() -> float:
    """Milliseconds of the classical steps between two jumps."""
    molecule, state = settled()
    simulation = app.Simulation(
        molecule.topology, molecule.system(), molecule.langevin(FRICTION, 0), *molecule.platform()
    )
    simulation.context.setPositions(state.getPositions())
    simulation.context.setVelocities(state.getVelocities())
    simulation.step(100)
    times = []
    for _ in range(200):
        begun = time.perf_counter()
        simulation.step(CLASSICAL)
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def rows(jumps: int) -> Iterator[dict[str, object]]:
    """Rows of the results."""
    cases: dict[str, tuple[str, Callable[[Timed], tuple[int, Callable[[int], object]]], float]] = {
        "ASE, LearnedDynamics, alanine dipeptide": ("ala2-vacuum", ala2_in_ase, 0.0),
        "ASE, LearnedDynamics, copper": ("copper-emt", copper_in_ase, 0.0),
        "OpenMM, host, jumps alone": ("ala2-vacuum", lambda timed: ala2_in_openmm(timed, 0), 0.0),
        f"OpenMM, host, after {CLASSICAL} classical steps": (
            "ala2-vacuum",
            lambda timed: ala2_in_openmm(timed, CLASSICAL),
            classical_steps(),
        ),
    }
    for name, (model, make, off) in cases.items():
        timed = Timed(model)
        atoms, run = make(timed)
        run(5)
        times, network = [], []
        for _ in range(max(1, jumps // 5)):  # five in a row, as calls of run() cost something of their own
            timed.seconds, begun = 0.0, time.perf_counter()
            run(5)
            times.append(1e3 * (time.perf_counter() - begun) / 5 - off)
            network.append(1e3 * timed.seconds / 5)
        low, high = np.quantile(times, [0.1, 0.9])
        yield {
            "name": name,
            "model": model,
            "atoms": atoms,
            "ms of a jump": statistics.median(times),
            "p10": low,
            "p90": high,
            "network, ms": statistics.median(network),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jumps", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for row in rows(arguments.jumps):
        found.append(row)
        print(json.dumps(row), flush=True)
    if arguments.output is not None:
        text = json.dumps({"machine": {**machine(), "threads": 1}, "rows": found}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
