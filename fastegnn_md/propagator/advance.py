"""One call of a learned map by an engine: its device, its random numbers, its result back on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..state import State

if TYPE_CHECKING:
    from .learned_map import LearnedMap
    from .prediction import Trust


def advance(learned_map: LearnedMap, state: State, rng: np.random.Generator, temperature: float | None = None) -> State:
    """State after one jump, on the device of the state; as :func:`advance_with_trust`."""
    return advance_with_trust(learned_map, state, rng, temperature)[0]


def advance_with_trust(
    learned_map: LearnedMap, state: State, rng: np.random.Generator, temperature: float | None = None
) -> tuple[State, Trust]:
    """State after one jump, and how far it can be trusted; both on the device of the state.

    Parameters
    ----------
    learned_map : LearnedMap
        On any device.
    state : State
        On any device; it travels to that of the map and back.
    rng : numpy.random.Generator
        Seeds the torch generator of this jump; advanced by one draw.
    temperature : float, optional
        K, for maps that redraw velocities.

    Raises
    ------
    StateError
        If the prediction is not finite.
    CompatibilityError
        If the map does not fit the system.
    """
    here, there = state.device, learned_map.device or state.device
    generator = torch.Generator(device=there)
    generator.manual_seed(int(rng.integers(2**63)))
    ended, trust = learned_map.with_trust(_on(state, there), generator=generator, temperature=temperature)
    return _on(ended, here), trust if here == there else trust.to(here)


def _on(state: State, device: torch.device) -> State:
    return state if state.device == device else state.to(device)
