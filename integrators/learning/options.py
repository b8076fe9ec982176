"""What the arguments of dynamics that learn mean."""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.errors import CompatibilityError, ConfigError
from fastegnn_md.propagator.base import Propagator, load
from fastegnn_md.propagator.config import PropagatorConfig

from ..barostat import MonteCarloBarostat
from ..guards import GuardSettings
from ..thermostats import Langevin, Thermostat, in_unit
from .settings import Learning

_LONGEST = 0.04  # ps; no engine with atoms takes longer steps
_LONGEST_LAG = 0.5  # ps; velocities have forgotten where they pointed long before
_ASE_TIMES = "(times of ASE, as 2 * units.fs, are in other units)"
_KINDS = ("force-free", "force-start", "force-midpoint", "kick-drift", "symplectic", "conservative")


# Of a new model of a crystal or a liquid: molecules are told apart by their bonds, these by their second neighbours.
PERIODIC: dict[str, Any] = {"cutoff": 4.5, "virtual_nodes": 1, "use_bonds": False}


class Options(NamedTuple):
    """What decides a course.

    Attributes
    ----------
    lag, timestep : float
        ps, of a step and of classical steps.
    thermostat : Thermostat or None
        None in NVE.
    learning : Learning
    guard : GuardSettings
    bonds : ndarray of int, shape (M, 2), or None
    config : PropagatorConfig
        Of the model.
    barostat : MonteCarloBarostat or None
        None at constant volume.
    """

    lag: float
    timestep: float
    thermostat: Thermostat | None
    learning: Learning
    guard: GuardSettings
    bonds: np.ndarray | None
    config: PropagatorConfig
    barostat: MonteCarloBarostat | None = None


def model_of(given: Any, periodic: bool) -> tuple[Propagator | None, PropagatorConfig]:
    """The trained model that was given, if it was one, and the configuration; raises ConfigError for anything else."""
    if given is None:
        given = PropagatorConfig.model_validate(PERIODIC if periodic else {})
    elif isinstance(given, (str, Path)):
        given = load(given)
    if not isinstance(given, (Propagator, PropagatorConfig)):
        raise ConfigError(
            f"model is a {type(given).__name__}; expected a Propagator, the name or file of one, or a PropagatorConfig"
        )
    initial, config = (given, given.config) if isinstance(given, Propagator) else (None, given)
    if config.kind not in _KINDS:
        raise ConfigError(
            f"a model of kind {config.kind!r} cannot be learned in a run; take one of {', '.join(_KINDS)}"
        )
    return initial, config


def learning_of(given: Any) -> Learning:
    """Learning settings; raises ConfigError for anything else."""
    if given is None:
        return Learning()
    if not isinstance(given, Learning):
        raise ConfigError(f"learning is {given!r}; expected Learning(…) of fastegnn_md.integrators")
    return given


def guard_of(given: Any) -> GuardSettings:
    """Guards; raises ConfigError for anything else."""
    if given is None:
        return GuardSettings()
    if not isinstance(given, GuardSettings):
        raise ConfigError(f"guard is {given!r}; expected GuardSettings of fastegnn_md.integrators")
    return given


def lag_of(lag: Any, initial: Propagator | None) -> float:
    """Time of a jump in ps; raises ConfigError if there is none, CompatibilityError if the model has another."""
    if lag is None:
        if initial is None:
            raise ConfigError('a new model needs the time of a jump: give lag="20 fs", say')
        return initial.timestep
    value = in_unit(lag, "time")
    longest = _LONGEST_LAG if initial is None else math.inf  # a model has its own
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= longest:
        told = f", which is {1e3 * value:.4g} fs" if isinstance(value, Real) else ""
        raise ConfigError(
            f"lag is {lag!r}{told}; expected the time of a jump, up to {1e3 * _LONGEST_LAG:g} fs: in ps, or with its "
            f'unit, "20 fs" {_ASE_TIMES}'
        )
    if initial is not None and not math.isclose(value, initial.timestep, rel_tol=1e-6):
        raise CompatibilityError(
            f"the lag is {1e3 * value:g} fs, the model jumps {1e3 * initial.timestep:g} fs; leave the lag out"
        )
    return float(value) if initial is None else initial.timestep


def timestep_of(given: Any) -> float:
    """Classical step in ps; raises ConfigError for what cannot be one, such as a time of ASE without its unit."""
    value = in_unit(given, "time")
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= _LONGEST:
        told = f", which is {1e3 * value:.4g} fs" if isinstance(value, Real) else ""
        raise ConfigError(
            f"timestep is {given!r}{told}; expected that of classical steps, up to {1e3 * _LONGEST:g} fs: in ps, or "
            f'with its unit, "2 fs" {_ASE_TIMES}'
        )
    return float(value)


def thermostat_of(kelvin: float | None, friction: Any, thermostat: Any) -> Thermostat | None:
    """The heat bath, None in NVE; raises ConfigError where arguments exclude each other."""
    if thermostat is not None:
        if kelvin is not None or friction is not None:
            raise ConfigError("a thermostat brings its temperature: give a thermostat, or temperature_K and friction")
        if isinstance(thermostat, type) or not hasattr(thermostat, "half_step"):
            raise ConfigError(
                f"thermostat is {thermostat!r}; expected Langevin(…) or VelocityRescaling(…) of fastegnn_md.integrators"
            )
        made: Thermostat = thermostat
        return made
    if kelvin is None and friction is None:
        return None
    if kelvin is None or friction is None:
        raise ConfigError("give temperature_K and friction for NVT, neither for NVE")
    return Langevin(kelvin, friction * PICOSECOND if isinstance(friction, Real) else friction)
