"""One step of learned dynamics on tensors: thermostat, jump, conservation, constraints, guards, fallback."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from fastegnn_md.constraints import Constraints
from fastegnn_md.errors import ConfigError, ConstraintError, JumpError, StateError
from fastegnn_md.jump import advance
from fastegnn_md.state import State

from .conservation import conserve_momentum
from .guards import GuardReport, GuardSettings, check_bonds, check_finite, check_motion, report_of_error
from .thermostats import LangevinHalfStep
from .verlet import Forces, velocity_verlet

if TYPE_CHECKING:
    from fastegnn_md.propagator import Propagator


@dataclasses.dataclass
class JumpStatistics:
    """What became of the jumps of a simulation.

    Attributes
    ----------
    tried, accepted : int
        Jumps.
    rejected : dict of str to int
        Refused jumps by guard.
    fallback_steps, relax_steps : int
        Classical sub-steps in place of refused jumps, and after position-only jumps.
    """

    tried: int = 0
    accepted: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    fallback_steps: int = 0
    relax_steps: int = 0


@dataclasses.dataclass
class GuardedStep:
    """O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the guarded propagator, O the Langevin thermostat.

    Parameters
    ----------
    propagator : Propagator
    thermostat : LangevinHalfStep, optional
        None is NVE.
    temperature : float, optional
        K, of redrawn velocities.
    guard : GuardSettings, optional
        None refuses only what is not finite.
    fallback : {"classical", "stop"}
        What replaces a refused jump.
    substep : float
        Of classical steps, ps; rounded so that Δt is a multiple.
    relax_steps : int
        Classical steps after each accepted jump.
    momentum : bool, optional
        Conserve linear momentum; by default without thermostat, frozen atoms and redrawn velocities, unless the
        propagator learned that momentum is not conserved.

    Raises
    ------
    ConfigError
        If an option is out of range.
    """

    propagator: Propagator
    thermostat: LangevinHalfStep | None = None
    temperature: float | None = None
    guard: GuardSettings | None = dataclasses.field(default_factory=GuardSettings)
    fallback: str = "classical"
    substep: float = 5e-4
    relax_steps: int = 0
    momentum: bool | None = None
    statistics: JumpStatistics = dataclasses.field(default_factory=JumpStatistics)

    def __post_init__(self) -> None:
        if self.fallback not in ("classical", "stop"):
            raise ConfigError(f"fallback is {self.fallback!r}; expected 'classical' or 'stop'")
        if not self.substep > 0:
            raise ConfigError(f"the sub-step of classical steps is {self.substep} ps; expected a number > 0")
        if self.relax_steps < 0:
            raise ConfigError(f"relax_steps is {self.relax_steps}; expected a number >= 0")
        if self.relax_steps and self.propagator.predicts_velocities:
            raise ConfigError("relax_steps is for position-only propagators; this one predicts velocities as well")

    def __call__(
        self, state: State, constraints: Constraints, rng: np.random.Generator, forces_at: Forces | None = None
    ) -> State:
        """State one time step later.

        Parameters
        ----------
        state : State
            One system on the CPU in float64; with forces if the propagator needs them.
        constraints : Constraints
            Of the system.
        rng : numpy.random.Generator
            Advanced.
        forces_at : callable, optional
            Classical forces: positions (N, 3) in Å → (N, 3) in amu Å/ps². Without it a refused jump is an error.

        Returns
        -------
        State
            With forces where classical steps have computed them at its positions.

        Raises
        ------
        JumpError
            If a guard refuses the jump and nothing can replace it.
        """
        if self.thermostat is not None:
            state = self._thermalise(state, constraints, rng)
        elif constraints:  # velocities may have been set by hand
            state = state.replace(velocities=constraints.project_velocities(state, state.velocities))
        self.statistics.tried += 1
        ended, report = self._propose(state, constraints, rng, forces_at)
        if report.ok:
            self.statistics.accepted += 1
        else:
            self.statistics.rejected[report.guard] = self.statistics.rejected.get(report.guard, 0) + 1
            ended = self._replace(state, constraints, forces_at, report)
        return ended if self.thermostat is None else self._thermalise(ended, constraints, rng)

    def _thermalise(self, state: State, constraints: Constraints, rng: np.random.Generator) -> State:
        assert self.thermostat is not None  # the caller has looked
        velocities = self.thermostat(
            state.velocities, state.masses, rng, lambda v: constraints.project_velocities(state, v)
        )
        return state.replace(velocities=velocities)

    def _propose(
        self, state: State, constraints: Constraints, rng: np.random.Generator, forces_at: Forces | None
    ) -> tuple[State, GuardReport]:
        """The learned jump, and what the guards say of it."""
        propagator = self.propagator
        try:
            ended = advance(propagator, state, rng, self.temperature)
            if self._conserves(constraints):
                ended = conserve_momentum(state, ended, propagator.timestep)
            report = self._check_motion(state, ended)
            if not report.ok:
                return state, report
            ended = constraints.project(state, ended)
            if self.guard is not None:
                report = check_bonds(state, ended, propagator.limits, self.guard)
            if report.ok and self.relax_steps and forces_at is not None:
                ended = velocity_verlet(ended, forces_at, self.substep, self.relax_steps, constraints)
                self.statistics.relax_steps += self.relax_steps
        except (StateError, ConstraintError) as error:
            return state, report_of_error(error)
        return ended, report

    def _check_motion(self, state: State, ended: State) -> GuardReport:
        if self.guard is None:
            return check_finite(ended.positions, ended.velocities)
        limits = self.propagator.limits
        if not self.propagator.predicts_velocities:  # drawn at the user's temperature, not learned
            limits = dataclasses.replace(limits, speed={})
        return check_motion(state, ended, limits, self.guard)

    def _replace(self, state: State, constraints: Constraints, forces_at: Forces | None, report: GuardReport) -> State:
        """Classical steps over the time of the jump, from the state before it."""
        if self.fallback == "stop":
            raise _jump_error(state, report, "with fallback='classical' classical steps would replace it")
        if forces_at is None:
            raise _jump_error(state, report, "attach a calculator, and classical steps will replace it")
        timestep = self.propagator.timestep
        steps = max(1, round(timestep / self.substep))
        try:
            ended = velocity_verlet(state, forces_at, timestep / steps, steps, constraints)
        except (StateError, ConstraintError) as error:
            advice = f"the classical steps that were to replace it failed as well ({error})"
            raise _jump_error(state, report, advice) from error
        self.statistics.fallback_steps += steps
        return ended

    def _conserves(self, constraints: Constraints) -> bool:
        if self.momentum is not None:
            return self.momentum
        domain = getattr(self.propagator, "domain", None)  # absent in propagators that were not trained
        learned = self.propagator.predicts_velocities and (domain is None or domain.conserves_momentum)
        return learned and self.thermostat is None and not bool(constraints.frozen.any())


def _jump_error(state: State, report: GuardReport, advice: str) -> JumpError:
    from MDAnalysis.guesser.tables import Z2SYMB  # slow to import, and needed for this message only

    where = ""
    if report.atom is not None:
        number = int(state.numbers[report.atom])
        where = f" at atom {report.atom} ({Z2SYMB.get(number, f'atomic number {number}')})"
    return JumpError(
        f"the {report.guard} guard refused the jump{where}: {report.message}. Nothing was written; {advice}",
        report.atom,
    )
