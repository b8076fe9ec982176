"""One step of learned dynamics on tensors: thermostat, jump, conservation, constraints, guards, fallback."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, JumpError, StateError
from fastegnn_md.mechanics.conservation import EnergyRescale, conserve_angular_momentum, conserve_momentum
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.mechanics.verlet import Forces, velocity_verlet
from fastegnn_md.propagator.advance import advance, advance_with_spread
from fastegnn_md.propagator.committee import Committee, Spread
from fastegnn_md.state import State

from .guards import (
    PASSED,
    GuardReport,
    GuardSettings,
    JumpStatistics,
    Ranges,
    check_bonds,
    check_energy,
    check_finite,
    check_motion,
    check_spread,
    report_of_error,
)
from .thermostats import Thermostat

if TYPE_CHECKING:
    from fastegnn_md.propagator.full import Propagator


class Predicted(NamedTuple):
    """State that the propagator predicts, and the spread where it is a committee."""

    state: State
    spread: Spread | None = None


@dataclasses.dataclass(frozen=True)
class Classical:
    """What an engine can compute of the classical potential, at positions (N, 3) in Å.

    Attributes
    ----------
    forces : callable
        (N, 3) in amu Å/ps², without those of constraints.
    energy : callable, optional
        amu Å²/ps²; the energy guard and a conserved energy need it.
    minimise : callable, optional
        Positions (N, 3) in Å closer to a minimum.
    """

    forces: Forces
    energy: Callable[[Tensor], float] | None = None
    minimise: Callable[[Tensor], Tensor] | None = None


@dataclasses.dataclass
class GuardedStep:
    """O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the guarded propagator, O the thermostat.

    Parameters
    ----------
    propagator : Propagator or Committee
    thermostat : Thermostat, optional
        None is NVE.
    temperature : float, optional
        K, of redrawn velocities and of the energy guard; by default that of the thermostat.
    guard : GuardSettings, optional
        None refuses only what is not finite.
    fallback : {"classical", "stop"}
        What replaces a refused jump.
    substep : float
        Of classical steps, ps; rounded so that Δt is a multiple.
    relax_steps : int
        Classical steps after each accepted jump.
    minimize_steps : int
        Most steps of the engine's minimiser after each jump, before relaxation.
    momentum : bool, optional
        Conserve linear momentum; by default without friction, frozen atoms and redrawn velocities, unless the
        propagator learned that momentum is not conserved.
    angular_momentum : bool, optional
        Conserve angular momentum; by default where linear momentum is conserved by default and the system is isolated.
    energy : EnergyRescale, optional
        Conserve the total energy in Ψ; what the thermostat exchanges is added to what is conserved.
    isolated : bool
        Whether the states are whole systems and not parts of a larger one; that they are periodic they say themselves.

    Raises
    ------
    ConfigError
        If an option is out of range, two exclude each other, or the spread guard is asked for and the propagator is no
        Committee.
    """

    propagator: Propagator | Committee
    thermostat: Thermostat | None = None
    temperature: float | None = None
    guard: GuardSettings | None = dataclasses.field(default_factory=GuardSettings)
    fallback: str = "classical"
    substep: float = 5e-4
    relax_steps: int = 0
    minimize_steps: int = 0
    momentum: bool | None = None
    angular_momentum: bool | None = None
    energy: EnergyRescale | None = None
    isolated: bool = True
    statistics: JumpStatistics = dataclasses.field(default_factory=JumpStatistics)
    _ranges: Ranges | None = dataclasses.field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.fallback not in ("classical", "stop"):
            raise ConfigError(f"fallback is {self.fallback!r}; expected 'classical' or 'stop'")
        if not self.substep > 0:
            raise ConfigError(f"the sub-step of classical steps is {self.substep} ps; expected a number > 0")
        for name in ("relax_steps", "minimize_steps"):
            value = getattr(self, name)
            if value < 0:
                raise ConfigError(f"{name} is {value}; expected a number >= 0")
            if value and self.propagator.predicts_velocities:
                raise ConfigError(f"{name} is for position-only propagators; this one predicts velocities as well")
        if not self.propagator.predicts_velocities and (self.angular_momentum or self.energy is not None):
            raise ConfigError(
                "this position-only propagator redraws velocities: neither angular momentum nor energy can be conserved"
            )
        if self.temperature is None and self.thermostat is not None:
            self.temperature = self.thermostat.temperature
        if self.guards_energy and self.temperature is None:
            raise ConfigError("the energy guard counts in kT: give a temperature, or energy_change=None")
        if self.guard is not None and self.guard.spread is not None and not isinstance(self.propagator, Committee):
            raise ConfigError(
                "the spread guard asks how far several propagators differ: give a Committee, or spread=None"
            )

    @property
    def guards_energy(self) -> bool:
        """Whether the change of potential energy is held against a limit."""
        return self.guard is not None and self.guard.energy_change is not None

    @property
    def needs_energy(self) -> bool:
        """Whether jumps need the potential energy."""
        return self.guards_energy or self.energy is not None

    def check(self, constraints: Constraints, periodic: bool) -> None:
        """Refuse to conserve what a system does not.

        Raises
        ------
        ConstraintError
            If a momentum is to be conserved and atoms are frozen.
        CompatibilityError
            If angular momentum is to be conserved in a periodic system or a part of one.
        """
        frozen = bool(constraints.frozen.any())
        for asked, name in ((self.momentum, "conserve_momentum"), (self.angular_momentum, "conserve_angular_momentum")):
            if asked and frozen:
                raise ConstraintError(f"{name}=True needs atoms that are free to move, but some are frozen")
        if self.angular_momentum and (periodic or not self.isolated):
            what = "periodic" if periodic else "part of a larger one, which exchanges angular momentum with it"
            raise CompatibilityError(
                f"conserve_angular_momentum=True needs an isolated system, this one is {what}; leave it out"
            )

    def freedom(self, state: State, constraints: Constraints) -> Freedom:
        """What is conserved of the motion of a system, and what is left to it."""
        momentum, angular = self.momentum, self.angular_momentum
        if momentum is None:
            momentum = self._conserves(constraints)
        if angular is None:
            angular = momentum and self._conserves(constraints) and self.isolated and not state.periodic
        return Freedom(constraints, momentum, angular)

    def __call__(
        self, state: State, constraints: Constraints, rng: np.random.Generator, classical: Classical | None = None
    ) -> State:
        """State one time step later; a refused jump is replaced by classical steps or raises.

        Parameters
        ----------
        state : State
            One system on the CPU in float64; with forces if the propagator needs them.
        constraints : Constraints
            Of the system.
        rng : numpy.random.Generator
            Advanced.
        classical : Classical, optional
            Without it a refused jump is an error.

        Returns
        -------
        State
            With forces where classical steps have computed them at its positions.

        Raises
        ------
        JumpError
            If a guard refuses the jump and nothing can replace it.
        """
        return self.finish(self.prepare(state, constraints, rng, classical), constraints, rng, classical)

    def finish(
        self,
        state: State,
        constraints: Constraints,
        rng: np.random.Generator,
        classical: Classical | None = None,
        predicted: Predicted | None = None,
    ) -> State:
        """What :meth:`__call__` does after :meth:`prepare`; ``predicted`` is the prediction, where it is known."""
        ended, report = self._propose(state, constraints, rng, classical, predicted)
        self.statistics.record(report)
        if not report.ok:
            ended = self._replace(state, constraints, classical, report)
        return self._thermalise(ended, constraints, rng)

    def attempt(
        self, state: State, constraints: Constraints, rng: np.random.Generator, classical: Classical | None = None
    ) -> tuple[State, GuardReport]:
        """What :meth:`__call__` does after :meth:`prepare`, or the same state and the reason.

        Nothing is counted: who calls may have guards of its own, and records the report. Where the energy is conserved
        and ``classical`` cannot tell it, the step is not complete: :meth:`conserve_energy` ends it.

        Raises
        ------
        JumpError
            If the prediction is not finite: classical steps in its place would hide a broken propagator.
        """
        ended, report = self._propose(state, constraints, rng, classical)
        if report.guard == "finite":
            raise jump_error(state, report, "a propagator that does this is broken, or the state far from its training")
        if not report.ok:
            return state, report
        known = self.energy is None or (classical is not None and classical.energy is not None)
        return (self._thermalise(ended, constraints, rng) if known else ended), report

    def prepare(
        self, state: State, constraints: Constraints, rng: np.random.Generator, classical: Classical | None = None
    ) -> State:
        """The state that the propagator is given: after half a step of the thermostat, with the forces it needs.

        Raises
        ------
        CompatibilityError
            If the propagator needs forces at the midpoint and ``classical`` is not there to compute them.
        """
        if self.thermostat is not None:
            state = self._thermalise(state, constraints, rng)
        elif constraints:  # velocities may have been set by hand
            state = state.replace(velocities=constraints.project_velocities(state, state.velocities))
        if not self.propagator.needs_midpoint_forces:
            return state
        if classical is None:
            raise CompatibilityError("this propagator needs forces at x + v Δt/2; give an engine that computes them")
        return state.replace(midpoint_forces=classical.forces(self.propagator.midpoint(state)))

    def _thermalise(self, state: State, constraints: Constraints, rng: np.random.Generator) -> State:
        if self.thermostat is None:
            return state
        after = state.replace(velocities=self.thermostat.half_step(state, self.freedom(state, constraints), rng))
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
        predicted: Predicted | None = None,
    ) -> tuple[State, GuardReport]:
        """The learned jump, and what the guards say of it."""
        freedom = self.freedom(state, constraints)
        try:
            ended, spread = self._predict(state, rng) if predicted is None else predicted
            if freedom.momentum:
                ended = conserve_momentum(state, ended, self.propagator.timestep)
            ranges = self._ranges_of(state)
            report = check_motion(state, ended, ranges) if ranges else check_finite(ended.positions, ended.velocities)
            if report.ok and self.guard is not None and spread is not None:
                report = check_spread(spread, self.guard)
            if not report.ok:
                return state, report
            ended = constraints.project(state, ended)
            if freedom.angular_momentum:
                ended = conserve_angular_momentum(state, ended)
                if ranges:  # a molecule that has become nearly straight would have to spin fast
                    report = check_motion(state, ended, ranges)
            if report.ok and ranges:
                report = check_bonds(state, ended, ranges)
            if report.ok and classical is not None:
                return self._settle(state, ended, constraints, classical)
        except (StateError, ConstraintError) as error:
            return state, report_of_error(error)
        return ended, report

    def _predict(self, state: State, rng: np.random.Generator) -> Predicted:
        if isinstance(self.propagator, Committee):
            return Predicted(*advance_with_spread(self.propagator, state, rng, self.temperature))
        return Predicted(advance(self.propagator, state, rng, self.temperature))

    def _settle(
        self, state: State, ended: State, constraints: Constraints, classical: Classical
    ) -> tuple[State, GuardReport]:
        """Minimise, look at the energy, relax: in this order in every engine."""
        if classical.minimise is not None:
            ended = constraints.project(state, ended.replace(positions=classical.minimise(ended.positions)))
        report = PASSED
        if self.needs_energy and classical.energy is not None:
            before = classical.energy(state.positions) if self.needs_energy_before else 0.0
            after = classical.energy(ended.positions)
            report = self.check_energy(before, after)
            if report.ok:
                total = before + kinetic_energy(state.velocities, state.masses)
                ended = self._scale(ended, total, after, constraints)
        if report.ok and self.relax_steps:
            ended = velocity_verlet(ended, classical.forces, self.substep, self.relax_steps, constraints)
            self.statistics.relax_steps += self.relax_steps
        return ended, report

    @property
    def needs_energy_before(self) -> bool:
        """Whether the next jump needs the potential energy before it, too."""
        return self.guards_energy or (self.energy is not None and self.energy.target is None)

    def check_energy(self, before: float, after: float) -> GuardReport:
        """The energy guard, for engines that evaluate energies themselves; amu Å²/ps²."""
        if self.energy is not None and not math.isfinite(before + after):
            message = f"the potential energy would go from {before} to {after} amu Å²/ps²"
            return GuardReport(False, "energy", None, message)
        if self.guard is None or self.temperature is None:
            return PASSED
        return check_energy(before, after, self.temperature, self.guard)

    def conserve_energy(
        self, ended: State, before: float, after: float, constraints: Constraints, rng: np.random.Generator
    ) -> State:
        """The end of a step after :meth:`attempt`, for engines that evaluate energies themselves.

        ``before`` is the total energy of the prepared state, which the first jump takes for its target, ``after`` the
        potential energy after the jump, amu Å²/ps².
        """
        return self._thermalise(self._scale(ended, before, after, constraints), constraints, rng)

    def _scale(self, ended: State, before: float, after: float, constraints: Constraints) -> State:
        if self.energy is None:
            return ended
        if self.energy.target is None:
            self.energy.target = before
        return self.energy(ended, after, self.freedom(ended, constraints))

    def _ranges_of(self, state: State) -> Ranges | None:
        """Limits of the atoms of a state, None without guard; looked up once for many jumps of the same atoms."""
        if self.guard is None:
            return None
        if self._ranges is None or not self._ranges.fit(state):
            limits = self.propagator.limits
            if not self.propagator.predicts_velocities:  # drawn at the user's temperature, not learned
                limits = dataclasses.replace(limits, speed={})
            self._ranges = Ranges.of(state, limits, self.guard)
        return self._ranges

    def _replace(
        self, state: State, constraints: Constraints, classical: Classical | None, report: GuardReport
    ) -> State:
        """Classical steps over the time of the jump, from the state before it."""
        if self.fallback == "stop":
            raise jump_error(state, report, "with fallback='classical' classical steps would replace it")
        if classical is None:
            raise jump_error(state, report, "attach a calculator, and classical steps will replace it")
        timestep = self.propagator.timestep
        steps = max(1, round(timestep / self.substep))
        try:
            ended = velocity_verlet(state, classical.forces, timestep / steps, steps, constraints)
        except (StateError, ConstraintError) as error:
            advice = f"the classical steps that were to replace it failed as well ({error})"
            raise jump_error(state, report, advice) from error
        self.statistics.fallback_steps += steps
        return ended

    def _conserves(self, constraints: Constraints) -> bool:
        """Whether physics has momentum conserved."""
        domain = getattr(self.propagator, "domain", None)  # absent in propagators that were not trained
        learned = self.propagator.predicts_velocities and (domain is None or domain.conserves_momentum)
        kept = self.thermostat is None or self.thermostat.conserves_momenta
        return learned and kept and not bool(constraints.frozen.any())


def jump_error(state: State, report: GuardReport, advice: str) -> JumpError:
    """The error of a refused jump that nothing replaces; names the element of the atom."""
    from MDAnalysis.guesser.tables import Z2SYMB  # slow to import, and needed for this message only

    where = ""
    if report.atom is not None:
        number = int(state.numbers[report.atom])
        where = f" at atom {report.atom} ({Z2SYMB.get(number, f'atomic number {number}')})"
    return JumpError(
        f"the {report.guard} guard refused the jump{where}: {report.message}. Nothing was written; {advice}",
        report.atom,
    )
