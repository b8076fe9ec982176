"""Degrees of freedom: what constraints and conserved momenta leave velocities to do, and the temperature of that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .constraints import Constraints
from .domain import centre_of_mass
from .nn.scatter import Segments
from .state import State
from .units import BOLTZMANN

# A moment of inertia is zero below this share of the largest (a molecule bent by less than 1e-5 is straight), and below
# this many Å² times the mass (what rounding makes of a single atom).
_SHARE, _SQUARE = 1e-10, 1e-12


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
        moves = ~self.constraints.frozen & (state.masses > 0)
        degrees = 3 * int(moves.sum()) - self.constraints.rank(state)
        if self.momentum or self.constraints.fixed_com:
            degrees -= 3
        if self.angular_momentum:
            moments, _ = _inertia(state)
            degrees -= int((moments > 0).sum())
        return degrees

    def temperature(self, state: State) -> float:
        """2 K / f k_B in K of the f degrees of freedom; nan if there are none."""
        degrees, conserved = self.degrees(state), self.conserved(state)
        free = state.velocities if conserved is None else state.velocities - conserved
        return 2 * kinetic_energy(free, state.masses) / (degrees * BOLTZMANN) if degrees > 0 else float("nan")


def kinetic_energy(velocities: Tensor, masses: Tensor) -> float:
    """½ Σ m v² in amu Å²/ps²; velocities (N, 3) in Å/ps, masses (N,) in amu."""
    return 0.5 * float(masses.double() @ velocities.double().square().sum(dim=1))


def angular_momentum(state: State) -> Tensor:
    """Σ m (x - X) × v of each system about its centre of mass X, shape (B, 3), amu Å²/ps, float64."""
    arms = _arms(state)
    moment = state.masses.double()[:, None] * torch.linalg.cross(arms, state.velocities.double())
    return _systems(state).sum(moment)


def rigid_rotation(state: State, angular: Tensor) -> Tensor:
    """Velocities of a rigid rotation of each system about its centre of mass, ω × (x - X) with ω = I⁺ L.

    Of all velocities with this angular momentum they have the least kinetic energy. I⁺ is the pseudo-inverse of the
    inertia tensor: about the axis of a straight molecule nothing turns.

    Parameters
    ----------
    state : State
    angular : Tensor of float64, shape (B, 3), amu Å²/ps
        L.

    Returns
    -------
    Tensor, shape (N, 3), Å/ps
        In the dtype of the state.
    """
    moments, axes = _inertia(state)
    inverse = torch.where(moments > 0, 1.0 / moments, 0.0)
    spin = axes @ (inverse[:, :, None] * (axes.mT @ angular[:, :, None]))
    return torch.linalg.cross(_systems(state).spread(spin[:, :, 0]), _arms(state)).to(state.dtype)


def _inertia(state: State) -> tuple[Tensor, Tensor]:
    """Principal moments (B, 3), exactly zero where they vanish, and axes (B, 3, 3) in columns; float64."""
    arms, masses, systems = _arms(state), state.masses.double(), _systems(state)
    second = systems.sum((masses[:, None] * arms)[:, :, None] * arms[:, None, :])  # Σ m r rᵀ
    trace = second.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    moments, axes = torch.linalg.eigh(trace * torch.eye(3, dtype=torch.float64, device=state.device) - second)
    least = torch.maximum(_SHARE * moments[:, -1:], _SQUARE * systems.sum(masses[:, None]))
    return torch.where(moments > least, moments, 0.0), axes


def _arms(state: State) -> Tensor:
    positions = state.positions.double()
    systems = _systems(state)
    return positions - systems.spread(systems.weighted_mean(positions, state.masses.double()))


def _systems(state: State) -> Segments:
    assert state.batch is not None  # set by State
    return Segments(state.batch, state.n_systems)
