"""Hybrid molecular dynamics with OpenMM: classical Langevin steps and learned jumps in turn.

    python examples/openmm_hybrid.py                                # trains a propagator for seconds first
    python examples/openmm_hybrid.py --model propagator.safetensors # or take one that was trained for longer

The script is an ordinary OpenMM script: a topology, a System, an integrator, a simulation, reporters, a checkpoint. The
integrator holds the classical one and the propagator; jumps that leave the range of the training are refused, and
classical steps take their place. What happened to them stands in jumps.csv.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
from openmm import LangevinMiddleIntegrator, Platform, app, unit

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import GuardSettings, LearnedIntegrator, LearnedSimulation, LearnedStateReporter, Schedule
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors

TEMPERATURE = 300 * unit.kelvin
FRICTION = 10 / unit.picosecond


def langevin(timestep: unit.Quantity) -> LangevinMiddleIntegrator:
    integrator = LangevinMiddleIntegrator(TEMPERATURE, FRICTION, timestep)
    integrator.setRandomNumberSeed(1)
    return integrator


def train(structure: str, pdb: app.PDBFile, system, output: Path, updates: int) -> Propagator:
    """A propagator of 8 fs from a classical trajectory; far too short a training for production."""
    simulation = app.Simulation(
        pdb.topology, system, langevin(2 * unit.femtoseconds), Platform.getPlatformByName("Reference")
    )
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, 1)
    simulation.step(2000)
    simulation.reporters.append(app.DCDReporter(str(output / "classical.dcd"), 100))
    simulation.step(300 * 100)
    simulation.reporters.clear()  # closes the file
    harvest(
        load_universe(structure, output / "classical.dcd"),
        system,
        store=output / "bursts.h5md",
        burst="32 fs",
        interval="8 fs",
        midpoint="8 fs",
        temperature=TEMPERATURE.value_in_unit(unit.kelvin),
    )
    pairs = TrajectoryPairs(output / "bursts.h5md", lag="8 fs", time_reversal=True)
    training, validation, held_out = pairs.split((0.8, 0.1, 0.1))
    config = TrainingConfig(propagator=PropagatorConfig(kind="force-midpoint"), updates=updates, batch_size=8)
    propagator = fit(training, validation, config, output / "propagator.safetensors").propagator
    print(f"\n{error_table(one_step_errors(propagator, held_out))}")
    return propagator


def main(output: Path, model: Path | None, updates: int, steps: int, platform: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    structure = str(files("fastegnn_md") / "assets" / "ala2.pdb")
    pdb = app.PDBFile(structure)
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=app.HBonds)
    propagator = train(structure, pdb, system, output, updates) if model is None else Propagator.load(model)

    # Ten classical steps of 1 fs, then a jump of 8 fs.
    # A model of minutes fails audits: with a better one leave guard out.
    schedule = Schedule(10, 1, classical=langevin(1 * unit.femtoseconds))
    integrator = LearnedIntegrator(propagator, schedule=schedule, guard=GuardSettings(audits=0), seed=1)
    simulation = LearnedSimulation(pdb.topology, system, integrator, Platform.getPlatformByName(platform))
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, 2)

    simulation.reporters.append(app.XTCReporter(str(output / "hybrid.xtc"), 11))
    simulation.reporters.append(
        app.StateDataReporter(
            str(output / "state.csv"), 11, step=True, time=True, potentialEnergy=True, temperature=True
        )
    )
    simulation.reporters.append(LearnedStateReporter(output / "jumps.csv", 110))
    simulation.reporters.append(app.CheckpointReporter(str(output / "hybrid.chk"), 110))
    simulation.step(steps)

    state = np.loadtxt(output / "state.csv", delimiter=",")
    statistics = integrator.statistics
    print(f"\n{propagator.describe()}")
    print(f"{simulation.currentStep} steps, {simulation.context.getTime().value_in_unit(unit.picosecond):.3f} ps")
    print(f"mean temperature of the second half: {state[len(state) // 2 :, 3].mean():.0f} K, thermostat {TEMPERATURE}")
    print(f"jumps: {statistics.tried} tried, {statistics.accepted} accepted, refused {statistics.rejected}")
    jump = 1e3 * integrator.jump_seconds / statistics.tried
    classical = 1e3 * integrator.classical_seconds / integrator.classical_steps_taken
    print(f"{jump:.2f} ms per jump, {classical:.3f} ms per classical step: a jump costs {jump / classical:.0f} of them")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--model", type=Path, help="a propagator of alanine dipeptide in vacuum")
    parser.add_argument("--updates", type=int, default=150, help="length of the training")
    parser.add_argument("--steps", type=int, default=2200, help="hybrid steps")
    parser.add_argument("--platform", default="Reference", help="of OpenMM")
    main(**vars(parser.parse_args()))
