"""Velocity Verlet with RATTLE: the classical sub-steps that replace a refused jump or relax a predicted geometry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..state import State
from .constraints import Constraints

Forces = Callable[[Tensor], Tensor]


def velocity_verlet(state: State, forces_at: Forces, timestep: float, steps: int, constraints: Constraints) -> State:
    """Classical steps in the microcanonical ensemble.

    v ← v + δ f / 2m,  x ← x + δ v,  v ← v + δ f / 2m, with the constraints of Andersen's RATTLE (J. Comput. Phys. 52,
    24 (1983)): corrections along the bonds before each step, shared between x and v.

    Parameters
    ----------
    state : State
        One system in float64; its forces, if it has them, are used for the first half step.
    forces_at : callable
        Positions (N, 3) in Å → forces (N, 3) in amu Å/ps², without those of constraints.
    timestep : float
        δ in ps.
    steps : int
        Number of steps.
    constraints : Constraints
        Of the system.

    Returns
    -------
    State
        With the forces at its positions.

    Raises
    ------
    ConstraintError
        If a constraint cannot be restored after a step.
    StateError
        If positions, velocities or forces are not finite.
    """
    x, v, mass = state.positions, state.velocities, state.masses[:, None]
    f = state.forces if state.forces is not None else forces_at(x)
    shifts = constraints.image_shifts(state)
    for _ in range(steps):
        v = (
            constraints.hold_velocities(x, v + 0.5 * timestep * f / mass, shifts)
            if constraints
            else v + 0.5 * timestep * f / mass
        )
        free = x + timestep * v
        if constraints:
            held = constraints.hold_positions(x, free, shifts, reference=x)
            v = v + (held - free) / timestep
            free = held
        x = free
        f = forces_at(x)
        v = v + 0.5 * timestep * f / mass
        if constraints:
            v = constraints.hold_velocities(x, v, shifts)
        if not bool(torch.isfinite(x).all() & torch.isfinite(v).all()):
            break  # the state below names the atom
    return state.replace(positions=x, velocities=v, forces=f)
