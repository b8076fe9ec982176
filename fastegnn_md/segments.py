"""Sums, means and gathers by segment: of the edges of each node, of the nodes of each system.

Networks, mechanics and training make them here, by one of two back-ends:

- ``native``: :meth:`torch.Tensor.index_add_` and :meth:`torch.Tensor.index_select`;
- ``torch_scatter`` (extra ``scatter``): ``segment_csr`` and ``gather_csr`` where the index does not decrease, as those
  of the receivers of a neighbour list and of the systems of a batch, and ``scatter_add`` elsewhere. Rows are summed in
  their order, on a GPU too, where the bits that ``native`` gives depend on chance.

``auto``, the default, is the faster one: ``native``, as ``benchmarks/backends.py`` measures (docs/performance.md). The
back-end is chosen by an argument, else by :func:`segment_backend` around the code, else by the environment variable
``FASTEGNN_MD_SEGMENTS``; an index remembers what was chosen when it was made, and gradients follow it. What
``torch.compile`` translates is native whatever was chosen: a compiler makes one loop of a sum and what it sums.

Not made here: sums inside the C++ and Triton kernels of messages; gradients of what edges take from their senders,
which are in no order (:meth:`~torch.Tensor.index_add_`, by autograd and in backward passes that are written out);
counts, which have no gradient; and maxima.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ConfigError, GraphError, MissingDependencyError

BACKENDS = ("native", "torch_scatter")
VARIABLE = "FASTEGNN_MD_SEGMENTS"

_chosen: ContextVar[str | None] = ContextVar("segment_backend", default=None)


def available_backends() -> tuple[str, ...]:
    """Names of the back-ends that are installed here, the default first."""
    return tuple(name for name in BACKENDS if name == "native" or find_spec(name) is not None)


@contextmanager
def segment_backend(name: str) -> Iterator[None]:
    """Choose who makes the sums of this thread: ``with segment_backend("torch_scatter"): propagator(state)``.

    Parameters
    ----------
    name : {"auto", "native", "torch_scatter"}

    Raises
    ------
    ConfigError
        If there is no such back-end.
    MissingDependencyError
        If it is not installed.
    """
    token = _chosen.set(_resolved(name))
    try:
        yield
    finally:
        _chosen.reset(token)


def segment_sum(values: Tensor, index: Tensor, size: int, backend: str | None = None) -> Tensor:
    r"""Sum the values that share an index: :math:`y_i = \sum_{e:\,\mathrm{index}_e = i} v_e`.

    Parameters
    ----------
    values : torch.Tensor, (n_edges, ...)
        One value per edge, in any unit.
    index : torch.Tensor, (n_edges,), int64
        The segment (node, graph) each value belongs to, in any order.
    size : int
        Number of segments.
    backend : {"auto", "native", "torch_scatter"}, optional
        Who does the sum; by default who was chosen, see above.

    Returns
    -------
    torch.Tensor, (size, ...)
        The sums, in the unit of the values; 0 for a segment without values.

    Raises
    ------
    GraphError
        If the shapes do not fit or (on the CPU) an index lies outside ``[0, size)``.
    ConfigError
        If there is no such back-end.
    MissingDependencyError
        If the back-end is not installed.
    """
    _check_shapes(values, index)
    return Segments(index, size, backend).sum(values)


def segment_mean(values: Tensor, index: Tensor, size: int, backend: str | None = None) -> Tensor:
    """Average the values that share an index; a segment without values gets 0.

    Parameters, units and errors are those of :func:`segment_sum`.

    Returns
    -------
    torch.Tensor, (size, ...)
        The sums divided by ``max(1, number of values)``.
    """
    _check_shapes(values, index)
    return Segments(index, size, backend).mean(values)


class Segments:
    """An index that values are summed over again and again: checked, counted and laid out for its back-end once.

    Parameters
    ----------
    index : torch.Tensor, (n_edges,), int64
    size : int
        Number of segments.
    backend : {"auto", "native", "torch_scatter"}, optional
        As in :func:`segment_sum`.

    Attributes
    ----------
    backend : {"native", "torch_scatter"}

    Raises
    ------
    GraphError, ConfigError, MissingDependencyError
        As :func:`segment_sum`.
    """

    index: Tensor
    size: int

    def __init__(self, index: Tensor, size: int, backend: str | None = None):
        _check_shapes(index, index)
        self.index, self.size = index, size
        self.backend: str = "native" if torch.compiler.is_compiling() else _resolved(backend)
        _check_range(index, size, self.backend)
        self._rows = _rows_of(index, size) if self.backend == "torch_scatter" else None
        self._counts: Tensor | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sums of values (n_edges, ...), shape (size, ...)."""
        if self.size == 1:
            return values.sum(0, keepdim=True)
        if self._rows is not None and len(self._rows.pointer) > self.size and values.numel():
            return _RowSums.apply(_members(values, self.index), self._rows.pointer)
        return self.add_to(values.new_zeros((self.size, *values.shape[1:])), values)

    def add_to(self, total: Tensor, values: Tensor) -> Tensor:
        """Add the sums of values (n_edges, ...) to others (size, ...), in their place."""
        if self._rows is not None and values.numel():
            total[self._rows.segments] += _RowSums.apply(_members(values, self.index), self._rows.pointer)
            return total
        if self.backend == "torch_scatter":
            from torch_scatter import scatter_add

            return scatter_add(values, self.index, 0, out=total)
        return total.index_add_(0, self.index, values)

    def mean(self, values: Tensor) -> Tensor:
        """Means of values (n_edges, ...), shape (size, ...); a segment without values gets 0."""
        return self.divide(self.sum(values))

    def divide(self, sums: Tensor) -> Tensor:
        """Divide sums (size, ...) by the number of values of their segment."""
        if self.size == 1:
            return sums / max(1, len(self.index))
        if self._counts is None:
            self._counts = _count(self.index, self.size).clamp_(min=1)
        return sums / self._counts.view(-1, *[1] * (sums.dim() - 1)).to(sums.dtype)

    def weighted_mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Means of values (n_edges, d) with weights (n_edges,), shape (size, d), where weights do not sum to zero."""
        if self.size == 1:
            return (weights @ values / weights.sum())[None]
        return self.sum(weights[:, None] * values) / self.sum(weights)[:, None]

    def gather(self, values: Tensor) -> Tensor:
        """Give each member the value (size, ...) of its segment, in a tensor (n_edges, ...) of its own."""
        if self._rows is not None and values.numel():
            if len(values) != self.size:
                raise GraphError(f"expected values of {self.size} segments, got {tuple(values.shape)}")
            return _RowGather.apply(values[self._rows.segments], self._rows.pointer)
        return values.index_select(0, self.index)

    def spread(self, values: Tensor) -> Tensor:
        """As :meth:`gather`; of a single segment a view, not to be written to."""
        if self.size == 1:
            return values.expand(len(self.index), *values.shape[1:])
        return self.gather(values)

    def parts(self, pieces: Sequence[slice]) -> list[Segments]:
        """Some of the members at a time, with the same segments: for :meth:`add_to` and :meth:`gather`.

        Parameters
        ----------
        pieces : sequence of slice
            With start and stop, none of them empty.
        """
        if len(pieces) == 1 and pieces[0] == slice(0, len(self.index)):
            return [self]  # the time to cut it matters to small graphs
        bounds: Sequence[tuple[int, int] | None] = [None] * len(pieces)
        if pieces and self._rows is not None:  # one look at the index for all pieces: a GPU would be waited for at each
            ends = torch.tensor([(piece.start, piece.stop - 1) for piece in pieces], device=self.index.device)
            bounds = self.index[ends].tolist()
        return [self._part(piece, bound) for piece, bound in zip(pieces, bounds, strict=True)]

    def _part(self, piece: slice, bound: tuple[int, int] | None) -> Segments:
        part = copy(self)
        part.index, part._counts = self.index[piece], None
        if self._rows is not None and bound is not None:
            first, last = bound
            begin = self._rows.segments.start
            pointer = self._rows.pointer[first - begin : last - begin + 2].clamp(piece.start, piece.stop) - piece.start
            part._rows = _Rows(slice(first, last + 1), pointer)
        return part


class _Rows(NamedTuple):
    """An index that does not decrease: members pointer[k] to pointer[k + 1] belong to the k-th of some segments."""

    segments: slice
    pointer: Tensor


class _RowSums(torch.autograd.Function):
    """Sums of rows. Those of torch-scatter would lose the second derivative without a word."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pointer: Tensor) -> Tensor:
        from torch_scatter import segment_csr

        ctx.save_for_backward(pointer)
        return segment_csr(values, pointer, reduce="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (pointer,) = ctx.saved_tensors
        return _RowGather.apply(gradient, pointer), None


class _RowGather(torch.autograd.Function):
    """To each member of a row the row's value."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, pointer: Tensor) -> Tensor:
        from torch_scatter import gather_csr

        ctx.save_for_backward(pointer)
        return gather_csr(values, pointer)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (pointer,) = ctx.saved_tensors
        return _RowSums.apply(gradient, pointer), None


def _resolved(name: str | None) -> str:
    """Name of the back-end to take: one of those there are, installed."""
    asked = name
    if name is None:
        name = _chosen.get() or os.environ.get(VARIABLE) or "auto"
    if name == "auto":
        return "native"
    if name == "torch_scatter":
        try:
            import torch_scatter  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "the scatter back-end 'torch_scatter' needs torch_scatter, which is not installed; "
                "install the extra: pip install 'fastegnn-md[scatter]'"
            ) from error
    elif name != "native":
        source = f" of the environment variable {VARIABLE}" if asked is None else ""
        raise ConfigError(f"unknown scatter back-end {name!r}{source}; expected one of auto, {', '.join(BACKENDS)}")
    return name


def _rows_of(index: Tensor, size: int) -> _Rows | None:
    """The rows of an index, None where it decreases. On a GPU this waits for the device, once per index."""
    if bool((index[1:] < index[:-1]).any()):
        return None
    return _Rows(slice(0, size), torch.searchsorted(index, torch.arange(size + 1, device=index.device)))


def _members(values: Tensor, index: Tensor) -> Tensor:
    # torch-scatter would read past the end of what is too short.
    if len(values) != len(index):
        raise GraphError(f"expected values of {len(index)} members, got {tuple(values.shape)}")
    return values


def _count(index: Tensor, size: int) -> Tensor:
    # Not torch.bincount: it waits for the GPU to learn the largest index.
    return index.new_zeros(size).index_add_(0, index, torch.ones_like(index))


def _check_shapes(values: Tensor, index: Tensor) -> None:
    if index.dim() != 1 or index.dtype != torch.int64 or values.shape[:1] != index.shape:
        raise GraphError(
            f"expected values (n_edges, ...) and an int64 index (n_edges,), got values {tuple(values.shape)} "
            f"and index {tuple(index.shape)} of {index.dtype}"
        )


def _check_range(index: Tensor, size: int, backend: str) -> None:
    if torch.compiler.is_compiling():
        return  # a look at values would split the graph; who compiles has checked them
    # On a GPU the look at the values would wait for the device at every layer; torch's kernels assert the range
    # themselves, torch-scatter's do not.
    if index.numel() and (index.device.type == "cpu" or backend == "torch_scatter"):
        low, high = (int(bound) for bound in torch.aminmax(index))
        if low < 0 or high >= size:
            raise GraphError(f"the index runs from {low} to {high}, outside the {size} segments [0, {size})")
