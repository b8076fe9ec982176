"""One call of a propagator by an engine: its device, its random numbers, its result back on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..state import State

if TYPE_CHECKING:
    from .committee import Committee, Spread
    from .full import Propagator


def advance(
    propagator: Propagator | Committee, state: State, rng: np.random.Generator, temperature: float | None = None
) -> State:
    """State after one jump, on the device of the state.

    Parameters
    ----------
    propagator : Propagator or Committee
        On any device.
    state : State
        On any device; it travels to that of the propagator and back.
    rng : numpy.random.Generator
        Seeds the torch generator of this jump; advanced by one draw.
    temperature : float, optional
        K, for propagators that redraw velocities.

    Raises
    ------
    StateError
        If the prediction is not finite.
    CompatibilityError
        If the propagator does not fit the system.
    """
    there, generator = _brought(propagator, state, rng)
    with torch.no_grad():
        ended = propagator(there, generator=generator, temperature=temperature)
    return ended if ended.device == state.device else ended.to(state.device)


def advance_with_spread(
    committee: Committee, state: State, rng: np.random.Generator, temperature: float | None = None
) -> tuple[State, Spread]:
    """State after one jump and how far the members of a committee differ; as :func:`advance`."""
    if not hasattr(committee, "with_spread"):
        return advance(committee, state, rng, temperature), None
    there, generator = _brought(committee, state, rng)
    ended, spread = committee.with_spread(there, generator=generator, temperature=temperature)
    return (ended, spread) if ended.device == state.device else (ended.to(state.device), spread.to(state.device))


def _brought(
    propagator: Propagator | Committee, state: State, rng: np.random.Generator
) -> tuple[State, torch.Generator]:
    """The state on the device of the propagator, and random numbers there."""
    device = state.device
    if isinstance(propagator, torch.nn.Module):
        tensor = next(propagator.parameters(), None)
        device = device if tensor is None else tensor.device
    generator = torch.Generator(device=device)
    generator.manual_seed(int(rng.integers(2**63)))
    return (state if device == state.device else state.to(device)), generator
