"""Langevin dynamics after a draw of a stochastic map: what a network leaves stiff or cold becomes thermal again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from fastegnn_md.errors import ConstraintError, StateError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.verlet import velocity_verlet
from fastegnn_md.state import State

from .engine import Classical
from .guards import PASSED, GuardReport, failed_steps
from .thermostats import Langevin

RELAX_STEPS = 50  # after each draw, where nothing else is said
RELAX_STEP = 1e-3  # ps, of these steps, likewise: for bonds to hydrogen of fixed length and free
RELAX_FRICTION = 10.0  # 1/ps
_BLOCK = 25  # steps between which the heat bath acts

Verlet = Callable[[State, float, int], State]


def langevin_steps(
    state: State,
    temperature: float,
    timestep: float,
    steps: int,
    constraints: Constraints,
    rng: np.random.Generator,
    classical: Classical,
) -> State:
    """Velocity Verlet with the heat bath of Langevin dynamics every few steps: V(kδ) O(kδ), again and again.

    The heat bath is ours in every engine: with one generator the numbers are the same wherever the steps are made, and
    those of a simulation that is continued.

    Parameters
    ----------
    state : State
        One system in float64.
    temperature : float
        K.
    timestep : float
        δ in ps.
    steps : int
    constraints : Constraints
    rng : numpy.random.Generator
        Advanced.
    classical : Classical

    Raises
    ------
    ConstraintError, StateError
        As :func:`~fastegnn_md.mechanics.verlet.velocity_verlet`.
    """
    bath = Langevin(temperature, RELAX_FRICTION)
    verlet = classical.verlet or partial(_on_tensors, classical, constraints)
    while steps > 0:
        block = min(_BLOCK, steps)
        state = verlet(state, timestep, block)
        allowed = partial(constraints.project_velocities, state) if constraints else None
        velocities = bath.refresh(state.velocities, state.masses, block * timestep, rng, allowed)
        state = state.replace(velocities=velocities)
        steps -= block
    return state


def relax(
    state: State,
    temperature: float,
    timestep: float,
    steps: int,
    constraints: Constraints,
    rng: np.random.Generator,
    classical: Classical,
) -> tuple[State, GuardReport]:
    """:func:`langevin_steps` from a drawn geometry; the same state and the reason where that fails."""
    try:
        return langevin_steps(state, temperature, timestep, steps, constraints, rng, classical), PASSED
    except (StateError, ConstraintError) as error:
        return state, GuardReport(
            False, "relaxation", None, f"{steps} classical steps after it fail: {failed_steps(error)}"
        )


def _on_tensors(classical: Classical, constraints: Constraints, state: State, timestep: float, steps: int) -> State:
    return velocity_verlet(state, classical.forces, timestep, steps, constraints)
