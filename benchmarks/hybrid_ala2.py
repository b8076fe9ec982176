"""Alanine dipeptide, amber14, in vacuum and in implicit solvent (gbn2): hybrid stepping against classical dynamics.

    python benchmarks/hybrid_ala2.py train vacuum          # frames, bursts, force-informed propagator
    python benchmarks/hybrid_ala2.py reference vacuum      # ten classical runs of 1 ns
    python benchmarks/hybrid_ala2.py hybrid vacuum         # 1 ns of hybrid stepping
    python benchmarks/hybrid_ala2.py compare vacuum --output benchmarks/results/hybrid_ala2_vacuum.json

Every stage keeps its files in ``--folder`` and skips what is there already. Frames to start bursts from come half from
300 K and half from 450 K, so that the propagator knows more of the landscape than a run at 300 K visits; velocities of
the bursts are drawn at 300 K.
"""

from __future__ import annotations

import argparse
import time
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import openmm
import torch
from openmm import app, unit
from tqdm import tqdm

from fastegnn_md.config import PropagatorConfig
from fastegnn_md.data import TrajectoryPairs, harvest
from fastegnn_md.training import TrainingConfig, fit

FORCE_FIELDS = {"vacuum": ["amber14-all.xml"], "gbn2": ["amber14-all.xml", "implicit/gbn2.xml"]}
# For 22 atoms Reference is the fastest platform in vacuum, CPU with generalised Born.
PLATFORMS = {"vacuum": ("Reference", {}), "gbn2": ("CPU", {"Threads": "1"})}
TEMPERATURE, TIMESTEP, LAG = 300.0, 0.002, "8 fs"


class Molecule:
    """Topology, System and Platform of one of the two systems."""

    def __init__(self, name: str):
        with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
            self.pdb = app.PDBFile(str(path))
        self.topology = self.pdb.topology
        self.name = name

    def system(self) -> openmm.System:
        force_field = app.ForceField(*FORCE_FIELDS[self.name])
        return force_field.createSystem(
            self.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, removeCMMotion=False
        )

    def platform(self) -> tuple[openmm.Platform, dict[str, str]]:
        name, properties = PLATFORMS[self.name]
        return openmm.Platform.getPlatformByName(name), dict(properties)

    def langevin(self, friction: float, seed: int, temperature: float = TEMPERATURE) -> openmm.Integrator:
        integrator = openmm.LangevinMiddleIntegrator(
            temperature * unit.kelvin, friction / unit.picosecond, TIMESTEP * unit.picoseconds
        )
        integrator.setRandomNumberSeed(seed + 1)  # zero means a random seed to OpenMM
        return integrator

    def settle(self, simulation: app.Simulation, seed: int, temperature: float = TEMPERATURE, ps: float = 20) -> None:
        simulation.context.setPositions(self.pdb.positions)
        openmm.LocalEnergyMinimizer.minimize(simulation.context)
        simulation.context.setVelocitiesToTemperature(temperature * unit.kelvin, seed + 1)
        simulation.step(round(ps / TIMESTEP))


def trajectory(
    molecule: Molecule, path: Path, *, frames: int, every: float, friction: float, seed: int, temperature: float
) -> None:
    """Classical Langevin dynamics: a frame every ``every`` ps as DCD, and the mean kinetic energy of each atom."""
    if path.with_suffix(".npz").exists():
        return
    integrator = molecule.langevin(friction, seed, temperature)
    simulation = app.Simulation(molecule.topology, molecule.system(), integrator, *molecule.platform())
    molecule.settle(simulation, seed, temperature)
    stride = round(every / TIMESTEP)
    simulation.reporters.append(app.DCDReporter(str(path), stride))
    record(simulation, path, frames, stride)


def record(simulation: app.Simulation, path: Path, frames: int, stride: int) -> None:
    """Step a simulation that has its reporters; save kinetic energies (amu Å²/ps²), their spread, and the wall time."""
    masses = np.array([simulation.system.getParticleMass(i)._value for i in range(simulation.system.getNumParticles())])
    blocks, kinetic, seconds = 50, [], 0.0
    for _ in tqdm(range(frames), desc=path.name, mininterval=10):
        begun = time.perf_counter()
        simulation.step(stride)
        seconds += time.perf_counter() - begun
        v = 10.0 * simulation.context.getState(velocities=True).getVelocities(asNumpy=True)._value
        kinetic.append(0.5 * masses * np.square(v).sum(axis=1))
    simulation.reporters.clear()  # closes the files
    means = [block.mean(axis=0) for block in np.array_split(np.array(kinetic), blocks)]
    np.savez(path.with_suffix(".npz"), kinetic=np.array(means), seconds=seconds, steps=frames * stride)


def train(molecule: Molecule, folder: Path, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    topology = folder / "topology.pdb"
    with open(topology, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(molecule.topology, molecule.pdb.positions, file)
    starts = []
    for temperature in (TEMPERATURE, 450.0):
        starts.append(folder / f"starts-{temperature:.0f}K.dcd")
        trajectory(
            molecule, starts[-1], frames=5000, every=0.1, friction=10.0, seed=int(temperature), temperature=temperature
        )
    store = folder / "bursts.h5md"
    universe = mda.Universe(str(topology), *map(str, starts))
    if not store.exists():
        harvest(
            universe,
            molecule.system(),
            store=store,
            burst="32 fs",
            interval=LAG,
            temperature=TEMPERATURE,
            platform=PLATFORMS[molecule.name][0],
        )
    pairs = TrajectoryPairs(store, lag=LAG, time_reversal=True)
    training, validation, _ = pairs.split((0.9, 0.03, 0.07))
    config = TrainingConfig(
        propagator=PropagatorConfig(forces=True),
        updates=arguments.updates,
        validate_every=500,
        validation_pairs=512,
        checkpoint_every=500,
    )
    fit(training, validation, config, folder / "propagator.safetensors", resume=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "reference", "hybrid", "compare"])
    parser.add_argument("system", choices=sorted(FORCE_FIELDS))
    parser.add_argument("--folder", type=Path, default=Path("hybrid-output"))
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--friction", type=float, default=10.0, help="1/ps")
    parser.add_argument("--runs", type=int, default=10, help="classical runs of the reference")
    arguments = parser.parse_args()
    molecule = Molecule(arguments.system)
    folder = arguments.folder / arguments.system
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "train":
        train(molecule, folder, arguments)
    elif arguments.stage == "reference":
        for run in range(arguments.runs):
            path = folder / f"classical-{arguments.friction:g}-{run}.dcd"
            trajectory(
                molecule, path, frames=5000, every=0.2, friction=arguments.friction, seed=run, temperature=TEMPERATURE
            )


if __name__ == "__main__":
    main()
