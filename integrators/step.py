"""One step of learned dynamics on tensors: thermostat, jump, conservation, constraints, guards, fallback."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings

import numpy as np

from fastegnn_md.errors import CompatibilityError, ConstraintError, StateError
from fastegnn_md.mechanics.conservation import conserve_angular_momentum, conserve_momentum
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.mechanics.verlet import velocity_verlet
from fastegnn_md.propagator.advance import advance_with_trust
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

from .apart import Apart
from .engine import Classical, Predicted
from .guards import (
    PASSED,
    GuardReport,
    check_bonds,
    check_energy,
    check_geometry,
    check_motion,
    check_spread,
    check_surroundings,
    failed_steps,
    jump_error,
    ranges_of,
    report_of_error,
)
from .ranges import Ranges
from .relaxation import langevin_steps, relax
from .statistics import RedrawWarning
from .step_options import StepOptions

Proposed = tuple[State, GuardReport]


@dataclasses.dataclass
class GuardedStep(StepOptions):
    """O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the guarded propagator, O the thermostat.

    A stochastic Ψ has no thermostat: its draws are relaxed by Langevin dynamics, and drawn anew where a guard refuses.

    A step is :meth:`prepare`, then :meth:`attempt`, which gives a finished state or the reason why there is none, and
    where it gives none :meth:`replace`, or whatever the schedule says. :meth:`finish` does the last two.

    Parameters, attributes and errors are those of :class:`StepOptions`.
    """

    _jumped: tuple[State, State] | None = dataclasses.field(init=False, repr=False, default=None)  # the last jump
    _ranges: Ranges | None = dataclasses.field(init=False, repr=False, default=None)
    _warned: bool = dataclasses.field(init=False, repr=False, default=False)
    _apart: Apart = dataclasses.field(init=False, repr=False, default_factory=Apart)

    @property
    def kinetic_change(self) -> float:
        """Of the last jump without an engine, amu Å²/ps², for audits; nan before there was one."""
        return math.nan if self._jumped is None else _heat(*self._jumped)

    def prepare(
        self, state: State, constraints: Constraints, rng: np.random.Generator, classical: Classical | None = None
    ) -> State:
        """The state that the propagator is given: after half a step of the thermostat, with the forces it needs.

        Parameters
        ----------
        state : State
            One system on the CPU in float64; with forces if the propagator needs those at its positions.
        constraints : Constraints
            Of the system.
        rng : numpy.random.Generator
            Advanced.
        classical : Classical, optional
            The engine, for forces at the midpoint.

        Raises
        ------
        CompatibilityError
            If the propagator needs forces at the midpoint and there is no engine to compute them.
        """
        if self.thermostat is not None:
            state = self._thermalise(state, constraints, rng)
        elif constraints:  # velocities may have been set by hand
            state = state.replace(velocities=constraints.project_velocities(state, state.velocities))
        places = self.propagator.force_positions(state)
        if places is None or self.propagator.wants_forces == "start":  # those at the start come with the state
            return state
        if classical is None:
            raise CompatibilityError(
                "this propagator needs forces half a jump ahead; give an engine that computes them"
            )
        return self.propagator.with_forces(state, classical.forces(places))

    def attempt(
        self,
        state: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical | None = None,
        predicted: Predicted | None = None,
        proposed: Proposed | None = None,
    ) -> tuple[State, GuardReport]:
        """A finished step from a prepared state; or the same state, and the reason. Only redraws are counted.

        Parameters
        ----------
        state, constraints, rng, classical
            As in :meth:`prepare`.
        predicted : Predicted, optional
            The prediction, where it is known.
        proposed : tuple of State and GuardReport, optional
            What :meth:`propose` gave last, where that was done and there is nothing to draw anew.

        Raises
        ------
        JumpError
            If the prediction is not finite and classical steps are a part of the schedule: in its place they would hide
            a broken propagator.
        """
        if self.audits is not None and self.audits.pauses():
            return state, GuardReport(False, "audits", None, "audits found that jumps change the total energy")
        redraws = self.redraws_left(0)
        while proposed is None:
            ended, report = self.propose(state, constraints, rng, classical, predicted)
            if report.ok or not redraws:
                proposed = ended, report
            else:
                redraws, predicted = redraws - 1, None
                self.statistics.record_redraw(report)
        ended, report = proposed
        if report.guard == "finite" and self.schedule.hybrid:
            raise jump_error(state, report, "a propagator that does this is broken, or the state far from its training")
        if not report.ok:
            return state, report
        self._apart.look(ended, self.propagator, asked=self.isolated and self.guard is not None)
        if classical is None:
            self._jumped = state, ended
        return self._thermalise(ended, constraints, rng), report

    def finish(
        self,
        state: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical | None = None,
        predicted: Predicted | None = None,
    ) -> State:
        """:meth:`attempt`, counted, and :meth:`replace` where a guard refuses."""
        ended, report = self.attempt(state, constraints, rng, classical, predicted)
        self.record(report)
        return ended if report.ok else self.replace(state, constraints, rng, classical, report)

    def redraws_left(self, drawn: int) -> int:
        """How many redraws may follow where so many have been made of one jump."""
        return max(0, self.schedule.redraws - drawn) if self.propagator.stochastic else 0

    def record(self, report: GuardReport) -> None:
        """Count a jump, and warn once of too many redraws.

        Warns
        -----
        RedrawWarning
        """
        self.statistics.record(report)
        if self.statistics.too_many_redraws and not self._warned:
            self._warned = True
            warnings.warn(self.statistics.of_redraws, RedrawWarning, stacklevel=2)

    def replace(
        self,
        state: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical | None,
        report: GuardReport,
    ) -> State:
        """Classical steps over the time of the jump from a prepared state, in place of a jump that was refused.

        Raises
        ------
        JumpError
            If the schedule says so, there is no engine, or the classical steps fail as well.
        """
        if self.schedule.fallback == "stop":
            raise jump_error(state, report, "with fallback='classical' classical steps would replace it")
        if classical is None:
            raise jump_error(
                state,
                report,
                "attach a calculator, and classical steps will replace it",
                "with --calculator or --forcefield classical steps will replace it",
            )
        assert self.substep is not None  # set by __post_init__
        timestep, kelvin = self.timestep, self.temperature
        steps = max(1, round(timestep / self.substep))
        try:
            if self.propagator.stochastic and kelvin is not None:
                ended = langevin_steps(state, kelvin, timestep / steps, steps, constraints, rng, classical)
            else:
                ended = velocity_verlet(state, classical.forces, timestep / steps, steps, constraints)
        except (StateError, ConstraintError) as error:
            advice = (
                f"{steps} classical steps of {1e3 * timestep / steps:.3g} fs that were to replace it failed as well: "
                f"{failed_steps(error)}"
            )
            raise jump_error(state, report, advice) from error
        self.statistics.fallback_steps += steps
        return self._thermalise(ended, constraints, rng)

    def classical_step(
        self, state: State, constraints: Constraints, rng: np.random.Generator, classical: Classical
    ) -> State:
        """O(δ/2) V(δ) O(δ/2): one step of velocity Verlet with the thermostat around it, δ the sub-step."""
        assert self.substep is not None  # set by __post_init__
        if self.thermostat is not None:
            state = self._thermalise(state, constraints, rng, self.substep)
        ended = velocity_verlet(state, classical.forces, self.substep, 1, constraints)
        return self._thermalise(ended, constraints, rng, self.substep)

    def _thermalise(
        self, state: State, constraints: Constraints, rng: np.random.Generator, timestep: float | None = None
    ) -> State:
        if self.thermostat is None:
            return state
        timestep = self.propagator.timestep if timestep is None else timestep
        velocities = self.thermostat.half_step(state, self.freedom(state, constraints), timestep, rng)
        after = state.replace(velocities=velocities)
        if self.energy is not None and self.energy.target is not None:
            heat = kinetic_energy(after.velocities, state.masses) - kinetic_energy(state.velocities, state.masses)
            self.energy.target += heat
        return after

    def propose(
        self,
        state: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical | None,
        predicted: Predicted | None,
    ) -> Proposed:
        """The learned jump, relaxed, and what the guards say of it; arguments of :meth:`attempt`."""
        freedom = self.freedom(state, constraints)
        try:
            if predicted is None:
                predicted = Predicted(*advance_with_trust(self.propagator, state, rng, self.temperature))
            ended, (spread, unlike) = predicted
            if freedom.momentum:
                ended = conserve_momentum(state, ended, self.propagator.timestep)
            ranges = None if self.guard is None else ranges_of(state, self.propagator, self.guard, self._ranges)
            self._ranges = ranges
            report = check_motion(state, ended, ranges) if ranges else PASSED  # a State is finite
            if report.ok and self.guard is not None and spread is not None:
                report = check_spread(spread, self.guard)
            if report.ok and self.guard is not None and unlike is not None:
                report = check_surroundings(unlike, self.guard)
            if not report.ok:
                return state, report
            ended = constraints.project(state, ended)
            if freedom.angular_momentum:
                ended = conserve_angular_momentum(state, ended)
                if ranges:  # a molecule that has become nearly straight would have to spin fast
                    report = check_motion(state, ended, ranges)
            if report.ok and ranges:
                report = check_geometry(state, ended, ranges)
            if report.ok and classical is not None and self.propagator.stochastic and self.relax_steps:
                ended, report = self._relax(state, ended, constraints, rng, classical, ranges)
            return self._settle(state, ended, constraints, classical) if report.ok else (ended, report)
        except (StateError, ConstraintError) as error:
            return state, report_of_error(error)

    def _relax(
        self,
        state: State,
        ended: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical,
        ranges: Ranges | None,
    ) -> Proposed:
        """Langevin dynamics from a draw, which may be too far from a minimum for its steps."""
        assert self.substep is not None and self.temperature is not None  # a map that redraws has one
        self.statistics.relax_steps += self.relax_steps
        ended, report = relax(ended, self.temperature, self.substep, self.relax_steps, constraints, rng, classical)
        if (
            report.ok
            and ranges
            and not (check_motion(state, ended, ranges).ok and check_bonds(state, ended, ranges).ok)
        ):
            report = GuardReport(False, "relaxation", None, "atoms fly apart in the classical steps after it")
        elif report.ok and ranges and ranges.shape is not None:  # what is drawn too rough may turn over as it relaxes
            turned = ranges.shape.changed_hand(state.positions, ended.positions)
            report = report if turned is None else GuardReport(False, "chirality", *turned)
        return ended, report

    def _settle(
        self, state: State, ended: State, constraints: Constraints, classical: Classical | None
    ) -> tuple[State, GuardReport]:
        """Minimise, look at the energy, relax: in this order in every engine."""
        if classical is None:
            return ended, PASSED  # engines refuse beforehand what asks for them and cannot be answered
        if self.schedule.minimize_steps:
            lower = classical.minimise(ended.positions, self.schedule.minimize_steps)
            ended = constraints.project(state, ended.replace(positions=lower))
        report, audited = PASSED, self.isolated and self.audits is not None and self.audits.due()
        if self.needs_energy or audited:
            begun, before = time.perf_counter(), 0.0
            if audited or self.guards_energy or (self.energy is not None and self.energy.target is None):
                before = classical.energy(state.positions)
            after = classical.energy(ended.positions)
            if audited:
                self.audit(after - before + _heat(state, ended), state, constraints, time.perf_counter() - begun)
            report = self._check_energy(before, after)
            if report.ok and self.energy is not None:
                if self.energy.target is None:
                    self.energy.target = before + kinetic_energy(state.velocities, state.masses)
                ended = self.energy(ended, after, self.freedom(ended, constraints))
        if report.ok and self.relax_steps and not self.propagator.stochastic:
            assert self.substep is not None  # set by __post_init__
            ended = velocity_verlet(ended, classical.forces, self.substep, self.relax_steps, constraints)
            self.statistics.relax_steps += self.relax_steps
        return ended, report

    def audit(self, change: float, state: State, constraints: Constraints, seconds: float) -> None:
        """Take in by how much the true total energy changes over the jump from a state.

        Parameters
        ----------
        change : float
            amu Å²/ps².
        state : State
            Before the jump.
        constraints : Constraints
        seconds : float
            What it took to find out.

        Raises
        ------
        JumpError
            If audits are out of bounds and no classical steps may follow, or again and again.

        Warns
        -----
        AuditWarning
            If they are out of bounds.
        """
        assert self.audits is not None  # else nobody asks
        freedom = self.freedom(state, constraints)
        kelvin = self.temperature or freedom.temperature(state)
        in_kt = change / (BOLTZMANN * kelvin) if kelvin > 0 else math.inf
        degrees = freedom.degrees(state)
        self.statistics.record_audit(in_kt, self._heating_per_kt(degrees))
        self.audits.record(in_kt, seconds)
        self.audits.act(degrees, may_pause=self.schedule.fallback != "stop")

    def _heating_per_kt(self, degrees: int) -> float:
        """See :attr:`JumpStatistics.heating`; 0 where its balance does not hold."""
        if self.thermostat is None or self.energy is not None or self.schedule.hybrid or not degrees:
            return 0.0
        taken = self.thermostat.rate * self.timestep
        return 1 / (degrees * math.sinh(taken)) if 0 < taken < 100 else 0.0

    def _check_energy(self, before: float, after: float) -> GuardReport:
        if self.conserve.energy and not math.isfinite(before + after):
            return GuardReport(False, "energy", None, f"the potential energy would go from {before} to {after}")
        if self.guard is None or self.temperature is None:
            return PASSED
        return check_energy(before, after, self.temperature, self.guard)


def _heat(state: State, ended: State) -> float:
    """Change of the kinetic energy, amu Å²/ps²."""
    return kinetic_energy(ended.velocities, ended.masses) - kinetic_energy(state.velocities, state.masses)
