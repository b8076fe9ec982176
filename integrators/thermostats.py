"""Thermostats that act on velocities before and after a jump: values, the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastegnn_md.errors import ConfigError, StateError, UnitError
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.nn.native.functions import INTEGER, POINTER, REAL, NativeFunction, readable
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN, parse_quantity

_kick = NativeFunction("kick", INTEGER, *[POINTER] * 3, REAL, REAL, POINTER)

Projection = Callable[[Tensor], Tensor]


class Thermostat(Protocol):
    """A heat bath that acts for half a time step before and after each jump."""

    @property
    def temperature(self) -> float:
        """K."""

    @property
    def conserves_momenta(self) -> bool:
        """Whether linear and angular momentum stay what they were."""

    @property
    def rate(self) -> float:
        """Half the rate at which the kinetic energy goes to that of the heat bath, 1/ps."""

    def half_step(self, state: State, freedom: Freedom, timestep: float, rng: np.random.Generator) -> Tensor:
        """Velocities (N, 3) of one system half a step of ``timestep`` (ps) later, in Å/ps."""


@dataclass(frozen=True)
class Langevin:
    """The Ornstein-Uhlenbeck process on the velocities, solved exactly.

    v ← c v + √((1 - c²) k_B T / m) ξ,    c = exp(-γ t),    ξ standard normal.

    Over t = Δt/2 before and after a jump it makes the palindrome O(Δt/2) Ψ(Δt) O(Δt/2): with an exact Ψ that samples
    the canonical distribution for any Δt (Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007)).

    Parameters
    ----------
    temperature : float or Quantity
        T in K.
    friction : float, str or Quantity
        γ in 1/ps, or with its unit (``"10/ps"``). ASE's frictions are per ASE time unit: give those as ``friction=`` of
        :class:`~fastegnn_md.integrators.LearnedDynamics`.

    Raises
    ------
    ConfigError
        If temperature or friction is negative.
    UnitError
        If a unit cannot be read.
    """

    temperature: float
    friction: float

    conserves_momenta = False

    def __init__(self, temperature: Any, friction: Any):
        object.__setattr__(self, "temperature", _not_negative("temperature", in_unit(temperature, "temperature")))
        object.__setattr__(self, "friction", _not_negative("friction", in_unit(friction, "friction")))

    @property
    def rate(self) -> float:
        """Half the rate at which the kinetic energy goes to that of the heat bath: the friction, 1/ps."""
        return self.friction

    def refresh(
        self,
        velocities: Tensor,
        masses: Tensor,
        time: float,
        rng: np.random.Generator | torch.Generator,
        project: Projection | None = None,
    ) -> Tensor:
        """Velocities a time later.

        Parameters
        ----------
        velocities : Tensor, shape (N, 3), Å/ps
        masses : Tensor, shape (N,), amu
        time : float
            t in ps.
        rng : numpy.random.Generator or torch.Generator
            Source of the noise; advanced.
        project : callable, optional
            Orthogonal projection (mass-weighted) of velocities onto what constraints allow. Applied to the result,
            which for velocities that obey the constraints is the same as projecting the noise: frozen atoms are not
            kicked, fixed bonds are not stretched.
        """
        spread = -math.expm1(-2.0 * self.friction * time)  # 1 - c² without cancellation
        kept = math.exp(-self.friction * time)
        shape = masses.shape[0], 3
        native = _kick.get() if velocities.shape == shape and readable(velocities, masses) else None
        if native is not None and isinstance(rng, np.random.Generator):
            noise, kicked = torch.from_numpy(rng.standard_normal(shape)), torch.empty_like(velocities)
            addresses = masses.data_ptr(), velocities.data_ptr(), noise.data_ptr()
            native(shape[0], *addresses, kept, spread * BOLTZMANN * self.temperature, kicked.data_ptr())
        else:
            noise = thermal_velocities(masses, self.temperature, rng).to(velocities.device, velocities.dtype)
            kicked = torch.add(kept * velocities, noise, alpha=math.sqrt(spread))
        return kicked if project is None else project(kicked)

    def half_step(self, state: State, freedom: Freedom, timestep: float, rng: np.random.Generator) -> Tensor:
        """Velocities (N, 3) of one system half a step of ``timestep`` (ps) later."""
        return self.refresh(state.velocities, state.masses, 0.5 * timestep, rng, partial(freedom.project, state))


@dataclass(frozen=True)
class VelocityRescaling:
    """Stochastic velocity rescaling: directions stay, the kinetic energy is that of a heat bath.

    v ← α v, with K = ½ Σ m v², f degrees of freedom, K̄ = f k_B T / 2 and c = exp(-t / τ),

    α² = c + (1 - c) K̄ / (f K) (R² + Γ) + 2 R √(c (1 - c) K̄ / (f K)),

    R standard normal and Γ the sum of f - 1 squares of such numbers (Bussi, Donadio and Parrinello, J. Chem. Phys. 126,
    014101 (2007), Eq. A7; α positive, as in other implementations), over t = Δt/2 before and after a jump. It disturbs
    dynamics less than friction does, and all atoms share one factor: it neither repairs nor shows a loss of
    equipartition.

    Parameters
    ----------
    temperature : float or Quantity
        T in K.
    tau : float, str or Quantity
        τ in ps, or with its unit (``"0.1 ps"``), in which K relaxes. Zero draws K anew at each half step.

    Raises
    ------
    ConfigError
        If temperature or τ is negative.
    UnitError
        If a unit cannot be read.
    """

    temperature: float
    tau: float

    conserves_momenta = True

    def __init__(self, temperature: Any, tau: Any):
        object.__setattr__(self, "temperature", _not_negative("temperature", in_unit(temperature, "temperature")))
        object.__setattr__(self, "tau", _not_negative("tau", in_unit(tau, "time")))

    @property
    def rate(self) -> float:
        """Half the rate at which the kinetic energy goes to that of the heat bath: 1/(2 τ), 1/ps."""
        return 0.5 / self.tau if self.tau > 0 else math.inf

    def rescale(
        self, velocities: Tensor, masses: Tensor, time: float, rng: np.random.Generator, degrees: int
    ) -> Tensor:
        """Velocities a time later.

        Parameters
        ----------
        velocities : Tensor, shape (N, 3), Å/ps
            Without motion that is conserved.
        masses : Tensor, shape (N,), amu
        time : float
            t in ps.
        rng : numpy.random.Generator
            Advanced by a normal and a gamma variate, in this order.
        degrees : int
            f; with none the velocities stay.

        Raises
        ------
        StateError
            If all velocities are zero.
        """
        if degrees < 1:
            return velocities
        kinetic = kinetic_energy(velocities, masses)
        if not kinetic > 0:
            raise StateError(
                "the atoms do not move, velocity rescaling has nothing to scale; give them velocities, or use friction"
            )
        kept = math.exp(-time / self.tau) if self.tau > 0 else 0.0
        drawn = (1 - kept) * 0.5 * BOLTZMANN * self.temperature / kinetic
        normal, rest = rng.standard_normal(), 2 * rng.standard_gamma(0.5 * (degrees - 1))
        square = kept + drawn * (normal**2 + rest) + 2 * normal * math.sqrt(kept * drawn)
        return math.sqrt(max(0.0, square)) * velocities  # c + … is (√c + √… R)² + … Γ, but for rounding

    def half_step(self, state: State, freedom: Freedom, timestep: float, rng: np.random.Generator) -> Tensor:
        """Velocities (N, 3) of one system half a step later; motion that is conserved is not scaled."""
        state = state.replace(velocities=freedom.project(state, state.velocities))  # they may have been set by hand
        degrees, conserved, time = freedom.degrees(state), freedom.conserved(state), 0.5 * timestep
        if conserved is None:
            return self.rescale(state.velocities, state.masses, time, rng, degrees)
        return conserved + self.rescale(state.velocities - conserved, state.masses, time, rng, degrees)


_UNITS = {"temperature": "kelvin", "time": "picosecond", "friction": "/picosecond", "pressure": "bar"}


def in_unit(value: Any, dimension: str) -> Any:
    """A number in K, ps, 1/ps or bar from a number, a text with a unit, or a Quantity of OpenMM.

    Parameters
    ----------
    value : float, str or Quantity
    dimension : {"temperature", "time", "friction", "pressure"}

    Raises
    ------
    UnitError
        If the unit is unknown or of another dimension.
    """
    if isinstance(value, str):
        if dimension == "temperature":
            raise UnitError(f"temperature is {value!r}; give a number of K")
        return parse_quantity(value, dimension)
    if hasattr(value, "value_in_unit"):
        from openmm import unit  # whoever has a Quantity has OpenMM

        wanted = unit.picosecond**-1 if dimension == "friction" else getattr(unit, _UNITS[dimension])
        try:
            return value.value_in_unit(wanted)
        except TypeError as error:
            raise UnitError(f"{value} is no {dimension}; it cannot be given in {wanted}") from error
    return value


def kelvin_of(temperature: Any, least: float = 0.0) -> float:
    """A temperature in K.

    Parameters
    ----------
    temperature : float or Quantity
    least : float
        K; values have to be above, or with zero not below.

    Raises
    ------
    ConfigError
        If it is no number (an array, a text, True), or too small.
    UnitError
        If it has the unit of something else.
    """
    value = in_unit(temperature, "temperature")
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ConfigError(f"temperature is {value!r}; expected one number of K for all atoms")
    if not (math.isfinite(value) and value >= least):
        raise ConfigError(f"temperature is {value}; expected a number of K >= {least:g}")
    return float(value)


def _not_negative(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ConfigError(f"{name} is {value!r}; expected a number >= 0")
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} is {value}; expected a finite number >= 0")
    return float(value)
