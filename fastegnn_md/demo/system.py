"""Alanine dipeptide in vacuum: what the demo simulates, classically and with jumps."""

from __future__ import annotations

import time
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from openmm import Context, LangevinMiddleIntegrator, LocalEnergyMinimizer, Platform, System, unit
from openmm import app as openmm_app

from .._progress import progress_bar
from ..engines.openmm import OpenMMCalculator
from ..state import State

if TYPE_CHECKING:
    from .records import DemoSettings


class AlanineDipeptide:
    """The molecule with amber14, bonds to hydrogen constrained; 22 atoms.

    Attributes
    ----------
    topology : openmm.app.Topology
    system : openmm.System
    bonds : ndarray of int, shape (21, 2)
    """

    def __init__(self) -> None:
        with files("fastegnn_md").joinpath("assets", "ala2.pdb").open(encoding="utf-8") as file:
            pdb = openmm_app.PDBFile(file)
        self.topology = pdb.topology
        self._start = pdb.positions
        self.system: System = openmm_app.ForceField("amber14-all.xml").createSystem(
            pdb.topology, nonbondedMethod=openmm_app.NoCutoff, constraints=openmm_app.HBonds, removeCMMotion=False
        )
        self.bonds = np.array([(bond[0].index, bond[1].index) for bond in pdb.topology.bonds()])

    @cached_property
    def platform(self) -> Platform:
        """The Reference platform, in double precision the fastest one for so few atoms."""
        return Platform.getPlatformByName("Reference")

    def write_topology(self, path: Path) -> None:
        """Write the PDB file that goes with the trajectories."""
        with open(path, "w", encoding="utf-8") as file:
            openmm_app.PDBFile.writeFile(self.topology, self._start, file)

    def write_reference(self, path: Path, settings: DemoSettings, *, progress: bool) -> np.ndarray:
        """Integrate classical Langevin dynamics and write a DCD trajectory without velocities, as people have them.

        Returns
        -------
        ndarray, shape (frames,), kJ/mol
            Potential energy of each frame.
        """
        integrator = self._langevin(settings)
        simulation = openmm_app.Simulation(self.topology, self.system, integrator, self.platform)
        simulation.context.setPositions(self._start)
        LocalEnergyMinimizer.minimize(simulation.context)
        simulation.context.setVelocitiesToTemperature(settings.temperature * unit.kelvin, settings.seed + 1)
        simulation.step(settings.equilibration)
        simulation.reporters.append(openmm_app.DCDReporter(str(path), settings.frame_every))
        energies = np.empty(settings.frames)
        for frame in progress_bar(range(settings.frames), desc="reference", disable=not progress):
            simulation.step(settings.frame_every)
            energies[frame] = simulation.context.getState(energy=True).getPotentialEnergy()._value
        simulation.reporters.clear()  # closes the file
        return energies

    def atoms(self, start: State) -> Atoms:
        """ASE Atoms at a state, with calculator and the constraints of the force field."""
        from ase import units

        calculator = OpenMMCalculator(self.system, topology=self.topology, platform=self.platform)
        atoms = Atoms(numbers=start.numbers.numpy(), positions=start.positions.double().numpy())
        atoms.set_masses(start.masses.double().numpy())
        atoms.set_velocities(start.velocities.double().numpy() / (1000 * units.fs))
        atoms.calc = calculator
        atoms.set_constraint(calculator.bond_constraints())
        return atoms

    def classical_ms(self, settings: DemoSettings, span: float) -> dict[str, float]:
        """Milliseconds that classical dynamics takes for a time span in ps, inside OpenMM and through ASE."""
        context = Context(self.system, self._langevin(settings), self.platform)
        context.setPositions(self._start)
        inside = _seconds(lambda steps: context.getIntegrator().step(steps), 2000)

        calculator = OpenMMCalculator(self.system, platform=self.platform)
        atoms = Atoms(numbers=[atom.element.atomic_number for atom in self.topology.atoms()])
        atoms.set_positions(np.array(self._start.value_in_unit(unit.angstrom)))
        atoms.calc = calculator

        def forces(calls: int) -> None:
            for _ in range(calls):
                atoms.positions += 1e-9  # a new geometry, or the calculator answers from its cache
                atoms.get_forces()

        steps = span / settings.classical_step
        return {"OpenMM": 1e3 * inside * steps, "one force call each through ASE": 1e3 * _seconds(forces, 500) * steps}

    def _langevin(self, settings: DemoSettings) -> LangevinMiddleIntegrator:
        integrator = LangevinMiddleIntegrator(
            settings.temperature * unit.kelvin,
            settings.friction / unit.picosecond,
            settings.classical_step * unit.picoseconds,
        )
        integrator.setRandomNumberSeed(settings.seed + 1)  # zero means a random seed to OpenMM
        return integrator


def _seconds(work: Any, count: int) -> float:
    """Seconds per item of ``work(count)``, after a warm-up."""
    work(count // 10)
    begun = time.perf_counter()
    work(count)
    return (time.perf_counter() - begun) / count
