"""Conserved quantities restored after a jump."""

from __future__ import annotations

import torch
from torch import Tensor

from fastegnn_md.state import State


def conserve_momentum(before: State, after: State, timestep: float) -> State:
    """Give a jump the exact linear momentum and the exact drift of the centre of mass.

    With P = Σ m v before the jump and M = Σ m, of each system:

    v′ ← v′ + (P - Σ m v′) / M,    x′ ← x′ + P Δt / M - Σ m (x′ - x) / M.

    Right only where total momentum is conserved: no frozen atoms, no walls, no external field. Relative positions and
    velocities do not change.

    Parameters
    ----------
    before, after : State
        One or more systems before and after the jump; positions unwrapped.
    timestep : float
        Δt in ps.
    """
    momentum_velocity = _centre(before, before.velocities)
    drift = momentum_velocity * timestep - _centre(before, after.positions - before.positions)
    kick = momentum_velocity - _centre(before, after.velocities)
    return after.replace(positions=after.positions + drift, velocities=after.velocities + kick)


def _centre(state: State, vectors: Tensor) -> Tensor:
    """Mass-weighted mean of each system, for each of its atoms, shape (N, 3)."""
    batch = state.batch
    assert batch is not None  # set by State
    mass = torch.zeros(state.n_systems, dtype=state.dtype, device=state.device).index_add(0, batch, state.masses)
    total = torch.zeros((state.n_systems, 3), dtype=state.dtype, device=state.device)
    total = total.index_add(0, batch, state.masses[:, None] * vectors)
    return (total / mass[:, None])[batch]
