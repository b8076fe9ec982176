"""Options of a step as JSON holds them in restart files and trajectory headers, and back; older formats included."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.errors import CheckpointError, CompatibilityError

from ..barostat import MonteCarloBarostat
from ..conserve import Conserve
from ..guards import GuardSettings
from ..schedule import Schedule
from ..step import GuardedStep
from ..thermostats import Langevin, Thermostat, VelocityRescaling

_THERMOSTATS: dict[str, Any] = {"langevin": Langevin, "velocity-rescaling": VelocityRescaling}
_ENGINE = "engine"  # in place of a classical time step


def to_json(guarded: GuardedStep, schedule: Schedule, barostat: MonteCarloBarostat | None = None) -> dict[str, Any]:
    """Options of a step, without the dynamics that make its classical steps."""
    values = {field.name: getattr(schedule, field.name) for field in dataclasses.fields(schedule)}
    values["relax_steps"] = guarded.relax_steps  # none without a calculator
    if schedule.classical is not None:
        values["classical"] = schedule.own_step if schedule.engine is None else _ENGINE
    return {
        # Jumps take the thermostat of an engine's dynamics, which is not theirs to describe.
        "thermostat": None if schedule.engine is not None else described_thermostat(guarded.thermostat),
        "temperature_K": guarded.temperature if guarded.thermostat is None else None,
        "schedule": values,
        "engine": None if schedule.engine is None else _engine(schedule.engine),
        "guard": None if guarded.guard is None else dataclasses.asdict(guarded.guard),
        "conserve": dataclasses.asdict(guarded.conserve),
        "barostat": described_barostat(barostat),
    }


def from_json(options: dict[str, Any], classical: Any) -> dict[str, Any]:
    """Keywords of :class:`LearnedDynamics` from what :func:`to_json` gave.

    Parameters
    ----------
    options : dict
    classical : ase.md.md.MolecularDynamics or None
        What makes the classical steps, where the description says that a dynamics did.

    Raises
    ------
    CompatibilityError
        If a dynamics is needed and not given, or of another kind or time step, or the reverse.
    """
    schedule = dict(options["schedule"])
    if schedule["classical"] == _ENGINE:
        if classical is None:
            raise CompatibilityError(
                "the classical steps of the interrupted run were those of an ASE dynamics; make it anew and give it as "
                "classical="
            )
        if _engine(classical) != options["engine"]:
            raise CompatibilityError(
                f"the classical steps of the interrupted run were those of {options['engine']}, this dynamics is "
                f"{_engine(classical)}; make the same"
            )
        schedule["classical"] = classical
    elif classical is not None:
        raise CompatibilityError("the interrupted run had no classical dynamics of ASE; leave classical out")
    guard, thermostat = options["guard"], options["thermostat"]
    return {
        "thermostat": restored_thermostat(thermostat),
        "temperature_K": options["temperature_K"],
        "schedule": Schedule(**schedule),
        "guard": False if guard is None else GuardSettings(**guard),
        "conserve": Conserve(**options["conserve"]),
        "barostat": restored_barostat(options.get("barostat")),
        "loginterval": options["loginterval"],
    }


def migrated(options: dict[str, Any], version: int) -> dict[str, Any]:
    """Options of :class:`LearnedDynamics` in restart files up to format 2, as format 3 has them."""
    if version >= 3 or "fallback_timestep" not in options:
        return options
    temperature, friction, tau = (options.get(name) for name in ("temperature_K", "friction", "taut"))
    thermostat = None
    if friction is not None:
        thermostat = {"kind": "langevin", "temperature": temperature, "friction": friction * PICOSECOND}
    elif tau is not None:
        thermostat = {"kind": "velocity-rescaling", "temperature": temperature, "tau": tau / PICOSECOND}
    guard = options["guard"]
    return {
        "loginterval": options["loginterval"],
        "restart_interval": options["restart_interval"],
        "thermostat": thermostat,
        "temperature_K": temperature if thermostat is None else None,
        "schedule": {
            "classical": options["fallback_timestep"] / PICOSECOND,
            "fallback": options["fallback"],
            "relax_steps": options["relax_steps"],
        },
        "guard": guard,
        "conserve": {
            "momentum": options["conserve_momentum"],
            # Files of format 1 know nothing of angular momentum: their runs did not conserve it.
            "angular_momentum": options.get("conserve_angular_momentum", False),
            "energy": options.get("conserve_energy", False),
        },
        "log_energy": options["log_energy"],
    }


def _engine(classical: Any) -> dict[str, Any]:
    """What tells a dynamics of ASE from another one; its thermostat may have been changed on purpose."""
    return {"kind": type(classical).__name__, "timestep": float(classical.dt)}


def described_thermostat(thermostat: Thermostat | None) -> dict[str, Any] | None:
    """A thermostat as JSON holds it."""
    if thermostat is None:
        return None
    kind = next((name for name, made in _THERMOSTATS.items() if type(thermostat) is made), type(thermostat).__name__)
    return {"kind": kind, **vars(thermostat)}


def described_barostat(barostat: MonteCarloBarostat | None) -> dict[str, Any] | None:
    """A barostat as JSON holds it."""
    return None if barostat is None else dataclasses.asdict(barostat)


def restored_barostat(described: dict[str, Any] | None) -> MonteCarloBarostat | None:
    """Undo :func:`described_barostat`."""
    if described is None:
        return None
    values = dict(described)
    return MonteCarloBarostat(f"{values.pop('pressure')!r} bar", **values)


def restored_thermostat(described: dict[str, Any] | None) -> Thermostat | None:
    """Undo :func:`described_thermostat`."""
    if described is None:
        return None
    values = dict(described)
    kind = values.pop("kind")
    if kind not in _THERMOSTATS:
        raise CheckpointError(f"the interrupted run had the thermostat {kind!r}, which cannot be restored from a file")
    return _THERMOSTATS[kind](**values)
