"""Alanine dipeptide as users have it: a PDB file of OpenMM, and a DCD trajectory without velocities."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from openmm import LangevinMiddleIntegrator, Platform, app, unit


def write_topology(path: Path) -> app.PDBFile:
    """The structure that comes with the package, as OpenMM writes it: bonds of unusual residues only."""
    with files("fastegnn_md").joinpath("assets", "ala2.pdb").open(encoding="utf-8") as file:
        pdb = app.PDBFile(file)
    with open(path, "w", encoding="utf-8") as written:
        app.PDBFile.writeFile(pdb.topology, pdb.positions, written)
    return pdb


def write_trajectory(topology: Path, trajectory: Path, frames: int) -> None:
    """Both files: amber14 in vacuum, bonds to hydrogen constrained, 300 K, a frame every 50 fs."""
    pdb = write_topology(topology)
    system = app.ForceField("amber14-all.xml").createSystem(
        pdb.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, removeCMMotion=False
    )
    integrator = LangevinMiddleIntegrator(300 * unit.kelvin, 10 / unit.picosecond, 0.002 * unit.picoseconds)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator, Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    simulation.step(500)
    simulation.reporters.append(app.DCDReporter(str(trajectory), 25))
    simulation.step(25 * frames)
    simulation.reporters.clear()  # closes the file
