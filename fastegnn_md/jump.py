"""One call of a propagator by an engine: its device, its random numbers, its result back on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import ConfigError
from .state import State

if TYPE_CHECKING:
    from .committee import Committee, Spread
    from .propagator import Propagator


def as_generator(rng: np.random.Generator | int | None) -> tuple[np.random.Generator, int | None]:
    """Make a NumPy generator from what a user gives.

    Parameters
    ----------
    rng : numpy.random.Generator, int or None
        A generator, which is used as it is; a seed; or None to draw a seed.

    Returns
    -------
    numpy.random.Generator
    int or None
        The seed, None for a generator whose seed is not known.

    Raises
    ------
    ConfigError
        For anything else, NumPy's old RandomState included.
    """
    if isinstance(rng, np.random.Generator):
        return rng, None
    if rng is None:
        rng = int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)) or rng < 0:
        raise ConfigError(f"rng is {rng!r}; expected a numpy.random.Generator, a seed (an integer >= 0) or None")
    return np.random.default_rng(int(rng)), int(rng)


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
