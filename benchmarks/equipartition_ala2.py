"""Temperatures of alanine dipeptide at low friction, element by element, and what cures those that are wrong.

    python benchmarks/equipartition_ala2.py harvest vacuum                # a classical run, bursts from its frames
    python benchmarks/equipartition_ala2.py classical vacuum              # temperatures of a classical run
    python benchmarks/equipartition_ala2.py run vacuum ala2-vacuum        # 1/ps, 2 ns
    python benchmarks/equipartition_ala2.py run vacuum ala2-vacuum --cure noise
    python benchmarks/equipartition_ala2.py train flexible symplectic
    python benchmarks/equipartition_ala2.py run flexible symplectic
    python benchmarks/equipartition_ala2.py collect vacuum --output benchmarks/results/equipartition_ala2.json

amber14 at 300 K. ``vacuum`` and ``gbn2`` hold bonds to hydrogen and jump by 10 fs, with the models that are shipped;
``flexible`` holds none and jumps by 4 fs, with models of a minute's training. ``--folder`` is where all of it lies;
``collect`` takes what is there of all three. Temperatures are 2 K / f k_B with the degrees of freedom that held bonds
leave to the atoms of an element.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import openmm
import torch
from ase import Atoms
from ase.md.velocitydistribution import thermalize_momenta
from equipartition import summary
from equipartition_cures import with_noise
from hybrid_ala2 import FORCE_FIELDS, PLATFORMS, TEMPERATURE, Molecule, machine
from openmm import app, unit

from fastegnn_md import Propagator, load
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.engines.openmm import OpenMMCalculator
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import GuardSettings, LearnedDynamics, Schedule
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.units import BOLTZMANN
from fastegnn_md.validation.observables.temperature import degrees_of_freedom

# Solvent, bonds to hydrogen held, lag and classical step in fs, frames of 300 K and of 450 K to start bursts from
SYSTEMS: dict[str, tuple[str, bool, float, float, tuple[int, int]]] = {
    "vacuum": ("vacuum", True, 10.0, 2.0, (400, 0)),
    "gbn2": ("gbn2", True, 10.0, 2.0, (400, 0)),
    "flexible": ("vacuum", False, 4.0, 0.5, (1500, 500)),
}
TRAININGS: dict[str, dict[str, Any]] = {
    "force-free": {"kind": "force-free", "updates": 2500},
    "symplectic": {"kind": "symplectic", "kicks": 3, "force_updates": 600, "updates": 1200},
}
_EVERY = 1.0  # ps between the frames that bursts start from
_SETTLE = 10.0  # ps


class Case:
    """Topology, System and settings of one of the three."""

    def __init__(self, name: str):
        self.name = name
        self.solvent, self.held, self.lag, self.timestep, self.starts = SYSTEMS[name]
        self.molecule = Molecule(self.solvent)
        self.topology = self.molecule.topology
        self.system: openmm.System = app.ForceField(*FORCE_FIELDS[self.solvent]).createSystem(
            self.topology,
            nonbondedMethod=app.NoCutoff,
            constraints=app.HBonds if self.held else None,
            removeCMMotion=False,
        )
        self.bonds = np.array([(bond[0].index, bond[1].index) for bond in self.topology.bonds()])

    def simulation(self, friction: float, temperature: float, seed: int) -> app.Simulation:
        """Classical Langevin dynamics after 20 ps."""
        integrator = self.molecule.langevin(friction, seed, temperature, 1e-3 * self.timestep)
        simulation = app.Simulation(self.topology, self.system, integrator, *self.molecule.platform())
        self.molecule.settle(simulation, seed, temperature)
        return simulation

    def atoms(self, folder: Path) -> Atoms:
        """The last frame of the classical run at 300 K, with velocities, calculator and constraints."""
        universe = mda.Universe(str(folder / "topology.pdb"), str(folder / f"starts-{TEMPERATURE:.0f}K.dcd"))
        universe.trajectory[-1]
        calculator = OpenMMCalculator(
            self.system,
            topology=self.topology,
            platform=openmm.Platform.getPlatformByName(PLATFORMS[self.solvent][0]),
        )
        numbers = [atom.element.atomic_number for atom in self.topology.atoms()]
        atoms = Atoms(numbers, universe.atoms.positions)
        atoms.calc = calculator
        atoms.set_masses(calculator.masses)
        if self.held:
            atoms.set_constraint(calculator.bond_constraints())
            atoms.set_positions(atoms.positions)  # to the lengths: a DCD has single precision
        return atoms


def held_bonds(case: Case) -> np.ndarray:
    """Pairs of atoms at fixed distance, (M, 2)."""
    held = [case.system.getConstraintParameters(k)[:2] for k in range(case.system.getNumConstraints())]
    return np.array(held, dtype=int).reshape(-1, 2)


class Temperatures:
    """2 K / f k_B in K of all atoms and of each element."""

    def __init__(self, case: Case, masses: np.ndarray):
        self.masses, self.symbols = masses, np.array([atom.element.symbol for atom in case.topology.atoms()])
        self.pairs = held_bonds(case)
        self.names = ["all", *sorted(set(self.symbols))]
        self.freedom: list[list[float]] = []

    def of_parts(self, each: np.ndarray) -> list[float]:
        return [float(each.sum()), *(float(each[self.symbols == name].sum()) for name in self.names[1:])]

    def count(self, positions: np.ndarray) -> None:
        """Degrees of freedom at positions (Å); they change a little with angles."""
        self.freedom.append(self.of_parts(degrees_of_freedom(positions, self.masses, self.pairs)))

    def kinetic(self, velocities: np.ndarray) -> list[float]:
        """2 K / k_B of velocities (Å/ps)."""
        return self.of_parts(self.masses * np.square(velocities).sum(axis=1) / BOLTZMANN)

    def summary(self, rows: list[list[float]], settle: int) -> dict[str, list[float]]:
        return summary(np.array(rows) / np.mean(self.freedom, axis=0), self.names, settle)


def bursts(case: Case, folder: Path) -> None:
    """A classical run per temperature, and bursts from its frames, velocities drawn at 300 K."""
    topology, trajectories = folder / "topology.pdb", []
    with open(topology, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(case.topology, case.molecule.pdb.positions, file)
    for temperature, frames in zip((TEMPERATURE, 450.0), case.starts, strict=True):
        if not frames:
            continue
        trajectories.append(folder / f"starts-{temperature:.0f}K.dcd")
        if not trajectories[-1].exists():
            # Other seeds than those of the bursts that the shipped models were trained on: errors are of unseen ones
            simulation = case.simulation(10.0, temperature, seed=5000 + round(temperature))
            part = trajectories[-1].with_suffix(".part.dcd")
            stride = round(1000 * _EVERY / case.timestep)
            simulation.reporters.append(app.DCDReporter(str(part), stride))
            simulation.step(frames * stride)
            simulation.reporters.clear()
            part.rename(trajectories[-1])
    harvest(
        mda.Universe(str(topology), *map(str, trajectories)),
        case.system,
        store=folder / "bursts.h5md",
        burst=f"{6 * case.lag} fs",
        interval=f"{case.lag / 2} fs",
        temperature=TEMPERATURE,
        seed=17,
        platform=PLATFORMS[case.solvent][0],
    )


def train(case: Case, folder: Path, name: str) -> None:
    """One model of the bursts, on one thread."""
    settings = dict(TRAININGS[name])
    options = {key: settings.pop(key) for key in ("kind", "kicks") if key in settings}
    network = PropagatorConfig(hidden=32, layers=3, **options)
    training, validation = TrajectoryPairs(folder / "bursts.h5md", lag=f"{case.lag} fs", time_reversal=True).split(
        (0.9, 0.1)
    )
    config = TrainingConfig(propagator=network, batch_size=16, validate_every=200, validation_pairs=128, **settings)
    begun = time.process_time()
    result = fit(training, validation, config, folder / f"{name}.safetensors", resume=True)
    found = {"training CPU s": time.process_time() - begun, "one step": result.metrics["over_best_baseline"]}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    print(name, json.dumps(found))


def run(case: Case, folder: Path, arguments: argparse.Namespace) -> None:
    """Jumps alone, with Langevin half steps; the temperatures every jump."""
    path = folder / f"{arguments.model}.safetensors"
    model = Propagator.load(path) if path.exists() else load(arguments.model)
    one_step, about = model.metrics["over_best_baseline"], {}
    if arguments.cure == "noise":
        model = with_noise(model, folder, case.lag, arguments.factor, held_bonds(case).tolist())
        about = {"factor": arguments.factor, "unexplained share of v": model.unexplained}
    atoms = case.atoms(folder)
    thermalize_momenta(atoms, TEMPERATURE, rng=np.random.default_rng(arguments.seed))
    dynamics = LearnedDynamics(
        atoms,
        model,
        temperature_K=TEMPERATURE,
        friction=f"{arguments.friction:g}/ps",
        schedule=Schedule(classical="0.5 fs"),
        guard=GuardSettings(audits=0.0),  # none may end a run whose temperature is the question
        bonds=case.bonds,
        rng=arguments.seed,
    )
    temperatures, rows = Temperatures(case, atoms.get_masses()), []
    steps = round(1e6 * arguments.nanoseconds / case.lag)
    name = f"run-{arguments.model}-{arguments.cure}-{arguments.factor:g}-{arguments.friction:g}-{arguments.seed}.json"
    begun = time.process_time()
    for step in range(1, steps + 1):
        dynamics.run(1)
        rows.append(temperatures.kinetic(atoms.get_velocities() * PICOSECOND))
        if step % 200 == 0:
            temperatures.count(atoms.positions)
        if step % 20_000 and step < steps:
            continue
        found = {
            "model": arguments.model,
            "cure": arguments.cure,
            **about,
            "one step over the best baseline": one_step,
            "friction": arguments.friction,
            "seed": arguments.seed,
            "nanoseconds": step * case.lag * 1e-6,
            "CPU ms per jump": 1e3 * (time.process_time() - begun) / step,
            "jumps refused": sum(dynamics.statistics.rejected.values()),
            "temperatures": temperatures.summary(rows, round(1000 * _SETTLE / case.lag)),
        }
        (folder / name).write_text(json.dumps(found, indent=1))
        print(json.dumps(found["temperatures"]), flush=True)


def classical(case: Case, folder: Path, arguments: argparse.Namespace) -> None:
    """The same temperatures of LangevinMiddleIntegrator, which are right if the degrees of freedom are."""
    simulation = case.simulation(arguments.friction, TEMPERATURE, 9000 + arguments.seed)
    masses = np.array([case.system.getParticleMass(k)._value for k in range(case.system.getNumParticles())])
    temperatures, rows, stride = Temperatures(case, masses), [], round(20.0 / case.timestep)
    frames = round(1e6 * arguments.nanoseconds / 20.0)
    for frame in range(frames):
        simulation.step(stride)
        state = simulation.context.getState(positions=frame % 100 == 0, velocities=True)
        rows.append(temperatures.kinetic(10 * state.getVelocities(asNumpy=True)._value))
        if frame % 100 == 0:
            temperatures.count(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    found = {
        "model": "classical",
        "friction": arguments.friction,
        "seed": arguments.seed,
        "nanoseconds": arguments.nanoseconds,
        "classical step, fs": case.timestep,
        "temperatures": temperatures.summary(rows, 0),
    }
    (folder / f"run-classical-{arguments.friction:g}-{arguments.seed}.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found["temperatures"]))


def collect(folder: Path, output: Path) -> None:
    """All trainings and runs of all systems in one file."""
    result: dict[str, Any] = {"machine": machine(), "temperature, K": TEMPERATURE, "trainings": TRAININGS}
    for name in SYSTEMS:
        runs = [json.loads(path.read_text()) for path in sorted((folder / name).glob("run-*.json"))]
        files = {one: folder / name / f"{one}.json" for one in TRAININGS}
        trained = {one: json.loads(path.read_text()) for one, path in files.items() if path.exists()}
        result[name] = {"trained": trained, "runs": runs}
    output.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["harvest", "train", "run", "classical", "collect"])
    parser.add_argument("system", choices=list(SYSTEMS))
    parser.add_argument("model", nargs="?", help="one of the trainings, or a model that is shipped")
    parser.add_argument("--folder", type=Path, default=Path("equipartition-ala2"))
    parser.add_argument("--friction", type=float, default=1.0, help="1/ps")
    parser.add_argument("--nanoseconds", type=float, default=2.0)
    parser.add_argument("--cure", choices=["none", "noise"], default="none")
    parser.add_argument("--factor", type=float, default=1.0, help="on the covariance of the noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("equipartition_ala2.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    case, folder = Case(arguments.system), arguments.folder / arguments.system
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "harvest":
        bursts(case, folder)
    elif arguments.stage == "train":
        train(case, folder, arguments.model)
    elif arguments.stage == "run":
        run(case, folder, arguments)
    elif arguments.stage == "classical":
        classical(case, folder, arguments)
    else:
        collect(arguments.folder, arguments.output)


if __name__ == "__main__":
    main()
