"""Alanine dipeptide with OpenMM: one OpenMM System makes the training data and drives the learned run in ASE.

    python examples/openmm_ala2.py

Frames of a classical trajectory (DCD, no velocities) start short bursts of the same System at constant energy; a
propagator that sees the force half a step ahead learns steps of 8 fs from them; ASE Atoms with OpenMM forces and the
fixed bonds of the System are stepped under a Langevin thermostat, guarded.

The sizes suit a demonstration of seconds. After so short a training jumps damp the motion: at a friction of 50/ps the
molecule is 45 K too cold, at 10/ps 126 K. For a real run: 6000 frames, --processes for all your cores, --updates 6000,
then a lower friction as long as the temperature of each element stays right.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
from ase import units
from ase.io import read
from openmm import LangevinMiddleIntegrator, Platform, app

from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.engines.ase import update_atoms
from fastegnn_md.engines.openmm import OpenMMCalculator
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import GuardSettings, LearnedDynamics
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors

TEMPERATURE = 300  # K
FRAMES, JUMPS = 300, 200


def main(output: Path, updates: int, processes: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    structure = str(files("fastegnn_md") / "assets" / "ala2.pdb")
    pdb = app.PDBFile(structure)
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=app.HBonds)
    platform = Platform.getPlatformByName("Reference")  # the fastest for 22 atoms

    integrator = LangevinMiddleIntegrator(TEMPERATURE, 10.0, 0.002)  # K, 1/ps, ps
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator, platform)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, 1)
    simulation.step(2000)
    simulation.reporters.append(app.DCDReporter(str(output / "classical.dcd"), 100))
    energies = {"classical": [], "learned": []}
    for _ in range(FRAMES):
        simulation.step(100)
        energies["classical"].append(simulation.context.getState(energy=True).getPotentialEnergy()._value)
    simulation.reporters.clear()  # closes the file

    universe = load_universe(structure, output / "classical.dcd")
    burst = {"burst": "32 fs", "interval": "8 fs", "midpoint": "8 fs", "temperature": TEMPERATURE}
    harvest(universe, system, store=output / "bursts.h5md", **burst, processes=processes)
    pairs = TrajectoryPairs(output / "bursts.h5md", lag="8 fs", time_reversal=True)
    train, validation, held_out = pairs.split((0.8, 0.1, 0.1))
    config = TrainingConfig(propagator=PropagatorConfig(kind="force-midpoint"), updates=updates, batch_size=8)
    propagator = fit(train, validation, config, output / "ala2.safetensors").propagator

    atoms = read(structure)
    atoms.calc = OpenMMCalculator(system, topology=pdb.topology, platform=platform)
    atoms.set_masses(atoms.calc.masses)
    atoms.set_constraint(atoms.calc.bond_constraints())
    update_atoms(atoms, held_out[0][0])
    options = {"bonds": [(bond[0].index, bond[1].index) for bond in pdb.topology.bonds()], "rng": 1}
    options["guard"] = GuardSettings(audits=0)  # a model of minutes fails audits: leave this out with a better one
    options |= {"temperature_K": TEMPERATURE, "friction": 0.05 / units.fs, "trajectory": output / "learned.traj"}
    temperatures = []
    with LearnedDynamics(atoms, propagator, **options) as dynamics:
        for _ in dynamics.irun(JUMPS):
            energies["learned"].append(atoms.get_potential_energy() / (units.kJ / units.mol))
            temperatures.append(atoms.get_temperature())

    print(f"\n{propagator.describe()}; {len(train)} training pairs, {updates} updates")
    print(error_table(one_step_errors(propagator, held_out)))
    for name, values in energies.items():
        print(f"potential energy, {name}: {np.mean(values):.1f} ± {np.std(values):.1f} kJ/mol")
    print(f"temperature of the learned run: {np.mean(temperatures):.0f} K, thermostat {TEMPERATURE} K")
    print(f"{dynamics.nsteps} learned steps: {dynamics.statistics}")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":  # the processes of harvest import this file
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--updates", type=int, default=150, help="length of the training")
    parser.add_argument("--processes", type=int, default=1, help="processes that run bursts")
    main(**vars(parser.parse_args()))
