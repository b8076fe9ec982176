"""What a learned map says of a state, how far it can be trusted, and how wrong it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CompatibilityError
from ..graph import EdgeList
from ..state import State
from .draws import Generators
from .draws import velocities as thermal


class Residual(NamedTuple):
    """Errors of a batch in units of the residual scale of each element (predicted minus true)."""

    x: Tensor  # (N, 3)
    v: Tensor | None  # (N, 3)
    z: Tensor | None  # (B, C, 3), Å, in the frame of the positions
    connectivity: Tensor | None = None  # connectivity loss of an architecture that pools
    middle: Tensor | None = None  # (N, 3), of positions after half a jump, in the unit of x; kind "symplectic"


class Spread(NamedTuple):
    """How far the K members of a committee differ about each atom, in units of the residual scale of its element.

    x is √( m_i Σ_k |x′_ki − x̄′_i|² / 3(K − 1) ) / σ_q, and v the same of v′ over σ_p; σ is the mean of the members'
    scales (:meth:`Committee.residual_scale`). It is the standard deviation of one component, to be held against the
    components of an error (:meth:`Committee.residual`). At 1 the members differ by as much as the linear predictor
    leaves to the networks: they know nothing.
    """

    x: Tensor  # (N,)
    v: Tensor | None  # (N,); None where velocities are redrawn

    def to(self, device: torch.device | str) -> Spread:
        """The same on another device."""
        return Spread(self.x.to(device), None if self.v is None else self.v.to(device))

    def split(self, sizes: Sequence[int]) -> list[Spread]:
        """The spreads of systems of these numbers of atoms, one after the other."""
        x = self.x.split(list(sizes))
        v = [None] * len(x) if self.v is None else self.v.split(list(sizes))
        return [Spread(*both) for both in zip(x, v, strict=True)]

    @property
    def largest(self) -> Tensor:
        """Of x and v the larger one, shape (N,)."""
        return self.x if self.v is None else torch.maximum(self.x, self.v)


class Trust(NamedTuple):
    """How far a prediction can be trusted."""

    spread: Spread | None = None  # of a committee
    unlike: Tensor | None = None  # (N,), distance of surroundings from those of training, where these were measured

    def to(self, device: torch.device | str) -> Trust:
        """The same on another device."""
        spread, unlike = self
        return Trust(
            None if spread is None else spread.to(device),
            None if unlike is None else unlike.to(device),
        )

    def split(self, sizes: Sequence[int]) -> list[Trust]:
        """Of systems of these numbers of atoms, one after the other."""
        nothing = [None] * len(sizes)
        spreads = nothing if self.spread is None else self.spread.split(sizes)
        unlike = nothing if self.unlike is None else self.unlike.split(list(sizes))
        return [Trust(*both) for both in zip(spreads, unlike, strict=True)]


class Prediction(NamedTuple):
    """What a learned map says of a state."""

    displacement: Tensor  # (N, 3), Å
    velocities: Tensor | None  # (N, 3), Å/ps; None where they are redrawn
    z: Tensor | None = None  # (B, C, 3), Å, virtual nodes
    connectivity: Tensor | None = None  # as in Residual
    trust: Trust = Trust()
    edges: EdgeList | None = None  # that the network looked at first

    def end(self, state: State, generator: Generators | None, temperature: float | None) -> State:
        """Where the state comes to; arguments, dtype and errors of :meth:`LearnedMap.forward`."""
        velocities = self.velocities
        if velocities is None:
            if generator is None or temperature is None:
                raise CompatibilityError(
                    "this propagator predicts positions only and redraws velocities: give generator and temperature (K)"
                )
            velocities = thermal(state, generator, temperature)
        return state.replace(
            positions=state.positions + self.displacement.to(state.dtype),
            velocities=velocities.to(state.dtype),
            forces=None,
            midpoint_forces=None,
            midpoint_positions=None,
        )

    def residual(self, start: State, end: State, scale: Tensor) -> Residual:
        """Errors in units of a scale (N, 2); ``start`` and ``end`` as in :meth:`LearnedMap.residual`."""
        dtype = scale.dtype
        weight = start.masses.sqrt()[:, None].to(dtype) / scale
        error_x = (self.displacement - (end.positions - start.positions).to(dtype)) * weight[:, :1]
        error_v = None
        if self.velocities is not None:
            error_v = (self.velocities - end.velocities.to(dtype)) * weight[:, 1:]
        return Residual(error_x, error_v, self.z, self.connectivity)
