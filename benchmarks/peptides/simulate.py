"""Classical trajectories of a peptide in implicit solvent, 1 ps between frames: the data of the generative benchmark.

    python benchmarks/peptides/simulate.py FOLDER --peptide ala2 --replica 0 --ns 60

Langevin dynamics at 1/ps with the steps of 4 fs that OpenMM's examples take with constrained bonds to
hydrogen. A trajectory is a folder of parts of 5 ns. A command given again continues where a part was finished.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import openmm
from molecules import peptide
from openmm import unit
from openmm.app import DCDReporter, Simulation
from tqdm import tqdm

STEP = 0.004  # ps
PART = 5000  # ps
EQUILIBRATION = 200  # ps


def simulate(folder: Path, name: str, replica: int, nanoseconds: float, kelvin: int) -> None:
    """Write the parts of one trajectory that are missing."""
    molecule = peptide(name)
    system = folder / (name if kelvin == 300 else f"{name}-{kelvin}K")
    run = system / f"run-{replica:02d}"
    run.mkdir(parents=True, exist_ok=True)
    molecule.write(system / "topology.pdb")
    integrator = openmm.LangevinMiddleIntegrator(kelvin * unit.kelvin, 1 / unit.picosecond, STEP * unit.picoseconds)
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = Simulation(molecule.topology, molecule.system(), integrator, platform)
    for part in tqdm(range(int(1000 * nanoseconds // PART)), desc=str(run)):
        frames, end = run / f"{part:03d}.dcd", run / f"{part:03d}.xml"
        if end.exists():
            continue
        # Each part has a seed of its own, so that a continued trajectory is the one that was never interrupted.
        integrator.setRandomNumberSeed(1 + 1000 * replica + part)
        simulation.context.reinitialize()
        if part:
            simulation.loadState(str(run / f"{part - 1:03d}.xml"))
        else:
            simulation.context.setPositions(molecule.positions)
            simulation.minimizeEnergy()
            simulation.context.setVelocitiesToTemperature(kelvin, 1 + 1000 * replica)
            simulation.step(round(EQUILIBRATION / STEP))
        unfinished = frames.with_suffix(".part.dcd")
        simulation.reporters = [DCDReporter(str(unfinished), round(1 / STEP))]
        simulation.step(round(PART / STEP))
        simulation.reporters.clear()  # closes the file
        unfinished.replace(frames)
        simulation.saveState(str(end))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peptide", default="ala2", help="ala2, or ala3 and so on")
    parser.add_argument("--replica", type=int, default=0)
    parser.add_argument("--ns", type=int, default=60)
    parser.add_argument("--kelvin", type=int, default=300)
    arguments = parser.parse_args()
    simulate(arguments.folder, arguments.peptide, arguments.replica, arguments.ns, arguments.kelvin)
