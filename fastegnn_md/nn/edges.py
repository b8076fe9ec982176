"""The real graph of one call of a network, as its layers see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..segments import Segments
from .edge_sums import sum_over_edges
from .recording import is_recording
from .virtual import safe_sqrt

# From what K edges take from their receivers and senders, x_i - x_j (K, 3) and attributes to values of shape (K, ...).
Messages = Callable[[list[Tensor], list[Tensor], Tensor, Tensor], tuple[Tensor, ...]]


# Edges of a block: their features and vectors stay in a third-level cache. A GPU wants more work at a time.
_BLOCK, _BLOCK_ON_GPU = 2**16, 2**22


@dataclass(frozen=True)
class EdgeBlock:
    """Some edges of a graph, or all; names as in :class:`Edges`."""

    receivers: Segments
    index: Tensor  # (2, E)
    attributes: Tensor  # (E, D)
    weight: Tensor | None  # (E, 1)
    shift: Tensor | None  # (E, 3)
    direction: tuple[Tensor, Tensor] | None  # (E, 3) and (E, 1)

    def difference(self, x: Tensor) -> Tensor:
        """x_i - x_j (E, 3) of positions (N, 3)."""
        difference = self.receivers.gather(x) - x.index_select(0, self.index[1])
        return difference if self.shift is None else difference + self.shift

    def sum(self, values: Tensor, into: Tensor | None = None) -> Tensor:
        """Sums (N, ...) of values (E, ...) over the edges of each receiver, weighted; added to others if given."""
        if self.weight is not None:
            values = values * self.weight.view(-1, *[1] * (values.dim() - 1))
        return self.receivers.sum(values) if into is None else self.receivers.add_to(into, values)


class Edges:
    """The real graph of one call.

    Attributes
    ----------
    shift : list of Tensor, shape (E, 3)
        What is added to x_i - x_j where layers move positions; empty for nothing.
    vector : Tensor, shape (E, 3), or None
        x_i - x_j where they do not.
    """

    index: Tensor
    attributes: Tensor

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
        if index.is_cuda and not is_recording(index) and bool((index[0].diff() < 0).any()):
            order = index[0].argsort(stable=True)  # as the kernel for GPUs wants it; the order of edges means nothing
            index, attributes = index[:, order], attributes[order]
            vector, weight = (None if one is None else one[order] for one in (vector, weight))
        self.index, self.attributes = index, attributes
        self.weight: list[Tensor] = [] if weight is None else [weight[:, None]]
        self.receivers: Segments = Segments(index[0], x.shape[0])
        self.shift: list[Tensor] = []
        self.vector: Tensor | None = None
        self._direction: tuple[Tensor, Tensor] | None = None
        difference = None
        if vector is None or positions_move:
            difference = self.receivers.gather(x) - x.index_select(0, index[1])
        if positions_move:
            self.shift = [] if vector is None or difference is None else [vector - difference]
            return
        self.vector = difference if vector is None else vector

    @property  # torch.compile cannot follow functools.cached_property of Python 3.11
    def direction(self) -> tuple[Tensor, Tensor] | None:
        """Unit vectors (E, 3) and squared lengths (E, 1) where layers do not move positions, else None."""
        if self._direction is None and self.vector is not None:
            square = self.vector.square().sum(1, keepdim=True)
            self._direction = self.vector / safe_sqrt(square).clamp(min=1e-12), square
        return self._direction

    @cached_property
    def rows(self) -> Tensor:
        """First edge of each receiver, and the number of edges at the end, shape (N + 1,); of edges in order.

        While a graph is recorded the number is that of edges up to the last one that weighs anything: lists of a fixed
        size end with loops of the last atom, which would have thousands of edges.
        """
        receiver = self.receivers.index
        rows = torch.searchsorted(receiver, torch.arange(self.receivers.size + 1, device=receiver.device))
        if self.weight and is_recording(receiver):
            place = torch.arange(1, len(receiver) + 1, device=receiver.device)
            rows = rows.minimum(torch.where(self.weight[0][:, 0] != 0, place, 0).max())
        return rows

    def blocks(self) -> Iterator[EdgeBlock]:
        """At least one block: all edges, or where no gradient is recorded a part at a time."""
        direction = self.direction
        whole = EdgeBlock(
            self.receivers,
            self.index,
            self.attributes,
            self.weight[0] if self.weight else None,
            self.shift[0] if self.shift else None,
            direction,
        )
        edges, size = self.index.shape[1], _BLOCK if self.index.device.type == "cpu" else _BLOCK_ON_GPU
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or edges <= size:
            yield whole
            return
        pieces = [slice(begin, min(edges, begin + size)) for begin in range(0, edges, size)]
        for piece, receivers in zip(pieces, self.receivers.parts(pieces), strict=True):
            yield EdgeBlock(
                receivers,
                whole.index[:, piece],
                whole.attributes[piece],
                None if whole.weight is None else whole.weight[piece],
                None if whole.shift is None else whole.shift[piece],
                None if direction is None else (direction[0][piece], direction[1][piece]),
            )

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
        return sum_over_edges(values, self.receivers, self.index[1], [*at_receiver, x], [*at_sender, x], edge, modules)

    def averaged(self, sums: Tensor, neighbours: float | None = None) -> Tensor:
        """Sums (N, ...) divided by the number of neighbours of each node, or by a constant."""
        return self.receivers.divide(sums) if neighbours is None else sums / neighbours
