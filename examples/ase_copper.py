"""Copper with ASE: learn steps of 20 fs from a short run, and continue the run with them.

    python examples/ase_copper.py

A .traj file of Langevin dynamics gives starting points, short bursts with the same calculator give training pairs, and
the trained propagator moves the Atoms 20 fs at a time with one calculator call per step. Steps unlike the training data
are refused, and classical ones take their place.

The sizes suit a demonstration of seconds. For a real run: your own calculator, a cell at least twice as wide, a
thousand frames a picosecond apart, and --updates 3000.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixCom
from ase.io import Trajectory, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.engines.mdanalysis import RolloutWriter
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import LearnedDynamics, Schedule
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors

THERMOSTAT = {"temperature_K": 600, "friction": 0.01 / units.fs}
FRAMES, JUMPS = 40, 100


def main(output: Path, updates: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.set_constraint(FixCom())
    atoms.calc = EMT()
    thermalize_momenta(atoms, THERMOSTAT["temperature_K"], rng=rng)
    classical = Langevin(atoms, 5 * units.fs, **THERMOSTAT, fixcm=False, rng=rng)
    classical.run(100)
    with Trajectory(output / "classical.traj", "w", atoms) as trajectory:
        classical.attach(trajectory.write, interval=10)
        classical.run(10 * FRAMES)

    # MDAnalysis does not read .traj; a TRR file holds positions, velocities and cell as well, a PDB file the elements.
    write(output / "copper.pdb", atoms)
    with RolloutWriter(output / "classical.trr") as writer, Trajectory(output / "classical.traj") as frames:
        energies = {"classical": [frame.get_potential_energy() for frame in frames], "learned": []}
        for index, frame in enumerate(frames):
            writer.write(frame, time=0.05 * index)
    universe = load_universe(output / "copper.pdb", output / "classical.trr")
    burst = {"burst": "60 fs", "interval": "20 fs", "timestep": "5 fs", "midpoint": "20 fs"}
    harvest(universe, EMT, store=output / "bursts.h5md", **burst)
    pairs = TrajectoryPairs(output / "bursts.h5md", lag="20 fs", time_reversal=True)
    train, validation, held_out = pairs.split((0.8, 0.1, 0.1))

    config = TrainingConfig(propagator=PropagatorConfig(kind="force-midpoint"), updates=updates, batch_size=8)
    fit(train, validation, config, output / "copper.safetensors")
    propagator = Propagator.load(output / "copper.safetensors")

    def observe() -> None:
        energies["learned"].append(atoms.get_potential_energy())

    # The second half continues from the restart file, as after a kill.
    files = {"trajectory": output / "learned.traj", "logfile": output / "learned.log"}
    options = THERMOSTAT | {"rng": 1, "schedule": Schedule(classical="5 fs")}
    restart = output / "learned.restart"
    with LearnedDynamics(atoms, propagator, **options, **files, loginterval=5, restart_file=restart) as dynamics:
        dynamics.log_energy = True
        dynamics.attach(observe, interval=5)
        dynamics.run(JUMPS // 2)
    with LearnedDynamics.restart(restart, atoms, propagator, **files) as dynamics:
        dynamics.attach(observe, interval=5)
        dynamics.run(JUMPS // 2)

    print(f"\n{propagator.describe()}; {len(train)} training pairs, {updates} updates")
    print(error_table(one_step_errors(propagator, held_out)))
    for name, values in energies.items():
        print(f"potential energy, {name}: {np.mean(values):.2f} ± {np.std(values):.2f} eV")
    print(f"{dynamics.nsteps} learned steps: {dynamics.statistics}")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--updates", type=int, default=100, help="length of the training")
    main(**vars(parser.parse_args()))
