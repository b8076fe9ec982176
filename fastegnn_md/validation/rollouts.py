"""Learned roll-outs for a validation: trajectories with velocities, and what was recorded while they were made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import MDAnalysis as mda
import numpy as np

from .._extras import naming_extras
from .._progress import progress_bar
from ..data.topology import quiet
from ..engines.mdanalysis import RolloutWriter
from ..errors import ConfigError, JumpError
from .run import Run

if TYPE_CHECKING:
    from ase import Atoms
    from MDAnalysis import AtomGroup

    from ..integrators import JumpStatistics, LearnedDynamics
    from ..propagator.learned_map import LearnedMap


@dataclass(frozen=True, eq=False)
class Record:
    """One roll-out.

    Attributes
    ----------
    run : Run
        Its trajectory.
    statistics : JumpStatistics
    seconds : float
        Spent on jumps after the first, which may have to be compiled; forces included, files not.
    times : ndarray, shape (n_frames,), ps
    potential, kinetic : ndarray, shape (n_frames,), kJ/mol
        NaN without a calculator.
    stopped : str
        Why it ended early; empty if it did not.
    """

    run: Run
    statistics: JumpStatistics
    seconds: float
    times: np.ndarray
    potential: np.ndarray
    kinetic: np.ndarray
    stopped: str = ""


@dataclass(frozen=True, eq=False)
class RollOuts:
    """All roll-outs of a validation.

    Attributes
    ----------
    records : list of Record
        With the thermostat, or without one where no temperature is given.
    nve : Record, optional
        At constant energy, with a calculator.
    second : Record, optional
        At ``second_temperature``.
    second_temperature : float, optional
        K.
    conserve_energy : bool
        Whether velocities were scaled to conserve the energy.
    """

    records: list[Record]
    nve: Record | None = None
    second: Record | None = None
    second_temperature: float | None = None
    conserve_energy: bool = False

    @property
    def everything(self) -> list[Record]:
        """Every roll-out there is."""
        return [*self.records, *(one for one in (self.nve, self.second) if one is not None)]


def rollout_names(runs: int, second_temperature: float | None) -> list[str]:
    """Names, without their suffix, of all trajectories that :func:`roll_out` may write."""
    second = [] if second_temperature is None else [f"learned-{second_temperature:g}K"]
    return [*(f"learned-{k}" for k in range(runs)), "learned-nve", *second]


def roll_out(
    propagator: LearnedMap,
    starts: Sequence[Atoms],
    folder: str | Path,
    *,
    group: AtomGroup,
    steps: int,
    every: int = 1,
    temperature: float | None = None,
    friction: float | None = None,
    bonds: np.ndarray | None = None,
    conserve_energy: bool = False,
    nve_steps: int = 0,
    second_temperature: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RollOuts:
    """Make guarded roll-outs and save them as TRR files, which carry velocities.

    Parameters
    ----------
    propagator : LearnedMap
    starts : sequence of ase.Atoms
        One roll-out each: with velocities, constraints and, where there is one, a calculator. Advanced.
    folder : path
        Where ``learned-0.trr``, … are written; made if it is missing.
    group : AtomGroup
        The atoms with their names and bonds, for the topology.
    steps, every : int
        Jumps of a roll-out, and every how many of them a frame is written.
    temperature : float, optional
        K, of the Langevin thermostat; None is NVE.
    friction : float, optional
        1/ps.
    bonds : ndarray of int, shape (M, 2), optional
    conserve_energy : bool
        As in :class:`~fastegnn_md.integrators.LearnedDynamics`; it needs a calculator.
    nve_steps : int
        Jumps of one more roll-out at constant energy, from the first start; it needs a calculator.
    second_temperature : float, optional
        K, of one more roll-out as long as the others.
    seed : int
    progress : bool
        Show progress bars.

    Raises
    ------
    ConfigError
        If an option cannot be satisfied.
    MissingDependencyError
        If ASE is not installed.
    """
    with naming_extras("a roll-out"):
        from ..engines.ase.stepper import PICOSECOND
        from ..integrators import Conserve, GuardSettings, LearnedDynamics

    if second_temperature is not None and (temperature is None or second_temperature == temperature):
        raise ConfigError("a second temperature needs a thermostat at another one")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first, velocities = starts[0].copy(), starts[0].get_velocities()
    seeds = iter(np.random.SeedSequence(seed).spawn(len(starts) + 2))

    rate = friction / PICOSECOND if friction is not None and propagator.predicts_velocities else None

    def run(atoms: Atoms, name: str, jumps: int, kelvin: float | None) -> Record:
        dynamics = LearnedDynamics(
            atoms,
            propagator,
            temperature_K=kelvin,
            friction=None if kelvin is None else rate,
            rng=np.random.default_rng(next(seeds)),
            bonds=bonds,
            guard=GuardSettings(audits=0.0),  # rows judge the jumps; classical steps in their place would not
            conserve=Conserve(energy=conserve_energy),
        )
        return _one(dynamics, folder / f"{name}.trr", group, jumps, every, progress)

    def again(scale: float) -> Atoms:
        atoms = first.copy()
        atoms.calc = starts[0].calc
        atoms.set_velocities(scale * velocities)
        return atoms

    records = [run(atoms, f"learned-{k}", steps, temperature) for k, atoms in enumerate(starts)]
    nve = second = None
    if nve_steps and starts[0].calc is not None and propagator.predicts_velocities:
        nve = run(again(1.0), "learned-nve", nve_steps, None)
    if second_temperature is not None and temperature is not None:
        scale = (second_temperature / temperature) ** 0.5
        second = run(again(scale), f"learned-{second_temperature:g}K", steps, second_temperature)
    return RollOuts(records, nve, second, second_temperature, conserve_energy)


def _one(dynamics: LearnedDynamics, path: Path, group: AtomGroup, steps: int, every: int, progress: bool) -> Record:
    from ase import units

    from ..engines.ase.calculated import energy_of

    atoms, propagator = dynamics.atoms, dynamics.propagator
    unit = units.kJ / units.mol
    seconds, stopped = 0.0, ""
    times, potential, kinetic = [], [], []
    with RolloutWriter(path, group) as writer:
        for step in progress_bar(range(steps + 1), desc=path.stem, unit="jump", disable=not progress):
            begun = time.perf_counter()
            if step:
                try:
                    dynamics.run(1)
                except JumpError as error:
                    stopped = str(error)
                    break
            seconds += time.perf_counter() - begun if step > 1 else 0.0
            if step % every:
                continue
            begun = time.perf_counter()
            potential.append(np.nan if atoms.calc is None else energy_of(atoms) / unit)
            if propagator.wants_forces == "start":  # the same call gives the forces of the next jump
                dynamics.jump.forces()
                seconds += time.perf_counter() - begun
            kinetic.append(atoms.get_kinetic_energy() / unit)
            times.append(step * propagator.timestep)
            writer.write(atoms, time=times[-1])
    with quiet():
        universe = mda.Merge(group)
        universe.load_new(str(path))
    run = Run.whole(universe.atoms)
    return Record(run, dynamics.statistics, seconds, np.array(times), np.array(potential), np.array(kinetic), stopped)
