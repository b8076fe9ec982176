"""What every architecture returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """Result of a model call.

    Attributes
    ----------
    x : Tensor, shape (N, 3)
        Predicted positions.
    z : Tensor, shape (B, C, 3), or None
        Positions of the virtual nodes, None where they have none.
    h : Tensor, shape (N, H)
        Node features after the last layer.
    s : Tensor, shape (B, C, H)
        Features of the virtual nodes.
    v : Tensor, shape (N, 3), or None
        Predicted velocities, for models with vector channels.
    """

    x: Tensor
    z: Tensor | None
    h: Tensor
    s: Tensor
    v: Tensor | None = None
