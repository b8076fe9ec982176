"""The real graph of one call of a network, as its layers see it."""

from __future__ import annotations

from torch import Tensor

from .scatter import Segments
from .virtual import safe_sqrt


class Edges:
    """The real graph of one call.

    Attributes
    ----------
    shift : list of Tensor, shape (E, 3)
        What is added to x_i - x_j where layers move positions; empty for nothing.
    direction : tuple of Tensor, shapes (E, 3) and (E, 1)
        Where they do not: unit vectors and squared lengths.
    """

    direction: tuple[Tensor, Tensor]

    def __init__(
        self,
        index: Tensor,
        attributes: Tensor,
        vector: Tensor | None,
        weight: Tensor | None,
        x: Tensor,
        *,
        positions_move: bool,
    ):
        self.index, self.attributes = index, attributes
        self.weight = [] if weight is None else [weight[:, None]]
        self.receivers = Segments(index[0], x.shape[0])
        self.shift: list[Tensor] = []
        difference = None
        if vector is None or positions_move:
            difference = x.index_select(0, index[0]) - x.index_select(0, index[1])
        if positions_move:
            self.shift = [] if vector is None or difference is None else [vector - difference]
            return
        vector = difference if vector is None else vector
        assert vector is not None  # the difference then
        square = vector.square().sum(1, keepdim=True)
        self.direction = vector / safe_sqrt(square).clamp(min=1e-12), square
