"""Replicas of a molecule in OpenMM, jumping picoseconds at a time in one call of the network.

    python examples/openmm_replicas.py
    python examples/openmm_replicas.py --model flow.safetensors --structure md.pdb --replicas 64 --jumps 1000

Without a model one of kind "flow" is trained first, on a trajectory without velocities of alanine dipeptide: far too
short a one, so that many draws are refused and classical steps take their place. docs/generative.md says what a model
for use needs.
"""

import argparse
from importlib.resources import files
from pathlib import Path

from openmm import LangevinMiddleIntegrator, Platform, app

import fastegnn_md
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation, Schedule, SimulationEnsemble
from fastegnn_md.training import TrainingConfig, fit

TEMPERATURE = 300  # K
FIELD = ("amber99sbildn.xml", "amber99_obc.xml")
PLATFORM = Platform.getPlatformByName("Reference")  # the fastest for 22 atoms
ALA2 = files("fastegnn_md") / "assets" / "ala2.pdb"


def trained(pdb: app.PDBFile, system, output: Path, updates: int) -> Path:
    """A model of jumps of 1 ps, from 300 frames."""
    integrator = LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.002)  # K, 1/ps, ps
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator, PLATFORM)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.reporters.append(app.DCDReporter(str(output / "classical.dcd"), 500))
    simulation.step(300 * 500)
    simulation.reporters.clear()  # closes the file
    run = load_universe(str(ALA2), output / "classical.dcd")
    run.add_TopologyAttr("bonds", [(a.index, b.index) for a, b in pdb.topology.bonds()])  # the file leaves them out
    pairs = TrajectoryPairs([run], lag="1 ps", velocities="none", isolated=True)
    train, validation, _ = pairs.split((0.8, 0.1, 0.1))
    config = TrainingConfig(propagator={"kind": "flow", "hidden": 16}, time_reversal=False, updates=updates)
    fit(train, validation, config, output / "flow.safetensors")
    return output / "flow.safetensors"


def main(output: Path, model: Path | None, structure: Path, replicas: int, jumps: int, updates: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    pdb = app.PDBFile(str(structure))
    system = app.ForceField(*FIELD).createSystem(pdb.topology, constraints=app.HBonds, removeCMMotion=False)
    propagator = fastegnn_md.load(model or trained(pdb, system, output, updates))

    simulations = []
    for seed in range(replicas):
        integrator = LearnedIntegrator(
            propagator, temperature=TEMPERATURE, seed=seed, schedule=Schedule(classical="2 fs")
        )
        simulation = LearnedSimulation(pdb.topology, system, integrator, PLATFORM)
        simulation.context.setPositions(pdb.positions)
        simulation.reporters.append(app.DCDReporter(str(output / f"replica-{seed:02d}.dcd"), 1))
        simulations.append(simulation)
    SimulationEnsemble(simulations).step(jumps)

    for seed, simulation in enumerate(simulations):
        simulation.reporters.clear()
        print(f"replica {seed}, {simulation.context.getTime()}: {simulation.integrator.statistics}")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--model", type=Path, help="of kind flow; default: one is trained")
    parser.add_argument("--structure", type=Path, default=ALA2, help="a PDB file of the molecule it was trained on")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--jumps", type=int, default=20, help="of each replica")
    parser.add_argument("--updates", type=int, default=100, help="length of the training")
    main(**vars(parser.parse_args()))
