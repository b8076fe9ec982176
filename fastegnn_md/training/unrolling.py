"""What makes roll-outs last: a loss over successive jumps, and noise on the states that jumps begin from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ..mechanics.motion import centre_of_mass
from ..state import State

if TYPE_CHECKING:
    from ..propagator.learned_map import LearnedMap
    from ..propagator.prediction import Residual


def unrolled_residuals(
    propagator: LearnedMap, start: State, ends: Sequence[State], generator: torch.Generator | None = None
) -> Iterator[Residual]:
    """Errors of successive jumps, each from where the one before has led, with gradients through all of them.

    What a jump makes of a state is the true end plus the error, x̂ = x + Δx, v̂ = v + Δv; the next jump starts there.
    Steps are computed as they are asked for.

    Parameters
    ----------
    propagator : LearnedMap
        A force-free one: nobody knows the forces at a predicted state.
    start : State
        Where the first jump begins.
    ends : sequence of State
        The true states one, two, … lags later, unwrapped relative to ``start``.
    generator : torch.Generator, optional
        Of what the loss of a stochastic map draws.

    Yields
    ------
    Residual
        Errors after each jump, in units of the residual scale.

    Raises
    ------
    StateError
        If a step is asked for after one whose errors were not finite.
    """
    for index, end in enumerate(ends):
        residual = propagator.residual(start, end, generator=generator)
        yield residual
        if index + 1 == len(ends):
            return
        unit = propagator.residual_scale(end) / end.masses.sqrt()[:, None].to(propagator.dtype)
        positions, velocities = end.positions + (residual.x * unit[:, :1]).to(end.dtype), end.velocities
        if residual.v is not None:
            velocities = velocities + (residual.v * unit[:, 1:]).to(end.dtype)
        start = end.replace(positions=positions, velocities=velocities, forces=None)


def perturbed(propagator: LearnedMap, state: State, noise: float, generator: torch.Generator) -> State:
    """A state with Gaussian noise on positions and velocities, as the errors of earlier jumps would leave it.

    δq = ε σ_q ξ / √m and δv = ε σ_p ξ′ / √m, with the residual scales σ of the element and independent standard normal
    ξ, ξ′, less their motion of the centre of mass, which no map that commutes with translations can undo.

    Parameters
    ----------
    propagator : LearnedMap
        Knows the scales.
    state : State
        One system or a batch; not modified. The result has no forces, which nobody knows there.
    noise : float
        ε; a jump with an error of 0.05 of the best linear predictor's leaves noise of 0.05.
    generator : torch.Generator
        On the CPU; advanced.
    """
    draw = torch.randn((state.n_atoms, 6), generator=generator, dtype=state.dtype).to(state.device)
    unit = propagator.residual_scale(state).to(state.dtype) / state.masses.sqrt()[:, None]
    shift = noise * unit.repeat_interleave(3, dim=1) * draw
    shift = shift - centre_of_mass(shift, state)
    velocities = state.velocities
    if propagator.predicts_velocities:
        velocities = velocities + shift[:, 3:]
    return state.replace(positions=state.positions + shift[:, :3], velocities=velocities, forces=None)
