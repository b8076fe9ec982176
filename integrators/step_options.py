"""What a step of learned dynamics is made of: thermostat, guards, schedule, and which of them exclude each other."""

from __future__ import annotations

import dataclasses

from fastegnn_md.errors import ConfigError
from fastegnn_md.mechanics.conservation import EnergyRescale
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State

from .audits import Audits
from .combinations import refuse_guards, refuse_unused, refuse_where_redrawn
from .conserve import Conserve
from .guards import GuardSettings
from .relaxation import RELAX_STEP, RELAX_STEPS
from .schedule import Schedule
from .statistics import JumpStatistics
from .thermostats import Thermostat


@dataclasses.dataclass
class StepOptions:
    """Options of a step, and what follows from them. The one place where they meet.

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

    Attributes
    ----------
    relax_steps : int
        After each jump.

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
    relax_steps: int = dataclasses.field(init=False)
    energy: EnergyRescale | None = dataclasses.field(init=False, default=None)
    audits: Audits | None = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.propagator.predicts_velocities:
            refuse_unused(self.schedule, self.thermostat, self.temperature, self.guards_energy)
        else:
            refuse_where_redrawn(self.propagator, self.schedule, self.thermostat, self.temperature, self.conserve)
        if self.temperature is None and self.thermostat is not None:
            self.temperature = self.thermostat.temperature
        refuse_guards(self.guard, self.temperature, self.propagator.has_spread)
        if self.conserve.energy and self.schedule.hybrid:
            raise ConfigError("classical steps may change the energy: leave Conserve(energy=True) out, or the steps")
        self.energy = EnergyRescale() if self.conserve.energy else None
        share = 0.0 if self.guard is None else self.guard.audits
        if share and self.propagator.audited and self.propagator.predicts_velocities:  # redrawn ones change the energy
            self.audits = Audits(share)
        drawn, asked = self.propagator.stochastic, self.schedule.relax_steps
        if self.substep is None:
            self.substep = RELAX_STEP if drawn and self.schedule.classical is None else self.schedule.own_step
        self.relax_steps = asked if asked is not None else RELAX_STEPS if drawn else 0

    @property
    def timestep(self) -> float:
        """Time of a step that jumps, or of what replaces the jump, ps: with the relaxation of a stochastic map."""
        if not (self.propagator.stochastic and self.relax_steps):
            return self.propagator.timestep
        assert self.substep is not None  # set by __post_init__
        return self.propagator.timestep + self.relax_steps * self.substep

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
            "relax_steps": self.relax_steps > 0,
            "minimize_steps": self.schedule.minimize_steps > 0,
        }

    @property
    def bath_temperature(self) -> float | None:
        """K, that the motion is held at; None in NVE."""
        if self.thermostat is not None:
            return self.thermostat.temperature
        return None if self.propagator.predicts_velocities else self.temperature

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
