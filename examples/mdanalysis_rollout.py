"""Liquid argon with MDAnalysis: from a stored trajectory to a roll-out, and the same analysis on both.

    python examples/mdanalysis_rollout.py

A run at constant energy, saved with velocities (TRR), gives pairs straight from its frames. 50 fs apart a velocity
follows from the state before; 2 ps apart it is forgotten, and TrajectoryPairs warns. The propagator learns the 50 fs
from positions and velocities alone, so no engine is called afterwards: each state follows from the one before.

The sizes suit a demonstration of seconds. For a real run: 10000 frames and --updates 5000. A free roll-out has no
thermostat: its temperature drifts with what the training left over.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import openmm
from ase import units
from ase.build import bulk
from ase.io import write
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from MDAnalysis.analysis.rdf import InterRDF

from fastegnn_md.data import NoiseFloorWarning, TrajectoryPairs, load_universe
from fastegnn_md.engines.mdanalysis import RolloutWriter
from fastegnn_md.engines.openmm import OpenMMCalculator
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors
from fastegnn_md.units import BOLTZMANN

FRAMES, JUMPS = 240, 60


def run_argon(output: Path) -> None:
    """108 atoms at constant energy, a frame every 50 fs."""
    atoms = bulk("Ar", a=5.78, cubic=True).repeat(3)
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*atoms.cell.array / 10)  # nm
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.85)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.75)
    for mass in atoms.get_masses():
        system.addParticle(mass)
        force.addParticle(0.0, 0.34, 0.997)  # e, nm, kJ/mol
    system.addForce(force)
    atoms.calc = OpenMMCalculator(system, platform="CPU", properties={"Threads": "1"})
    thermalize_momenta(atoms, 170, rng=np.random.default_rng(0))  # half of it melts the crystal
    dynamics = VelocityVerlet(atoms, 10 * units.fs)
    dynamics.run(500)
    write(output / "argon.pdb", atoms)
    with RolloutWriter(output / "reference.trr") as writer:
        for index in range(FRAMES):
            writer.write(atoms, time=0.05 * index)
            dynamics.run(5)


def main(output: Path, updates: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    run_argon(output)
    universe = load_universe(output / "argon.pdb", output / "reference.trr")
    # Of a solvated system a selection such as "protein" keeps what is to be learned. Both lags share one store.
    source = {"select": "element Ar", "store": output / "pairs.h5md"}
    pairs = TrajectoryPairs(universe, lag="50 fs", **source, time_reversal=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoiseFloorWarning)
        TrajectoryPairs(universe, lag="2 ps", **source)
    train, validation, held_out = pairs.split((0.8, 0.1, 0.1))
    network = PropagatorConfig(cutoff=5.0, hidden=32, layers=2)  # simple atoms, short range: a small network will do
    config = TrainingConfig(propagator=network, updates=updates, batch_size=4, validation_pairs=32)
    propagator = fit(train, validation, config, output / "argon.safetensors").propagator

    state, temperatures = held_out[0][0], []
    with RolloutWriter(output / "rollout.xtc") as writer:
        for jump in range(JUMPS + 1):
            writer.write(state, time=jump * propagator.timestep)
            temperatures.append(float((state.masses[:, None] * state.velocities**2).mean() / BOLTZMANN))
            state = propagator(state)
    rollout = load_universe(output / "argon.pdb", output / "rollout.xtc")

    print(f"\nwarnings at 2 ps: {'; '.join(str(one.message) for one in caught)}")
    print(f"\n{propagator.describe()}; {len(train)} training pairs, {updates} updates")
    print(error_table(one_step_errors(propagator, held_out)))
    print(f"temperature of the roll-out: {temperatures[0]:.0f} K, after {JUMPS} jumps {temperatures[-1]:.0f} K")
    for name, atoms in (("reference", universe.atoms), ("roll-out", rollout.atoms)):
        rdf = InterRDF(atoms, atoms, nbins=60, range=(2.5, 8.0), exclusion_block=(1, 1)).run().results
        peak = rdf.rdf.argmax()
        print(f"radial distribution, {name}: first peak {rdf.rdf[peak]:.2f} at {rdf.bins[peak]:.2f} Å")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--updates", type=int, default=300, help="length of the training")
    main(**vars(parser.parse_args()))
