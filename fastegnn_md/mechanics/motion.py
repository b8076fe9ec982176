"""Rigid motion of systems: centre of mass, kinetic energy, momenta, rotation.

Of float64 states on the CPU the C++ library makes them, where there is one: for a small system its calls take a tenth
of the time of the same operations of torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.native.functions import INTEGER, POINTER, REAL, NativeFunction, readable
from ..segments import Segments
from ..state import State

# A moment of inertia is zero below this share of the largest (a molecule bent by less than 1e-5 is straight), and below
# this many Å² times the mass (what rounding makes of a single atom).
_SHARE, _SQUARE = 1e-10, 1e-12

_SYSTEMS = (INTEGER, POINTER, POINTER, POINTER)  # atoms, batch, masses, and vectors of atoms
_weighted_means = NativeFunction("weighted_means", *_SYSTEMS, POINTER)
_angular_momenta = NativeFunction("angular_momenta", *_SYSTEMS, POINTER, POINTER)
_principal = NativeFunction("principal", *_SYSTEMS, REAL, REAL, POINTER, POINTER)
_rotations = NativeFunction("rotations", *_SYSTEMS, POINTER, REAL, REAL, POINTER)


def centre_of_mass(vectors: Tensor, state: State) -> Tensor:
    """Mass-weighted mean of a vector per atom over each system, repeated for its atoms, shape (N, 3)."""
    native = _weighted_means.get() if vectors.shape == (state.n_atoms, 3) and _readable(state, vectors) else None
    if native is not None:
        means = torch.empty_like(vectors)
        native(*_of(state, vectors), means.data_ptr())
        return means
    systems = _systems(state)
    return systems.spread(systems.weighted_mean(vectors, state.masses))


def kinetic_energy(velocities: Tensor, masses: Tensor) -> float:
    """½ Σ m v² in amu Å²/ps²; velocities (N, 3) in Å/ps, masses (N,) in amu."""
    return 0.5 * float(masses.double() @ velocities.double().square().sum(dim=1))


def angular_momentum(state: State) -> Tensor:
    """Σ m (x - X) × v of each system about its centre of mass X, shape (B, 3), amu Å²/ps, float64."""
    native = _angular_momenta.get() if _readable(state, state.positions, state.velocities) else None
    if native is not None:
        momenta = state.masses.new_empty((state.n_systems, 3))
        native(*_of(state, state.positions), state.velocities.data_ptr(), momenta.data_ptr())
        return momenta
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
    native = _rotations.get() if _readable(state, state.positions, angular) else None
    if native is not None:
        velocities = torch.empty_like(state.positions)
        native(*_of(state, state.positions), angular.data_ptr(), _SHARE, _SQUARE, velocities.data_ptr())
        return velocities
    moments, axes = principal_moments(state)
    inverse = torch.where(moments > 0, 1.0 / moments, 0.0)
    spin = axes @ (inverse[:, :, None] * (axes.mT @ angular[:, :, None]))
    return torch.linalg.cross(_systems(state).spread(spin[:, :, 0]), _arms(state)).to(state.dtype)


def principal_moments(state: State) -> tuple[Tensor, Tensor]:
    """Principal moments (B, 3), exactly zero where they vanish, and axes (B, 3, 3) in columns; float64."""
    native = _principal.get() if _readable(state, state.positions) else None
    if native is not None:
        moments = state.masses.new_empty((state.n_systems, 3))
        axes = state.masses.new_empty((state.n_systems, 3, 3))
        native(*_of(state, state.positions), _SHARE, _SQUARE, moments.data_ptr(), axes.data_ptr())
        return moments, axes
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


def _of(state: State, vectors: Tensor) -> tuple[int, int, int, int]:
    """The first arguments of the functions of the library."""
    assert state.batch is not None  # set by State
    return state.n_atoms, state.batch.data_ptr(), state.masses.data_ptr(), vectors.data_ptr()


def _readable(state: State, *vectors: Tensor) -> bool:
    """Whether the library can read a state and some vectors."""
    assert state.batch is not None  # set by State
    return state.batch.is_contiguous() and readable(state.masses, *vectors)
