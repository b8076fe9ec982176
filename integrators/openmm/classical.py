"""Classical integrators of OpenMM beside jumps: what they say of heat, which fits a thermostat; seeds and steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.integrators import friction_of, holds_half_step_velocities, temperature_of
from fastegnn_md.errors import CompatibilityError, ConfigError

from ..options import Bath
from ..schedule import Schedule
from ..thermostats import Langevin, Thermostat, in_unit

with naming_extras(__name__):
    import openmm
    from openmm import unit


def bath_of(classical: Any) -> Bath:
    """Time step of a classical integrator, its thermostat where it is a Langevin integrator, its temperature.

    Raises
    ------
    ConfigError
        If it is no integrator of OpenMM.
    """
    if not isinstance(classical, openmm.Integrator):
        raise ConfigError(f"classical is a {type(classical).__name__}; expected a time step or an integrator of OpenMM")
    friction, temperature = friction_of(classical), temperature_of(classical)
    thermostat = None if friction is None else Langevin(temperature, friction)
    return Bath(classical.getStepSize()._value, thermostat, temperature)


def classical_integrator(thermostat: Thermostat | None, timestep: float, step: float, seed: int) -> openmm.Integrator:
    """An integrator of OpenMM for the classical steps that go with a thermostat.

    Parameters
    ----------
    thermostat : Thermostat or None
    timestep, step : float
        Of jumps and of classical steps, ps; the latter is rounded so that the former is a multiple.
    seed : int
        Its own follows from it.

    Raises
    ------
    ConfigError
        If OpenMM has none.
    """
    step = timestep / max(1, round(timestep / step))
    if thermostat is None:
        return openmm.VerletIntegrator(step * unit.picosecond)
    if isinstance(thermostat, Langevin):
        temperature, friction = thermostat.temperature * unit.kelvin, thermostat.friction / unit.picosecond
        integrator = openmm.LangevinMiddleIntegrator(temperature, friction, step * unit.picosecond)
        integrator.setRandomNumberSeed(1 + seed % (2**31 - 2))  # zero means a random seed to OpenMM
        return integrator
    raise ConfigError(
        f"OpenMM has no integrator for classical steps with {type(thermostat).__name__}; give one as "
        "Schedule(classical=...), or take Langevin"
    )


def half_step_of(classical: openmm.Integrator | None, schedule: Schedule, given: bool | None) -> bool:
    """Whether velocities between steps are those of half a classical step ago; errors as the function it asks."""
    if classical is not None:
        return holds_half_step_velocities(classical, given)
    if given is not None:
        raise ConfigError("half_step_velocities is for a CustomIntegrator in the schedule; leave it out")
    return schedule.hybrid  # both integrators that are made here hold such


def checked_seed(seed: int | None) -> int:
    """A seed that a variable of an integrator can hold; drawn if None is given."""
    drawn = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    if isinstance(drawn, bool) or not isinstance(drawn, (int, np.integer)) or not 0 <= drawn < 2**53:
        raise ConfigError(f"seed is {seed!r}; expected an integer >= 0 (below 2**53), or None to draw one")
    return int(drawn)


class StepGenerator:
    """Random numbers of each step: the same in every run with one seed, however it was come to."""

    def __init__(self) -> None:
        # Which numbers it would draw does not matter, and it need not ask the operating system for any.
        self._rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(0)))

    def at(self, seed: int, step: int) -> np.random.Generator:
        """Those of the jump after ``step`` steps; valid until the next call."""
        nothing = np.zeros(4, dtype=np.uint64)
        self._rng.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": nothing, "key": np.array([seed, step], dtype=np.uint64)},
            "buffer": nothing,
            "buffer_pos": 4,  # at its end
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._rng


def check_timestep(learned: float, size: Any) -> None:
    """Refuse a time step that is not that of the jumps (ps); raises CompatibilityError."""
    timestep = float(in_unit(size, "time"))
    if abs(timestep - learned) > 1e-6 * learned:
        raise CompatibilityError(
            f"timestep is {1e3 * timestep:g} fs but these jumps advance by {1e3 * learned:g} fs; leave it out, or load "
            "a propagator trained for it"
        )
