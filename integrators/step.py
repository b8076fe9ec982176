"""One step of learned dynamics on tensors: thermostat, jump, conservation, constraints, guards, fallback."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, StateError
from fastegnn_md.mechanics.conservation import EnergyRescale, conserve_angular_momentum, conserve_momentum
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.mechanics.verlet import velocity_verlet
from fastegnn_md.propagator.advance import advance_with_trust
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

from .apart import Apart
from .audits import Audits
from .combinations import refuse_for_position_only, refuse_guards, refuse_unused
from .conserve import Conserve
from .engine import Classical, Predicted
from .guards import (
    PASSED,
    GuardReport,
    GuardSettings,
    JumpStatistics,
    check_energy,
    check_geometry,
    check_motion,
    check_spread,
    check_surroundings,
    jump_error,
    ranges_of,
    report_of_error,
)
from .ranges import Ranges
from .schedule import Schedule
from .thermostats import Thermostat


@dataclasses.dataclass
class GuardedStep:
    """O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the guarded propagator, O the thermostat. The one place where options meet.

    A step is :meth:`prepare`, then :meth:`attempt`, which gives a finished state or the reason why there is none, and
    where it gives none :meth:`replace`, or whatever the schedule says. :meth:`finish` does the last two.

    Parameters
    ----------
    propagator : LearnedMap
    thermostat : Thermostat, optional
        None is NVE.
    temperature : float, optional
        K, of redrawn velocities and of the energy guard; by default that of the thermostat.
    guard : GuardSettings, optional
        None refuses only what is not finite.
    conserve : Conserve
    schedule : Schedule
    isolated : bool
        Whether the states are whole systems and not parts of a larger one; that they are periodic they say themselves.
    substep : float, optional
        Of classical steps, ps; by default that of the schedule.

    Raises
    ------
    ConfigError
        If options exclude each other, or do not fit the propagator.
    """

    propagator: LearnedMap
    thermostat: Thermostat | None = None
    temperature: float | None = None
    guard: GuardSettings | None = dataclasses.field(default_factory=GuardSettings)
    conserve: Conserve = dataclasses.field(default_factory=Conserve)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    isolated: bool = True
    substep: float | None = None
    statistics: JumpStatistics = dataclasses.field(default_factory=JumpStatistics)
    energy: EnergyRescale | None = dataclasses.field(init=False, default=None)
    audits: Audits | None = dataclasses.field(init=False, default=None)
    _jumped: tuple[State, State] | None = dataclasses.field(init=False, repr=False, default=None)  # the last jump
    _ranges: Ranges | None = dataclasses.field(init=False, repr=False, default=None)
    _apart: Apart = dataclasses.field(init=False, repr=False, default_factory=Apart)

    def __post_init__(self) -> None:
        if self.propagator.predicts_velocities:
            refuse_unused(self.schedule, self.thermostat, self.temperature, self.guards_energy)
        else:
            refuse_for_position_only(self.thermostat, self.temperature, self.conserve)
        if self.temperature is None and self.thermostat is not None:
            self.temperature = self.thermostat.temperature
        refuse_guards(self.guard, self.temperature, self.propagator.has_spread)
        if self.conserve.energy and self.schedule.hybrid:
            raise ConfigError("classical steps may change the energy: leave Conserve(energy=True) out, or the steps")
        self.energy = EnergyRescale() if self.conserve.energy else None
        share = 0.0 if self.guard is None else self.guard.audits
        if share and self.propagator.audited and self.propagator.predicts_velocities:  # redrawn ones change the energy
            self.audits = Audits(share)
        if self.substep is None:
            self.substep = self.schedule.own_step

    @property
    def guards_energy(self) -> bool:
        """Whether the change of potential energy is held against a limit."""
        return self.guard is not None and self.guard.energy_change is not None

    @property
    def needs_energy(self) -> bool:
        """Whether jumps need the potential energy."""
        return self.guards_energy or self.conserve.energy

    @property
    def needs(self) -> dict[str, bool]:
        """What asks for the engine during a step, in words, and whether it does here."""
        return {
            "forces half a jump ahead, an input of this propagator": self.propagator.wants_forces == "midpoint",
            "the energy guard": self.guards_energy,
            "Conserve(energy=True)": self.conserve.energy,
            "relax_steps": self.schedule.relax_steps > 0,
            "minimize_steps": self.schedule.minimize_steps > 0,
        }

    @property
    def bath_temperature(self) -> float | None:
        """K, that the motion is held at; None in NVE."""
        if self.thermostat is not None:
            return self.thermostat.temperature
        return None if self.propagator.predicts_velocities else self.temperature

    @property
    def kinetic_change(self) -> float:
        """Of the last jump without an engine, amu Å²/ps², for audits; nan before there was one."""
        return math.nan if self._jumped is None else _heat(*self._jumped)

    @property
    def tolerates_frozen_atoms(self) -> bool:
        """Whether frozen atoms and restraints are felt, whatever the propagator has seen."""
        return self.propagator.wants_forces is not None or self.schedule.hybrid

    def check(self, constraints: Constraints, periodic: bool) -> None:
        """Refuse to conserve what a system does not; see :meth:`Conserve.check`."""
        self.conserve.check(constraints, periodic, self.isolated)

    def freedom(self, state: State, constraints: Constraints) -> Freedom:
        """What is conserved of the motion of a system, and what is left to it."""
        learned = self.propagator.predicts_velocities and self.propagator.domain.conserves_momentum
        kept = self.thermostat is None or self.thermostat.conserves_momenta
        return self.conserve.freedom(state, constraints, learned and kept, self.isolated)

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
    ) -> tuple[State, GuardReport]:
        """A finished step from a prepared state; or the same state, and the reason. Nothing is counted.

        Parameters
        ----------
        state, constraints, rng, classical
            As in :meth:`prepare`.
        predicted : Predicted, optional
            The prediction, where it is known.

        Raises
        ------
        JumpError
            If the prediction is not finite and classical steps are a part of the schedule: in its place they would hide
            a broken propagator.
        """
        if self.audits is not None and self.audits.pauses():
            return state, GuardReport(False, "audits", None, "audits found that jumps change the total energy")
        ended, report = self._propose(state, constraints, rng, classical, predicted)
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
        self.statistics.record(report)
        return ended if report.ok else self.replace(state, constraints, rng, classical, report)

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
        timestep = self.propagator.timestep
        steps = max(1, round(timestep / self.substep))
        try:
            ended = velocity_verlet(state, classical.forces, timestep / steps, steps, constraints)
        except (StateError, ConstraintError) as error:
            advice = f"the classical steps that were to replace it failed as well ({error})"
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

    def _propose(
        self,
        state: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical | None,
        predicted: Predicted | None,
    ) -> tuple[State, GuardReport]:
        """The learned jump, and what the guards say of it."""
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
            return self._settle(state, ended, constraints, classical) if report.ok else (ended, report)
        except (StateError, ConstraintError) as error:
            return state, report_of_error(error)

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
        if report.ok and self.schedule.relax_steps:
            assert self.substep is not None  # set by __post_init__
            ended = velocity_verlet(ended, classical.forces, self.substep, self.schedule.relax_steps, constraints)
            self.statistics.relax_steps += self.schedule.relax_steps
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
        self.statistics.record_audit(in_kt)
        self.audits.record(in_kt, seconds)
        self.audits.act(freedom.degrees(state), may_pause=self.schedule.fallback != "stop")

    def _check_energy(self, before: float, after: float) -> GuardReport:
        if self.conserve.energy and not math.isfinite(before + after):
            return GuardReport(False, "energy", None, f"the potential energy would go from {before} to {after}")
        if self.guard is None or self.temperature is None:
            return PASSED
        return check_energy(before, after, self.temperature, self.guard)


def _heat(state: State, ended: State) -> float:
    """Change of the kinetic energy, amu Å²/ps²."""
    return kinetic_energy(ended.velocities, ended.masses) - kinetic_energy(state.velocities, state.masses)
