"""The real graph of one call of a network, as its layers see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .edge_sums import sum_over_edges
from .scatter import Segments
from .virtual import safe_sqrt

# From what K edges take from their receivers and senders, x_i - x_j (K, 3) and attributes to values of shape (K, ...).
Messages = Callable[[list[Tensor], list[Tensor], Tensor, Tensor], tuple[Tensor, ...]]


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

    def sums(
        self,
        messages: Messages,
        x: Tensor,
        at_receiver: Sequence[Tensor],
        at_sender: Sequence[Tensor],
        modules: Sequence[nn.Module],
    ) -> tuple[Tensor, ...]:
        """Sums of messages over the neighbours of each node, in networks whose layers move positions.

        Parameters
        ----------
        messages : callable
            From the inputs of K edges, x_i - x_j (K, 3) and the attributes of the edges to tensors of shape (K, ...);
            what :func:`~fastegnn_md.nn.edge_sums.sum_over_edges` asks of it. The envelope is multiplied here.
        x : Tensor, shape (N, 3)
            Positions as this layer finds them.
        at_receiver, at_sender : sequence of Tensor, shape (N, ...)
            Inputs that an edge takes from its receiver and its sender.
        modules : sequence of Module
            Whose parameters ``messages`` uses.

        Returns
        -------
        tuple of Tensor, shape (N, ...)
        """
        shifted, weighted = bool(self.shift), bool(self.weight)

        def values(receiver: list[Tensor], sender: list[Tensor], edge: list[Tensor]) -> tuple[Tensor, ...]:
            *receiver, here = receiver
            *sender, there = sender
            attributes, *rest = edge
            difference = here - there
            if shifted:
                difference = difference + rest[0]
            found = messages(receiver, sender, difference, attributes)
            if not weighted:
                return found
            return tuple(value * rest[-1].view(-1, *[1] * (value.dim() - 1)) for value in found)

        edge = [self.attributes, *self.shift, *self.weight]
        return sum_over_edges(
            values, self.index, self.receivers.size, [*at_receiver, x], [*at_sender, x], edge, modules
        )

    def averaged(self, sums: Tensor, neighbours: float | None = None) -> Tensor:
        """Sums (N, ...) divided by the number of neighbours of each node, or by a constant."""
        return self.receivers.divide(sums) if neighbours is None else sums / neighbours
