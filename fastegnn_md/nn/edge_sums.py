"""Sums of edge values per node without ever holding the values of all edges.

The hidden values of edges are what fills memory and caches in a graph network: those of 58,732 edges, 64 wide, are
15 MB, and a layer makes a dozen such tensors. Here edges are taken in pieces that stay in the cache, and nothing of
them is kept: the backward pass computes them again (Chen et al., arXiv:1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..segments import Segments

# Edges of a piece: 4,096 x 64 float32 values are a megabyte, which is what fits into a second-level cache.
PIECE = 4096
_PIECE_ON_GPU = 2**18  # what keeps a GPU busy
# Up to here the values of all edges are kept for the backward pass: nothing to gain from computing them twice.
KEPT = 8192

Values = Callable[[list[Tensor], list[Tensor], list[Tensor]], tuple[Tensor, ...]]


def sum_over_edges(
    values: Values,
    receivers: Segments,
    senders: Tensor,
    at_receiver: Sequence[Tensor],
    at_sender: Sequence[Tensor],
    at_edge: Sequence[Tensor],
    modules: Sequence[nn.Module],
) -> tuple[Tensor, ...]:
    """Sum functions of edges over the edges of each receiver.

    Parameters
    ----------
    values : callable
        From the inputs of K edges, gathered, to tensors of shape (K, ...). It must treat each edge alone, and may
        overwrite what was gathered from nodes where no gradient is recorded.
    receivers : Segments
        Receiver of each edge, among N nodes.
    senders : Tensor of int64, shape (E,)
        Sender of each edge.
    at_receiver, at_sender : sequence of Tensor, shape (N, ...)
        Inputs that an edge takes from its receiver and its sender.
    at_edge : sequence of Tensor, shape (E, ...)
        Inputs of its own.
    modules : sequence of Module
        Whose parameters ``values`` uses. Parameters that it uses beside these get no gradient.

    Returns
    -------
    tuple of Tensor, shape (N, ...)
        One sum per tensor of ``values``. They can be differentiated once.
    """
    layout = _Layout(values, receivers, senders, len(at_receiver), len(at_sender))
    inputs = [*at_receiver, *at_sender, *at_edge]
    # A compiler fuses what pieces keep in the cache, and would repeat its code for each of them.
    if torch.compiler.is_compiling():
        return layout.sums_at_once(inputs)
    edges = len(senders)
    if torch.is_grad_enabled():
        parameters = [parameter for module in modules for parameter in module.parameters()]
        if edges > KEPT and any(one.requires_grad for one in (*inputs, *parameters)):
            return _Recomputed.apply(layout, len(inputs), *inputs, *parameters)
        return layout.sums_at_once(inputs)
    return layout.sums(inputs) if edges > PIECE else layout.sums_at_once(inputs)


def pieces(senders: Tensor) -> list[slice]:
    """Pieces that cover all edges (E,)."""
    edges, size = len(senders), PIECE if senders.device.type == "cpu" else _PIECE_ON_GPU
    return [slice(begin, min(edges, begin + size)) for begin in range(0, edges, size)]


class _Piece(NamedTuple):
    """Some of the edges, or all."""

    edges: slice
    receivers: Segments
    senders: Tensor


class _Layout:
    """Who takes part in a sum: all but the tensors."""

    def __init__(self, values: Values, receivers: Segments, senders: Tensor, at_receiver: int, at_sender: int):
        self.values = values
        self.all = _Piece(slice(None), receivers, senders)
        self.ends = at_receiver, at_receiver + at_sender

    def pieces(self) -> list[_Piece]:
        """Pieces that cover all edges."""
        _, receivers, senders = self.all
        edges = pieces(senders)
        return [_Piece(some, part, senders[some]) for some, part in zip(edges, receivers.parts(edges), strict=True)]

    def gather(self, inputs: Sequence[Tensor], piece: _Piece) -> list[Tensor]:
        """Inputs of the edges of a piece."""
        first, second = self.ends
        return [
            *(piece.receivers.gather(one) for one in inputs[:first]),
            *(one.index_select(0, piece.senders) for one in inputs[first:second]),
            *(one if piece is self.all else one[piece.edges] for one in inputs[second:]),
        ]

    def compute(self, gathered: list[Tensor]) -> tuple[Tensor, ...]:
        """Values of the edges of a piece."""
        first, second = self.ends
        return self.values(gathered[:first], gathered[first:second], gathered[second:])

    def add(self, total: Tensor, slot: int, piece: _Piece, gradient: Tensor) -> None:
        """Add the gradient of what was gathered to that of the input it came from."""
        first, second = self.ends
        if slot < first:
            piece.receivers.add_to(total, gradient)
        elif slot < second:
            total.index_add_(0, piece.senders, gradient)
        else:
            total[piece.edges] += gradient

    def sums_at_once(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Sums over the receivers, from the values of all edges."""
        values = self.compute(self.gather(inputs, self.all))
        return tuple(self.all.receivers.sum(value.to(_total_dtype(value))) for value in values)

    def sums(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The same in pieces, of at least one edge."""
        sums: list[Tensor] = []
        for piece in self.pieces():
            values = self.compute(self.gather(inputs, piece))
            if not sums:
                sums = [self._zeros(value) for value in values]
            for total, value in zip(sums, values, strict=True):
                piece.receivers.add_to(total, value.to(total.dtype))
        return tuple(sums)

    def _zeros(self, value: Tensor) -> Tensor:
        return value.new_zeros((self.all.receivers.size, *value.shape[1:]), dtype=_total_dtype(value))


class _Recomputed(torch.autograd.Function):
    """The sums; ``tensors`` are the inputs of the edges, ``count`` of them, then the parameters."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.layout, ctx.count = layout, count
        ctx.save_for_backward(*tensors)
        return layout.sums(tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *wanted: Tensor) -> tuple[Tensor | None, ...]:
        layout: _Layout = ctx.layout
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        slots = [k for k, need in enumerate(needed) if need]
        gradients = [torch.zeros_like(one) if need else None for one, need in zip(tensors, needed, strict=True)]
        for piece in layout.pieces():
            with torch.enable_grad():
                gathered = [
                    one.detach().requires_grad_(need)
                    for one, need in zip(layout.gather(tensors[: ctx.count], piece), needed, strict=False)
                ]
                values = layout.compute(gathered)
            leaves = [*gathered, *tensors[ctx.count :]]
            # A value may depend on nothing that wants a gradient.
            asked = [k for k, value in enumerate(values) if value.requires_grad]
            found = torch.autograd.grad(
                [values[k] for k in asked],
                [leaves[k] for k in slots],
                [piece.receivers.gather(wanted[k]) for k in asked],
                allow_unused=True,
            )
            for k, gradient in zip(slots, found, strict=True):
                total = gradients[k]
                if gradient is None or total is None:
                    continue
                if k < ctx.count:
                    layout.add(total, k, piece, gradient)
                else:
                    total += gradient
        return None, None, *gradients


def _total_dtype(value: Tensor) -> torch.dtype:
    """Sums of half-precision values are made in single precision."""
    return torch.promote_types(value.dtype, torch.float32)
