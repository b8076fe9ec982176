"""ASE molecular dynamics of classical steps and learned jumps in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md._random import as_generator
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError

from ..guards import GuardSettings, JumpStatistics, guard_settings
from ..schedule import Schedule
from ..step import GuardedStep
from ..thermostats import LangevinHalfStep
from .base import JumpLogger
from .jump import AtomsJump

with naming_extras(__name__):
    from ase import Atoms, units
    from ase.md.contour_exploration import ContourExploration
    from ase.md.langevin import Langevin
    from ase.md.md import MolecularDynamics
    from ase.md.melchionna import MelchionnaNPT
    from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT

if TYPE_CHECKING:
    from fastegnn_md.propagator.committee import Committee
    from fastegnn_md.propagator.full import Propagator

# They go on from positions of their own, not from those of the atoms.
_DEAF = (ContourExploration, MelchionnaNPT, NoseHooverChainNVT, IsotropicMTKNPT, MTKNPT)


class HybridDynamics(MolecularDynamics):
    """Classical steps and learned jumps in turn, with the schedule and the guards of the OpenMM integrator.

    A jump is surrounded by half steps of a Langevin thermostat at the temperature and the friction of the classical
    dynamics, where that is ASE's Langevin. A jump that a guard refuses is never written to the atoms; what follows is
    the :class:`Schedule`'s business. Steps of both kinds count one, so time does not grow evenly with their number.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator.
    propagator : Propagator or Committee
    classical : ase.md.md.MolecularDynamics
        Of the same atoms; only its ``step`` is called, so its observers are not. Not a Nosé-Hoover chain, MTK or
        Melchionna barostat: they keep positions of their own.
    classical_steps, jumps : int
        Of a cycle; ``jumps=None`` jumps until a guard refuses. See :class:`Schedule`.
    temperature_K : float, optional
        Of the velocities a position-only propagator redraws and of the energy guard, where ``classical`` is no Langevin
        dynamics.
    rng : numpy.random.Generator or int, optional
        Of the thermostat around jumps. By default a seed is drawn, and kept as ``seed``.
    bonds : array of int, shape (M, 2), optional
    types : array of int, shape (N,), optional
        As in :class:`LearnedDynamics`.
    guard : bool or GuardSettings
        Hold jumps against the ranges of training. With False only values that are not finite are refused.
    relax_steps : int
        Velocity Verlet steps after each jump of a position-only propagator, as long as the classical ones. Not counted
        as time.
    minimize_steps : int
        Most steps of ASE's FIRE after each jump of a position-only propagator, before relaxation.
    conserve_momentum, conserve_angular_momentum : bool, optional
        As in :class:`LearnedDynamics`. There is no ``conserve_energy``: classical steps may change the energy.
    log_energy : bool
        Evaluate the calculator after jumps, so that logfile and trajectory hold energies; else those hold nan.
    trajectory, logfile, loginterval, append_trajectory
        As in every ASE dynamics.

    Attributes
    ----------
    statistics : JumpStatistics
    schedule : Schedule
    seed : int or None

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the system, or the classical step does not divide its time step.
    ConstraintError
        If the atoms have a constraint other than FixAtoms, FixCom and FixBondLengths.
    ConfigError
        If the classical dynamics is for other atoms or of a kind that cannot be interleaved, or an option is out of
        range.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: Propagator | Committee,
        classical: MolecularDynamics,
        classical_steps: int = 5,
        jumps: int | None = 1,
        *,
        temperature_K: float | None = None,
        rng: np.random.Generator | int | None = None,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
        types: Sequence[int] | np.ndarray | None = None,
        guard: bool | GuardSettings = True,
        relax_steps: int = 0,
        minimize_steps: int = 0,
        conserve_momentum: bool | None = None,
        conserve_angular_momentum: bool | None = None,
        log_energy: bool = False,
        trajectory: Any = None,
        logfile: IO | str | Path | None = None,
        loginterval: int = 1,
        append_trajectory: bool = False,
    ):
        _check_classical(classical, atoms)
        self.schedule = Schedule(classical_steps, jumps)
        self.classical, self.propagator, self.log_energy = classical, propagator, log_energy
        self._replacement = self.schedule.replacement_steps(propagator.timestep, classical.dt / PICOSECOND)
        thermostat = _thermostat(classical, propagator)
        if temperature_K is None and isinstance(classical, Langevin):
            temperature_K = classical.temp / units.kB
        if temperature_K is None and not propagator.predicts_velocities:
            raise ConfigError("this propagator predicts positions only and redraws velocities: give temperature_K")
        self.temperature_K = temperature_K
        guarded = GuardedStep(
            propagator,
            thermostat=thermostat,
            temperature=temperature_K,
            guard=guard_settings(guard),
            substep=classical.dt / PICOSECOND,
            relax_steps=relax_steps,
            minimize_steps=minimize_steps,
            momentum=conserve_momentum,
            angular_momentum=conserve_angular_momentum,
        )
        self.jump = AtomsJump(atoms, guarded, bonds, types)
        self.rng, self.seed = as_generator(rng)
        self._pending, self._time = 0, 0.0
        super().__init__(
            atoms,
            classical.dt,
            trajectory=trajectory,
            loginterval=loginterval,
            append_trajectory=append_trajectory,
        )
        if logfile:
            target = str(logfile) if isinstance(logfile, Path) else logfile
            self.attach(self.closelater(JumpLogger(self, self.atoms, target)), loginterval)

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far."""
        return self.jump.guarded.statistics

    def get_time(self) -> float:
        """Time simulated, in ASE time units."""
        return self._time

    def step(self) -> None:
        """One classical step, or one jump.

        Raises
        ------
        JumpError
            If the propagator fails or predicts what is not finite. Atoms and random numbers are as before the step.
        """
        if self.schedule.classical_steps_due(self.nsteps, self._pending):
            self._classical(1)
            self._pending = max(0, self._pending - 1)
            return
        drawn = self.rng.bit_generator.state
        try:
            report = self.jump.attempt(self.rng)
        except BaseException as error:
            self.rng.bit_generator.state = drawn
            if isinstance(error, JumpError):
                raise JumpError(f"step {self.nsteps + 1}: {error}", error.atom) from error
            raise
        self.statistics.record(report)
        if report.ok:
            self._time += self.propagator.timestep * PICOSECOND
        elif self.schedule.adaptive:
            self._pending = self.schedule.classical_steps
            self.step()
        else:
            self._classical(self._replacement)
            self.statistics.fallback_steps += self._replacement

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        return {
            **super().todict(),
            "classical": self.classical.todict(),
            "classical_steps": self.schedule.classical_steps,
            "jumps": self.schedule.jumps,
            "temperature_K": self.temperature_K,
            "seed": self.seed,
            "training-data": self.propagator.fingerprint,
        }

    def _classical(self, steps: int) -> None:
        for _ in range(steps):
            self.classical.step()  # type: ignore[attr-defined]  # ASE's base class does not declare it
        self._time += steps * self.classical.dt

    def logged_energy(self) -> float:
        """Potential energy for a line of the log, eV; nan if nobody asked for it."""
        return self.atoms.get_potential_energy() if self.log_energy else float("nan")

    def _refresh_properties(self) -> None:
        # The base class would call the calculator after every step, whoever needs the result.
        if self.log_energy:
            self.atoms.get_potential_energy()


def _check_classical(classical: MolecularDynamics, atoms: Atoms) -> None:
    if not isinstance(classical, MolecularDynamics):
        raise ConfigError(f"classical is a {type(classical).__name__}; expected one of ASE's molecular dynamics")
    if isinstance(classical, _DEAF):
        raise ConfigError(
            f"{type(classical).__name__} goes on from positions of its own and would undo each jump; use "
            "VelocityVerlet, Langevin, Andersen, Bussi or a Berendsen dynamics"
        )
    if classical.atoms is not atoms:
        raise ConfigError("the classical dynamics was made for other atoms; make it for these")
    if atoms.calc is None:
        raise CompatibilityError("classical steps need forces; attach a calculator: atoms.calc = ...")


def _thermostat(classical: MolecularDynamics, propagator: Propagator | Committee) -> LangevinHalfStep | None:
    if not isinstance(classical, Langevin) or not propagator.predicts_velocities:
        return None
    return LangevinHalfStep(classical.temp / units.kB, float(np.mean(classical.fr)) * PICOSECOND, propagator.timestep)
