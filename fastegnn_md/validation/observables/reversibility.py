"""There and back: how far a propagator is from being its own inverse under reversal of velocities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from ...mechanics.constraints import Constraints, no_constraints
from ...propagator.advance import advance
from ...state import State

if TYPE_CHECKING:
    from ...propagator.learned_map import LearnedMap


class RoundTrip(NamedTuple):
    """|R∘Ψ∘R∘Ψ − 1| over states, mass-weighted root mean square.

    Attributes
    ----------
    x : ndarray, shape (n_states,)
        Of the positions, over the displacement of a jump.
    v : ndarray, shape (n_states,)
        Of the velocities, over the velocities themselves.
    """

    x: np.ndarray
    v: np.ndarray


def round_trip(
    propagator: LearnedMap,
    states: Sequence[State],
    *,
    constraints: Constraints | None = None,
    forces: Callable[[Tensor], Tensor] | None = None,
    rng: np.random.Generator | None = None,
) -> RoundTrip:
    """Jump, turn the velocities around, jump, turn them around.

    Parameters
    ----------
    propagator : LearnedMap
        Of positions and velocities.
    states : sequence of State
        One system each, with velocities.
    constraints : Constraints, optional
        Onto which each jump is projected.
    forces : callable, optional
        (N, 3) in amu Å/ps² at positions (N, 3); force-informed propagators need it.
    rng : numpy.random.Generator, optional
        For propagators that draw random numbers.

    Returns
    -------
    RoundTrip
        How far the states are from where they began.
    """
    rng = np.random.default_rng(0) if rng is None else rng

    held = no_constraints(states[0].masses) if constraints is None else constraints

    def jump(state: State) -> State:
        where = propagator.force_positions(state)
        if where is not None and forces is not None:
            state = propagator.with_forces(state, forces(where))
        return held.project(state, advance(propagator, state, rng))

    x, v = [], []
    for start in states:
        state = start.replace(velocities=held.project_velocities(start, start.velocities))  # files round
        there = jump(state)
        back = jump(there.replace(velocities=-there.velocities, forces=None))
        x.append(_ratio(back.positions - state.positions, there.positions - state.positions, state.masses))
        v.append(_ratio(back.velocities + state.velocities, state.velocities, state.masses))
    return RoundTrip(np.array(x), np.array(v))


def _ratio(error: Tensor, scale: Tensor, masses: Tensor) -> float:
    weight = masses[:, None]
    return float(((weight * error.square()).sum() / (weight * scale.square()).sum()).sqrt())
