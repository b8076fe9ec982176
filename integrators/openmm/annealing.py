"""Temperature and friction of an integrator that jumps, read and changed by the names that OpenMM has for them."""

from __future__ import annotations

from typing import Any

from fastegnn_md._extras import naming_extras
from fastegnn_md.errors import ConfigError

from ..heat import change_friction, change_temperature
from ..step import GuardedStep
from ..thermostats import Langevin, in_unit, kelvin_of
from .classical import bath_of

with naming_extras(__name__):
    from openmm import unit


class Annealing:
    """Part of :class:`LearnedIntegrator`; a heat bath that jumps and classical steps share."""

    _guarded: GuardedStep
    _inner: Any  # the classical integrator, or None
    _follows: bool  # whether the user gave it
    _options: dict[str, Any]  # of copies

    def getTemperature(self) -> unit.Quantity:
        """Temperature of the heat bath.

        Raises
        ------
        ConfigError
            If there is none.
        """
        self._follow_thermostat()
        if self._guarded.temperature is None:
            raise ConfigError("this integrator is NVE and has no temperature")
        return self._guarded.temperature * unit.kelvin

    def setTemperature(self, temperature: Any) -> None:
        """Another temperature (K or Quantity) from the next step on, of jumps and of classical steps.

        As with OpenMM's integrators, States and checkpoints do not hold it.

        Raises
        ------
        ConfigError
            If it is no number >= 0, or there is no heat bath.
        """
        self._follow_thermostat()
        if self._guarded.temperature is None and hasattr(self._inner, "setTemperature"):
            self._inner.setTemperature(kelvin_of(temperature) * unit.kelvin)  # a thermostat that jumps do not share
            return
        change_temperature(self._guarded, temperature)
        if hasattr(self._inner, "setTemperature"):
            self._inner.setTemperature(self._guarded.temperature * unit.kelvin)
        self._remember_bath()

    def getFriction(self) -> unit.Quantity:
        """Friction of a Langevin thermostat.

        Raises
        ------
        ConfigError
            If there is none.
        """
        self._follow_thermostat()
        if not isinstance(self._guarded.thermostat, Langevin):
            raise ConfigError("this integrator has no Langevin thermostat, and no friction")
        return self._guarded.thermostat.friction / unit.picosecond

    def setFriction(self, friction: Any) -> None:
        """Another friction (1/ps, Quantity or ``"10/ps"``) from the next step on, of jumps and of classical steps.

        Raises
        ------
        ConfigError
            If it is no number >= 0, or the thermostat is not Langevin.
        """
        self._follow_thermostat()
        change_friction(self._guarded, friction)
        if hasattr(self._inner, "setFriction"):
            self._inner.setFriction(in_unit(friction, "friction") / unit.picosecond)
        self._remember_bath()

    def _remember_bath(self) -> None:
        """For copies of this integrator; one that is given brings its own."""
        if self._follows and self._options["temperature"] is None:
            return
        if self._options["thermostat"] is not None or self._options["friction"] is not None:
            self._options |= {"thermostat": self._guarded.thermostat, "temperature": None, "friction": None}
        else:
            self._options["temperature"] = self._guarded.temperature

    def _follow_thermostat(self) -> None:
        """Take over a temperature or friction that was changed on the classical integrator (annealing)."""
        if not self._follows:
            return
        bath = bath_of(self._inner)
        if bath.thermostat is not None and self._guarded.thermostat is not None:
            self._guarded.thermostat = bath.thermostat
        if self._options["temperature"] is None and bath.temperature is not None:
            self._guarded.temperature = bath.temperature
        self._guarded.substep = bath.timestep
