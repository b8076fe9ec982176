"""Options of the OpenMM integrators: quantities and numbers, seeds, thermostats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.integrators import friction_of
from fastegnn_md.errors import CompatibilityError, ConfigError

from ..thermostats import LangevinHalfStep, StochasticVelocityRescaling, Thermostat

with naming_extras(__name__):
    import openmm
    from openmm import unit

if TYPE_CHECKING:
    from fastegnn_md.propagator.committee import Committee
    from fastegnn_md.propagator.full import Propagator


def plain(value: Any, of: unit.Unit) -> float | None:
    """A number in OpenMM's unit from a Quantity or a number."""
    if unit.is_quantity(value):
        return value.value_in_unit(of)
    return None if value is None else float(value)


def checked_seed(seed: int | None) -> int:
    """A seed that a variable of an integrator can hold; drawn if None is given."""
    drawn = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    if isinstance(drawn, bool) or not isinstance(drawn, (int, np.integer)) or not 0 <= drawn < 2**53:
        raise ConfigError(f"seed is {seed!r}; expected an integer >= 0 (below 2**53), or None to draw one")
    return int(drawn)


def step_generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of the jump after ``step`` steps: the same in every run with this seed."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))


def thermostat_like(classical: openmm.Integrator, propagator: Propagator | Committee) -> LangevinHalfStep | None:
    """Thermostat around jumps that goes with a classical integrator; none unless that is a Langevin integrator."""
    friction = friction_of(classical)
    if friction is None or not propagator.predicts_velocities:
        return None
    return LangevinHalfStep(classical.getTemperature()._value, friction, propagator.timestep)


def thermostat_for(
    propagator: Propagator | Committee, temperature: float | None, friction: float | None, tau: float | None
) -> Thermostat | None:
    """Thermostat around jumps from temperature (K) and friction (1/ps) or tau (ps).

    Raises
    ------
    ConfigError
        If they do not fit.
    """
    if friction is not None and tau is not None:
        raise ConfigError("friction and tau are of two thermostats; give friction for Langevin dynamics, or tau")
    name = "friction" if tau is None else "tau"
    if not propagator.predicts_velocities:
        if temperature is None:
            raise ConfigError("this propagator predicts positions only and redraws velocities: give temperature")
        if friction is not None or tau is not None:
            raise ConfigError(f"a position-only propagator redraws velocities at each jump; leave {name} out")
        return None
    if friction is None and tau is None:
        return None
    if temperature is None:
        raise ConfigError(f"{name} without temperature; give both for NVT, neither for NVE")
    if tau is not None:
        return StochasticVelocityRescaling(temperature, tau, propagator.timestep)
    assert friction is not None  # one of the two was given
    return LangevinHalfStep(temperature, friction, propagator.timestep)


def check_timestep(propagator: Propagator | Committee, timestep: float | None) -> None:
    """Refuse a time step (ps) that is not the propagator's; raises CompatibilityError."""
    if timestep is not None and abs(timestep - propagator.timestep) > 1e-6 * propagator.timestep:
        raise CompatibilityError(
            f"timestep is {1e3 * timestep:g} fs but this propagator advances by {1e3 * propagator.timestep:g} fs; "
            "leave it out, or load a propagator trained for it"
        )
