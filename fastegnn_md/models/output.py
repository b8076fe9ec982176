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
    h : Tensor, shape (N, H)
        Node features after the last layer.
    z : Tensor, shape (B, C, 3), or None
        Positions of the virtual nodes, None where they have none.
    s : Tensor, shape (B, C, H), or None
        Features of the virtual nodes, None without virtual nodes.
    v : Tensor, shape (N, 3), or None
        Predicted velocities, for models with vector channels.
    clusters : Tensor, shape (N, P), or None
        Share of each node in each cluster of its system, for models that pool.
    connectivity_loss : Tensor of no dimensions, or None
        What a model that pools adds to its training loss, with a weight.
    """

    x: Tensor
    h: Tensor
    z: Tensor | None = None
    s: Tensor | None = None
    v: Tensor | None = None
    clusters: Tensor | None = None
    connectivity_loss: Tensor | None = None
