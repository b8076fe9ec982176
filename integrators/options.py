"""Thermostat and temperature from what a user gives and what a classical dynamics brings: the same for every engine."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastegnn_md.errors import ConfigError
from fastegnn_md.propagator.learned_map import LearnedMap

from .combinations import in_words
from .conserve import Conserve
from .guards import GuardSettings, guard_settings
from .schedule import Schedule, schedule_of
from .step import GuardedStep
from .thermostats import Langevin, Thermostat, kelvin_of


@dataclasses.dataclass(frozen=True)
class Bath:
    """What the classical dynamics of an engine says about heat.

    Attributes
    ----------
    timestep : float
        Of a classical step, ps.
    thermostat : Langevin, optional
        Its thermostat, where jumps can take it over.
    temperature : float, optional
        K, where it has one.
    """

    timestep: float
    thermostat: Langevin | None = None
    temperature: float | None = None


def guarded_step(
    propagator: LearnedMap,
    *,
    thermostat: Thermostat | None = None,
    temperature: Any = None,
    friction: Any = None,
    schedule: Schedule | None = None,
    guard: bool | GuardSettings | None = True,
    conserve: Conserve | None = None,
    bath: Bath | None = None,
) -> GuardedStep:
    """The step that options of dynamics and integrators mean.

    Parameters
    ----------
    propagator : LearnedMap
    thermostat : Thermostat, optional
    temperature, friction : optional
        In place of a :class:`Langevin` thermostat: K, and 1/ps or with its unit. A position-only propagator takes a
        temperature alone.
    schedule : Schedule, optional
        Default: jumps alone.
    guard : bool or GuardSettings
        True the defaults, False only what is not finite.
    conserve : Conserve, optional
    bath : Bath, optional
        Of the classical dynamics that the schedule names.

    Raises
    ------
    ConfigError
        If options exclude each other or do not fit the propagator.
    """
    if not isinstance(propagator, LearnedMap):
        raise ConfigError(
            f"propagator is a {type(propagator).__name__}; expected a Propagator or a Committee, from "
            "fastegnn_md.load(name_or_path)"
        )
    settings = guard_settings(guard)
    schedule = schedule_of(schedule)
    if conserve is not None and not isinstance(conserve, Conserve):
        raise ConfigError(f"conserve is {conserve!r}; expected a Conserve of fastegnn_md.integrators")
    if thermostat is not None and (isinstance(thermostat, type) or not hasattr(thermostat, "half_step")):
        raise ConfigError(
            f"thermostat is {thermostat!r}; expected Langevin(…) or VelocityRescaling(…) of fastegnn_md.integrators, "
            "or temperature and friction by their names"
        )
    own = 0.0 if schedule.classical is None or schedule.engine is not None else schedule.own_step
    if own > 1.000001 * propagator.timestep:
        raise ConfigError(
            f"classical steps of {1e3 * own:g} fs are longer than the jumps of {1e3 * propagator.timestep:g} fs; a "
            "bare number is in ps, a unit makes it clear: classical='0.5 fs'"
        )
    kelvin = None if temperature is None else kelvin_of(temperature)
    if thermostat is not None and (kelvin is not None or friction is not None):
        raise ConfigError("a thermostat brings its temperature: give a thermostat, or temperature and friction")
    if friction is not None:
        if kelvin is None:
            raise ConfigError("friction without a temperature; give both for NVT, neither for NVE")
        if not propagator.predicts_velocities:
            raise ConfigError(
                f"a {in_words(propagator)} redraws velocities at each jump: leave friction out, a temperature is enough"
            )
        thermostat, kelvin = Langevin(kelvin, friction), None
    if bath is not None:
        thermostat, kelvin = _taken_over(bath, thermostat, kelvin, propagator, settings)
    return GuardedStep(
        propagator,
        thermostat=thermostat,
        temperature=kelvin,
        guard=settings,
        conserve=Conserve() if conserve is None else conserve,
        schedule=schedule,
        substep=None if bath is None else bath.timestep,
    )


def _taken_over(
    bath: Bath,
    thermostat: Thermostat | None,
    kelvin: float | None,
    propagator: LearnedMap,
    guard: GuardSettings | None,
) -> tuple[Thermostat | None, float | None]:
    """Thermostat and temperature of jumps between steps of a classical dynamics."""
    if bath.thermostat is not None and thermostat is not None:
        raise ConfigError(
            "the classical dynamics brings a Langevin thermostat, which jumps take over: leave thermostat and friction "
            "out"
        )
    if propagator.predicts_velocities and thermostat is None:
        thermostat = bath.thermostat
    asked = not propagator.predicts_velocities or (guard is not None and guard.energy_change is not None)
    if asked and kelvin is None and thermostat is None:
        kelvin = bath.temperature
    return thermostat, kelvin
