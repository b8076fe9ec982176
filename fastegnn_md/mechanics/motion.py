"""Rigid motion of systems: centre of mass, kinetic energy, momenta, rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..segments import Segments
from ..state import State

# A moment of inertia is zero below this share of the largest (a molecule bent by less than 1e-5 is straight), and below
# this many Å² times the mass (what rounding makes of a single atom).
_SHARE, _SQUARE = 1e-10, 1e-12


def centre_of_mass(vectors: Tensor, state: State) -> Tensor:
    """Mass-weighted mean of a vector per atom over each system, repeated for its atoms, shape (N, 3)."""
    assert state.batch is not None  # set by State
    systems = Segments(state.batch, state.n_systems)
    return systems.spread(systems.weighted_mean(vectors, state.masses))


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
    moments, axes = principal_moments(state)
    inverse = torch.where(moments > 0, 1.0 / moments, 0.0)
    spin = axes @ (inverse[:, :, None] * (axes.mT @ angular[:, :, None]))
    return torch.linalg.cross(_systems(state).spread(spin[:, :, 0]), _arms(state)).to(state.dtype)


def principal_moments(state: State) -> tuple[Tensor, Tensor]:
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
