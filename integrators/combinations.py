"""Options of a step that exclude each other, by what a propagator predicts."""

from __future__ import annotations

from fastegnn_md.errors import ConfigError
from fastegnn_md.propagator.learned_map import LearnedMap

from .conserve import Conserve
from .guards import GuardSettings
from .schedule import Schedule
from .thermostats import Thermostat


def refuse_unused(
    schedule: Schedule, thermostat: Thermostat | None, temperature: float | None, guards_energy: bool
) -> None:
    """What a propagator that predicts velocities has no use for."""
    for name in ("relax_steps", "minimize_steps"):
        if getattr(schedule, name):
            raise ConfigError(
                f"{name} is for position-only propagators and kind 'flow'; this propagator predicts velocities as well"
            )
    if temperature is not None and thermostat is None and not guards_energy:
        raise ConfigError(
            "a temperature without a thermostat: give a friction or a thermostat for NVT, and no temperature for NVE"
        )


def refuse_where_redrawn(
    propagator: LearnedMap,
    schedule: Schedule,
    thermostat: Thermostat | None,
    temperature: float | None,
    conserve: Conserve,
) -> None:
    """What a propagator that redraws velocities cannot be combined with."""
    words = in_words(propagator)
    if thermostat is not None:
        raise ConfigError(
            f"a {words} redraws velocities at each jump: leave friction and thermostat out, a temperature is enough"
        )
    if temperature is None:
        raise ConfigError(f"this {words} redraws velocities: give a temperature, there is no NVE of it")
    if conserve.angular_momentum or conserve.energy:
        raise ConfigError(f"this {words} redraws velocities: neither angular momentum nor energy can be conserved")
    if propagator.stochastic and schedule.minimize_steps:
        raise ConfigError(
            "minimize_steps would freeze what a propagator of kind 'flow' draws: leave it out, relax_steps are enough"
        )


def in_words(propagator: LearnedMap) -> str:
    """What a propagator that redraws velocities is called."""
    return "propagator of kind 'flow'" if propagator.stochastic else "position-only propagator"


def refuse_guards(guard: GuardSettings | None, temperature: float | None, has_spread: bool) -> None:
    """Guards that ask for what is not there."""
    if guard is None:
        return
    if guard.energy_change is not None and temperature is None:
        raise ConfigError("the energy guard counts in kT: give a temperature, or energy_change=None")
    if guard.spread is not None and not has_spread:
        raise ConfigError("the spread guard asks how far several propagators differ: give a Committee, or spread=None")
