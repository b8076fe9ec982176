"""Thermostats that act on velocities before and after a jump."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fastegnn_md.errors import ConfigError, StateError
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

Projection = Callable[[Tensor], Tensor]


class Thermostat(Protocol):
    """Half a time step of a heat bath, before and after each jump."""

    @property
    def temperature(self) -> float:
        """K."""

    @property
    def conserves_momenta(self) -> bool:
        """Whether linear and angular momentum stay what they were."""

    def half_step(self, state: State, freedom: Freedom, rng: np.random.Generator) -> Tensor:
        """Velocities (N, 3) of one system half a step later, in Å/ps."""


@dataclass(frozen=True)
class LangevinHalfStep:
    """Half a time step of the Ornstein-Uhlenbeck process on the velocities, solved exactly.

    v ← c v + √((1 - c²) k_B T / m) ξ,    c = exp(-γ Δt / 2),    ξ standard normal.

    One half step before and one after the jump make the palindrome O(Δt/2) Ψ(Δt) O(Δt/2): with an exact Ψ it samples
    the canonical distribution for any Δt (Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007)).

    Parameters
    ----------
    temperature : float
        T in K.
    friction : float
        γ in 1/ps.
    timestep : float
        Δt of the whole jump in ps.

    Raises
    ------
    ConfigError
        If temperature or friction is negative, or the time step is not positive.
    """

    temperature: float
    friction: float
    timestep: float

    conserves_momenta = False

    def __post_init__(self) -> None:
        _check_not_negative("temperature", self.temperature)
        _check_not_negative("friction", self.friction)
        _check_positive("timestep", self.timestep)

    @property
    def damping(self) -> float:
        """c, the share of a velocity that half a step keeps."""
        return math.exp(-0.5 * self.friction * self.timestep)

    def __call__(
        self,
        velocities: Tensor,
        masses: Tensor,
        rng: np.random.Generator | torch.Generator,
        project: Projection | None = None,
    ) -> Tensor:
        """Velocities half a step later.

        Parameters
        ----------
        velocities : Tensor, shape (N, 3), Å/ps
        masses : Tensor, shape (N,), amu
        rng : numpy.random.Generator or torch.Generator
            Source of the noise; advanced.
        project : callable, optional
            Orthogonal projection (mass-weighted) of velocities onto what constraints allow. Applied to the result,
            which for velocities that obey the constraints is the same as projecting the noise: frozen atoms are not
            kicked, fixed bonds are not stretched.
        """
        noise = thermal_velocities(masses, self.temperature, rng).to(velocities.device, velocities.dtype)
        spread = math.sqrt(-math.expm1(-self.friction * self.timestep))  # √(1 - c²) without cancellation
        kicked = self.damping * velocities + spread * noise
        return kicked if project is None else project(kicked)

    def half_step(self, state: State, freedom: Freedom, rng: np.random.Generator) -> Tensor:
        """Velocities (N, 3) of one system half a step later."""
        return self(state.velocities, state.masses, rng, partial(freedom.project, state))


@dataclass(frozen=True)
class StochasticVelocityRescaling:
    """Half a time step of stochastic velocity rescaling: directions stay, the kinetic energy is that of a heat bath.

    v ← α v, with K = ½ Σ m v², f degrees of freedom, K̄ = f k_B T / 2 and c = exp(-Δt / 2 τ),

    α² = c + (1 - c) K̄ / (f K) (R² + Γ) + 2 R √(c (1 - c) K̄ / (f K)),

    R standard normal and Γ the sum of f - 1 squares of such numbers (Bussi, Donadio and Parrinello, J. Chem. Phys. 126,
    014101 (2007), Eq. A7; α positive, as in other implementations). It disturbs dynamics less than friction does, and
    all atoms share one factor: it neither repairs nor shows a loss of equipartition.

    Parameters
    ----------
    temperature : float
        T in K.
    tau : float
        τ in ps, in which K relaxes. Zero draws K anew at each half step.
    timestep : float
        Δt of the whole jump in ps.

    Raises
    ------
    ConfigError
        If temperature or τ is negative, or the time step is not positive.
    """

    temperature: float
    tau: float
    timestep: float

    conserves_momenta = True

    def __post_init__(self) -> None:
        _check_not_negative("temperature", self.temperature)
        _check_not_negative("tau", self.tau)
        _check_positive("timestep", self.timestep)

    def __call__(self, velocities: Tensor, masses: Tensor, rng: np.random.Generator, degrees: int) -> Tensor:
        """Velocities half a step later.

        Parameters
        ----------
        velocities : Tensor, shape (N, 3), Å/ps
            Without motion that is conserved.
        masses : Tensor, shape (N,), amu
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
        kept = math.exp(-0.5 * self.timestep / self.tau) if self.tau > 0 else 0.0
        drawn = (1 - kept) * 0.5 * BOLTZMANN * self.temperature / kinetic
        normal, rest = rng.standard_normal(), 2 * rng.standard_gamma(0.5 * (degrees - 1))
        square = kept + drawn * (normal**2 + rest) + 2 * normal * math.sqrt(kept * drawn)
        return math.sqrt(max(0.0, square)) * velocities  # c + … is (√c + √… R)² + … Γ, but for rounding

    def half_step(self, state: State, freedom: Freedom, rng: np.random.Generator) -> Tensor:
        """Velocities (N, 3) of one system half a step later; motion that is conserved is not scaled."""
        state = state.replace(velocities=freedom.project(state, state.velocities))  # they may have been set by hand
        degrees, conserved = freedom.degrees(state), freedom.conserved(state)
        if conserved is None:
            return self(state.velocities, state.masses, rng, degrees)
        return conserved + self(state.velocities - conserved, state.masses, rng, degrees)


def _check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} is {value}; expected a finite number >= 0")


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value} ps; expected a finite number > 0")
