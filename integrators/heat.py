"""Annealing: another temperature or friction for a step that is at work, the same in every engine."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastegnn_md.errors import ConfigError

from .step import GuardedStep
from .thermostats import Langevin, Thermostat, VelocityRescaling, kelvin_of


def change_temperature(guarded: GuardedStep, temperature: Any) -> None:
    """Another temperature from the next step on: of the thermostat, of redrawn velocities and of the energy guard.

    Raises
    ------
    ConfigError
        If it is no number >= 0, there is no bath (NVE), or a map draws positions as they are at one temperature.
    """
    kelvin = kelvin_of(temperature)
    if guarded.propagator.stochastic and kelvin != guarded.temperature:
        raise ConfigError(
            "a propagator of kind 'flow' draws positions as they are at the temperature of its training, whatever "
            "temperature is set later: train one for each"
        )
    if guarded.thermostat is None and guarded.temperature is None:
        raise ConfigError("these jumps are NVE and have no temperature to set; make them with a thermostat")
    if guarded.thermostat is not None:
        guarded.thermostat = _changed(guarded.thermostat, temperature=kelvin)
    guarded.temperature = kelvin


def change_friction(guarded: GuardedStep, friction: Any) -> None:
    """Another friction (1/ps, or with its unit) from the next step on.

    Raises
    ------
    ConfigError
        If it is no number >= 0, or the thermostat has no friction.
    """
    if not isinstance(guarded.thermostat, Langevin):
        kind = "no thermostat" if guarded.thermostat is None else type(guarded.thermostat).__name__
        raise ConfigError(f"a friction is that of Langevin, these jumps have {kind}; make them with Langevin")
    guarded.thermostat = _changed(guarded.thermostat, friction=friction)


def _changed(thermostat: Thermostat, **values: Any) -> Thermostat:
    if isinstance(thermostat, (Langevin, VelocityRescaling)):
        return dataclasses.replace(thermostat, **values)
    raise ConfigError(f"{type(thermostat).__name__} is a thermostat of your own: change it, it is asked each step")
