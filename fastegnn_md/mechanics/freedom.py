"""Degrees of freedom: what constraints and conserved momenta leave velocities to do, and the temperature of that."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..state import State
from ..units import BOLTZMANN
from .constraints import Constraints
from .motion import angular_momentum, centre_of_mass, kinetic_energy, principal_moments, rigid_rotation


@dataclass(frozen=True, eq=False)
class Freedom:
    """The motion of one system that is neither held by constraints nor conserved.

    Attributes
    ----------
    constraints : Constraints
    momentum, angular_momentum : bool
        Whether the linear momentum, and the angular momentum about the centre of mass, are conserved. Not with frozen
        atoms.
    """

    constraints: Constraints
    momentum: bool = False
    angular_momentum: bool = False

    def project(self, state: State, velocities: Tensor) -> Tensor:
        """Velocities (N, 3) without what the constraints forbid at the positions of ``state``."""
        return self.constraints.project_velocities(state, velocities)

    def conserved(self, state: State) -> Tensor | None:
        """Velocities (N, 3) in Å/ps of the rigid motion that has the conserved momenta; None if nothing is conserved.

        Orthogonal (mass-weighted) to the rest, so that kinetic energies add, and allowed by bonds of fixed length.
        """
        parts = []
        if self.momentum:
            parts.append(centre_of_mass(state.velocities, state))
        if self.angular_momentum:
            parts.append(rigid_rotation(state, angular_momentum(state)))
        return sum(parts[1:], parts[0]) if parts else None

    def degrees(self, state: State) -> int:
        """3 N - 3 (frozen atoms) - bonds - 3 (linear momentum, or fixed centre) - 3, 2 or 0 (angular momentum).

        Bonds that follow from others do not count. Of angular momentum a molecule that is straight has two components,
        a single atom none.
        """
        degrees = 3 * self.constraints.mobile(state) - self.constraints.rank(state)
        if self.momentum or self.constraints.fixed_com:
            degrees -= 3
        if self.angular_momentum:
            moments, _ = principal_moments(state)
            degrees -= int((moments > 0).sum())
        return degrees

    def temperature(self, state: State) -> float:
        """2 K / f k_B in K of the f degrees of freedom; nan if there are none."""
        degrees, conserved = self.degrees(state), self.conserved(state)
        free = state.velocities if conserved is None else state.velocities - conserved
        return 2 * kinetic_energy(free, state.masses) / (degrees * BOLTZMANN) if degrees > 0 else float("nan")
