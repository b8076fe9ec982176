"""One call of a learned map by an engine: its device, its random numbers, its result back on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..state import State

if TYPE_CHECKING:
    from .learned_map import LearnedMap
    from .prediction import Trust

_MOVING = ("positions", "velocities", "forces", "midpoint_forces", "midpoint_positions")


def advance(learned_map: LearnedMap, state: State, rng: np.random.Generator, temperature: float | None = None) -> State:
    """State after one jump, on the device of the state; as :func:`advance_with_trust`."""
    return advance_with_trust(learned_map, state, rng, temperature)[0]


def advance_with_trust(
    learned_map: LearnedMap,
    state: State,
    rng: np.random.Generator | Sequence[np.random.Generator],
    temperature: float | None = None,
) -> tuple[State, Trust]:
    """State after one jump, and how far it can be trusted; both on the device of the state.

    Parameters
    ----------
    learned_map : LearnedMap
        On any device.
    state : State
        On any device; it travels to that of the map and back.
    rng : numpy.random.Generator or a sequence of them
        Seeds the torch generator of this jump; advanced by one draw. Of a sequence each that of one system of the
        batch, which then gets the numbers it would get alone.
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
    generator = _seeded(rng, there) if isinstance(rng, np.random.Generator) else [_seeded(one, there) for one in rng]
    if here == there:
        return learned_map.with_trust(state, generator=generator, temperature=temperature)
    ended, trust = learned_map.with_trust(
        _there(learned_map, state, there), generator=generator, temperature=temperature
    )
    moved = {name: getattr(ended, name) for name in _MOVING}
    # Of the same atoms, and checked where it was made.
    return state.moved(**{name: None if one is None else one.to(here) for name, one in moved.items()}), trust.to(here)


def _seeded(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))


def _there(learned_map: LearnedMap, state: State, device: torch.device) -> State:
    """The state on another device; of the same atoms as in the last jump only what moves has to travel."""
    last = _travelled.get(learned_map)
    if last is not None and last.device == device and _same_atoms(last.of, state):
        moving = {name: getattr(state, name) for name in _MOVING}
        return last.state.moved(**{name: None if one is None else one.to(device) for name, one in moving.items()})
    made = state.to(device)
    _travelled[learned_map] = _Travelled(state, made, device)
    return made


def _same_atoms(one: State, other: State) -> bool:
    names = (field.name for field in dataclasses.fields(State))
    return all(getattr(one, name) is getattr(other, name) for name in names if name not in _MOVING)


class _Travelled(NamedTuple):
    """A state, and the same on another device."""

    of: State
    state: State
    device: torch.device


# Of each map the last one; a map that is gone takes it along.
_travelled: WeakKeyDictionary[LearnedMap, _Travelled] = WeakKeyDictionary()
