"""What a propagator says of a state, and how wrong it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CompatibilityError
from ..mechanics.thermal import thermal_velocities
from ..state import State


class Residual(NamedTuple):
    """Errors of a batch in units of the residual scale of each element (predicted minus true)."""

    x: Tensor  # (N, 3)
    v: Tensor | None  # (N, 3)
    z: Tensor | None  # (B, C, 3), Å, in the frame of the positions
    connectivity: Tensor | None = None  # connectivity loss of an architecture that pools


class Prediction(NamedTuple):
    """What the network says of a state."""

    displacement: Tensor  # (N, 3), Å
    velocities: Tensor | None  # (N, 3), Å/ps; None in position mode
    z: Tensor | None  # (B, C, 3), Å, virtual nodes
    connectivity: Tensor | None = None  # as in Residual

    def end(self, state: State, generator: torch.Generator | None, temperature: float | None) -> State:
        """Where the state comes to; arguments, dtype and errors of :meth:`Propagator.forward`."""
        velocities = self.velocities
        if velocities is None:
            if generator is None or temperature is None:
                raise CompatibilityError(
                    "this propagator predicts positions only and redraws velocities: give generator and temperature (K)"
                )
            velocities = thermal_velocities(state.masses, temperature, generator)
        return state.replace(
            positions=state.positions + self.displacement.to(state.dtype),
            velocities=velocities.to(state.dtype),
            forces=None,
            midpoint_forces=None,
        )

    def residual(self, start: State, end: State, scale: Tensor) -> Residual:
        """Errors in units of a scale (N, 2); ``start`` and ``end`` as in :meth:`Propagator.residual`."""
        dtype = scale.dtype
        weight = start.masses.sqrt()[:, None].to(dtype) / scale
        error_x = (self.displacement - (end.positions - start.positions).to(dtype)) * weight[:, :1]
        error_v = None
        if self.velocities is not None:
            error_v = (self.velocities - end.velocities.to(dtype)) * weight[:, 1:]
        return Residual(error_x, error_v, self.z, self.connectivity)
