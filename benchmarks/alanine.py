"""Alanine dipeptide in vacuum, amber14, bonds to hydrogen constrained: classical runs, and jumps from ASE."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
from ase import Atoms, units
from openmm import LangevinMiddleIntegrator, LocalEnergyMinimizer, Platform, System, unit
from openmm import app as openmm_app
from tqdm import tqdm

from fastegnn_md import Propagator, State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.engines.ase.stepper import state_from_atoms
from fastegnn_md.engines.mdanalysis import RolloutWriter
from fastegnn_md.engines.openmm import OpenMMCalculator
from fastegnn_md.integrators import Conserve, GuardSettings, JumpStatistics, LearnedDynamics
from fastegnn_md.mechanics.thermal import temperature_per_element


@dataclass(frozen=True)
class Settings:
    """Sizes; times in ps, temperature in K, friction in 1/ps."""

    updates: int = 1500
    batch_size: int = 32
    jumps: int = 1000
    seed: int = 0
    temperature: float = 300.0
    friction: float = 10.0
    classical_step: float = 0.002
    equilibration: int = 5000
    frame_every: int = 25
    frames: int = 6000
    lag: str = "8 fs"
    burst: str = "32 fs"
    pairs_per_burst: int = 4
    split: tuple[float, float, float] = (0.9, 0.03, 0.07)


@dataclass
class LearnedRun:
    """A run of learned dynamics.

    Attributes
    ----------
    energy : ndarray, shape (jumps + 1,), kJ/mol
        Potential energy.
    temperature, reference_temperature : dict of str to float
        2 K / 3 N k_B of each element, not corrected for constraints, in K; of the run, and of Maxwell-Boltzmann
        velocities on the constraints.
    statistics : JumpStatistics
    ms_per_jump : float
        Everything included.
    """

    energy: np.ndarray
    temperature: dict[str, float]
    reference_temperature: dict[str, float]
    statistics: JumpStatistics
    ms_per_jump: float


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

    def write_reference(self, path: Path, settings: Settings, *, progress: bool) -> np.ndarray:
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
        for frame in tqdm(range(settings.frames), desc="reference", disable=not progress):
            simulation.step(settings.frame_every)
            energies[frame] = simulation.context.getState(energy=True).getPotentialEnergy()._value
        simulation.reporters.clear()  # closes the file
        return energies

    def atoms(self, start: State) -> Atoms:
        """ASE Atoms at a state, with calculator and the constraints of the force field."""
        calculator = OpenMMCalculator(self.system, topology=self.topology, platform=self.platform)
        atoms = Atoms(numbers=start.numbers.numpy(), positions=start.positions.double().numpy())
        atoms.set_masses(start.masses.double().numpy())
        atoms.set_velocities(start.velocities.double().numpy() / (1000 * units.fs))
        atoms.calc = calculator
        atoms.set_constraint(calculator.bond_constraints())
        return atoms

    def _langevin(self, settings: Settings) -> LangevinMiddleIntegrator:
        integrator = LangevinMiddleIntegrator(
            settings.temperature * unit.kelvin,
            settings.friction / unit.picosecond,
            settings.classical_step * unit.picoseconds,
        )
        integrator.setRandomNumberSeed(settings.seed + 1)  # zero means a random seed to OpenMM
        return integrator


def learned_run(
    system: AlanineDipeptide,
    propagator: Propagator,
    held_out: TrajectoryPairs,
    trajectory: Path,
    settings: Settings,
    *,
    progress: bool,
    conserve_energy: bool = False,
) -> LearnedRun:
    """Step ASE Atoms from a held-out frame under Langevin half steps."""
    atoms = system.atoms(held_out[0][0])
    dynamics = LearnedDynamics(
        atoms,
        propagator,
        temperature_K=settings.temperature,
        friction=settings.friction / (1000 * units.fs),
        rng=settings.seed,
        bonds=system.bonds,
        guard=GuardSettings(audits=0.0),  # a model of minutes fails them; its energies are in the results
        conserve=Conserve(energy=conserve_energy),
    )
    energies, kinetic = [], []
    begun = time.perf_counter()
    with RolloutWriter(trajectory) as writer:
        for _ in tqdm(dynamics.irun(settings.jumps), total=settings.jumps + 1, desc="jumps", disable=not progress):
            energies.append(atoms.get_potential_energy() / (units.kJ / units.mol))
            state = state_from_atoms(atoms, bonds=system.bonds)
            kinetic.append(kinetic_per_atom(state))
            writer.write(state, time=dynamics.nsteps * propagator.timestep)
    seconds = time.perf_counter() - begun
    symbols = np.array(atoms.get_chemical_symbols())
    # Each burst starts from velocities drawn at the temperature of the reference, on the constraints.
    starts = range(0, held_out.n_forward, settings.pairs_per_burst)
    drawn = np.mean([kinetic_per_atom(held_out[index][0]) for index in starts], axis=0)
    return LearnedRun(
        energy=np.array(energies),
        temperature=temperature_per_element(np.mean(kinetic, axis=0), symbols),
        reference_temperature=temperature_per_element(drawn, symbols),
        statistics=dynamics.statistics,
        ms_per_jump=1e3 * seconds / settings.jumps,
    )


def kinetic_per_atom(state: State) -> np.ndarray:
    """½ m v² of each atom, shape (N,), amu Å²/ps²."""
    return (0.5 * state.masses * state.velocities.square().sum(1)).numpy()
