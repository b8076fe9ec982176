"""What a propagator says of a state, and how wrong it is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
