"""Conserved quantities restored after a jump."""

from __future__ import annotations

from fastegnn_md.domain import centre_of_mass
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
    momentum_velocity = centre_of_mass(before.velocities, before)
    drift = momentum_velocity * timestep - centre_of_mass(after.positions - before.positions, before)
    kick = momentum_velocity - centre_of_mass(after.velocities, before)
    return after.replace(positions=after.positions + drift, velocities=after.velocities + kick)
