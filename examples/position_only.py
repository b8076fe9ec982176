"""Position-only propagators: the setting of the FastEGNN papers, from a saved trajectory without velocities.

    python examples/position_only.py

Frames a picosecond apart tell nothing about velocities, so the propagator predicts positions and velocities are
redrawn at a temperature. The trajectory is adenylate kinase (PSF/DCD of the package MDAnalysisTests, 855 atoms of the
backbone), or without that package alanine dipeptide, simulated here with OpenMM.

Without velocities the three baselines are one number, and it is hard to beat: most of a picosecond's motion is random.
The 98 frames of this trajectory teach next to nothing, learned and zero motion come out alike. For a real run:
thousands of frames of one molecule at equilibrium, hidden=64, layers=4, and --updates 20000.
"""

import argparse
import shutil
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import MDAnalysis as mda
import torch
from MDAnalysis.analysis.rms import rmsd

from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.engines.mdanalysis import RolloutWriter
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors

TEMPERATURE = 300  # K
JUMPS = 5


def adenylate_kinase(output: Path) -> tuple[mda.Universe, str]:
    from MDAnalysisTests.datafiles import DCD, PSF

    return load_universe(PSF, DCD), "backbone"


def alanine_dipeptide(output: Path) -> tuple[mda.Universe, str]:
    from openmm import LangevinMiddleIntegrator, Platform, app

    shutil.copy(str(files("fastegnn_md") / "assets" / "ala2.pdb"), output / "ala2.pdb")
    pdb = app.PDBFile(str(output / "ala2.pdb"))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=app.HBonds)
    integrator = LangevinMiddleIntegrator(TEMPERATURE, 10.0, 0.002)  # K, 1/ps, ps
    integrator.setRandomNumberSeed(1)
    platform = Platform.getPlatformByName("Reference")  # the fastest for 22 atoms
    simulation = app.Simulation(pdb.topology, system, integrator, platform)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.reporters.append(app.DCDReporter(str(output / "ala2.dcd"), 500))
    simulation.step(150 * 500)
    simulation.reporters.clear()  # closes the file
    return load_universe(output / "ala2.pdb", output / "ala2.dcd"), "not element H"


def main(output: Path, updates: int, system: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    universe, select = {"adk": adenylate_kinase, "ala2": alanine_dipeptide}[system](output)
    store = output / f"{system}.h5md"
    pairs = TrajectoryPairs(universe, lag="1 ps", select=select, velocities="none", store=store)
    train, validation, held_out = pairs.split((0.8, 0.1, 0.1))

    # Cutoff, edge dropping and the MMD of the virtual nodes are those published for proteins; the network is smaller.
    network = PropagatorConfig(kind="position", cutoff=10.0, edge_dropping=0.5, hidden=32, layers=2)
    config = TrainingConfig(
        propagator=network, updates=updates, batch_size=1, learning_rate=2e-3, mmd_weight=0.5, mmd_sigma=1.0
    )
    propagator = fit(train, validation, config, output / f"{system}.safetensors").propagator

    # Positions jump, velocities are drawn; Schedule(relax_steps=…) adds classical steps where there are forces.
    generator = torch.Generator().manual_seed(0)
    start = state = held_out[0][0]
    atoms = universe.select_atoms(select)
    with RolloutWriter(output / f"{system}-rollout.dcd", atoms) as writer:
        writer.write(start, time=0.0)
        for jump in range(1, JUMPS + 1):
            state = propagator(state, generator=generator, temperature=TEMPERATURE)
            writer.write(state, time=jump * propagator.timestep)
    moved = rmsd(start.positions.numpy(), state.positions.numpy(), center=True, superposition=True)

    print(f"\n{propagator.describe()}; {len(train)} training pairs of {pairs.n_atoms} atoms, {updates} updates")
    print(error_table(one_step_errors(propagator, held_out)))
    print(f"{JUMPS} jumps changed the shape by an RMSD of {moved:.3f} Å")
    print(f"made in {output}: {', '.join(path.name for path in sorted(output.glob('[!.]*')))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(Path(__file__).stem), help="folder for all files")
    parser.add_argument("--updates", type=int, default=40, help="length of the training")
    default = "adk" if find_spec("MDAnalysisTests") else "ala2"
    parser.add_argument("--system", choices=["adk", "ala2"], default=default, help="trajectory to learn from")
    main(**vars(parser.parse_args()))
