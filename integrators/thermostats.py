"""Thermostats that act on velocities before and after a jump."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastegnn_md.errors import ConfigError
from fastegnn_md.thermal import thermal_velocities

Projection = Callable[[Tensor], Tensor]


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

    def __post_init__(self) -> None:
        for name, value in (("temperature", self.temperature), ("friction", self.friction)):
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}; expected a finite number >= 0")
        if not (math.isfinite(self.timestep) and self.timestep > 0):
            raise ConfigError(f"timestep is {self.timestep} ps; expected a finite number > 0")

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
