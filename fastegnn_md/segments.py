"""Sums and means of edge values per node, behind one function with two back-ends.

``"native"`` (:meth:`torch.Tensor.index_add_`) is the default: for (55000, 64) float32 values on one CPU core its
forward plus backward pass takes as long as that of ``scatter_add_`` and needs no expanded index. ``"torch_scatter"`` is
optional (extra ``scatter``): it sorts the index and reduces by rows, which makes sums on the GPU reproducible bit for
bit, and it can be differentiated once.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from .errors import GraphError, MissingDependencyError

BACKENDS = ("native", "torch_scatter")


def available_backends() -> tuple[str, ...]:
    """Names of the back-ends that are installed here, the default first."""
    return tuple(name for name in BACKENDS if name == "native" or find_spec(name) is not None)


def segment_sum(values: Tensor, index: Tensor, size: int, backend: str = "native") -> Tensor:
    r"""Sum the values that share an index: :math:`y_i = \sum_{e:\,\mathrm{index}_e = i} v_e`.

    Parameters
    ----------
    values : torch.Tensor, (n_edges, ...)
        One value per edge, in any unit.
    index : torch.Tensor, (n_edges,), int64
        The segment (node, graph) each value belongs to, in any order.
    size : int
        Number of segments.
    backend : {"native", "torch_scatter"}
        Who does the sum.

    Returns
    -------
    torch.Tensor, (size, ...)
        The sums, in the unit of the values; 0 for a segment without values.

    Raises
    ------
    GraphError
        If the shapes do not fit or (on the CPU) an index lies outside ``[0, size)``.
    ValueError
        If there is no such back-end.
    MissingDependencyError
        If the back-end is not installed.
    """
    _check(values, index, size)
    if backend == "native":
        return values.new_zeros((size, *values.shape[1:])).index_add_(0, index, values)
    if backend == "torch_scatter":
        return _torch_scatter_sum(values, index, size)
    raise ValueError(f"unknown scatter back-end {backend!r}; expected one of {', '.join(BACKENDS)}")


def segment_mean(values: Tensor, index: Tensor, size: int, backend: str = "native") -> Tensor:
    """Average the values that share an index; a segment without values gets 0.

    Parameters, units and errors are those of :func:`segment_sum`.

    Returns
    -------
    torch.Tensor, (size, ...)
        The sums divided by ``max(1, number of values)``.
    """
    total = segment_sum(values, index, size, backend)
    count = _count(index, size).clamp_(min=1).to(values.dtype)
    return total / count.view(-1, *[1] * (values.dim() - 1))


class Segments:
    """An index that values are summed over again and again: checked and counted once.

    Parameters
    ----------
    index : torch.Tensor, (n_edges,), int64
    size : int
        Number of segments.

    Raises
    ------
    GraphError
        As :func:`segment_sum`.
    """

    def __init__(self, index: Tensor, size: int):
        _check(index, index, size)
        self.index, self.size = index, size
        self._counts: Tensor | None = None

    def sum(self, values: Tensor) -> Tensor:
        """Sums of values (n_edges, ...), shape (size, ...)."""
        if self.size == 1:
            return values.sum(0, keepdim=True)
        return values.new_zeros((self.size, *values.shape[1:])).index_add_(0, self.index, values)

    def mean(self, values: Tensor) -> Tensor:
        """Means of values (n_edges, ...), shape (size, ...); a segment without values gets 0."""
        return self.divide(self.sum(values))

    def divide(self, sums: Tensor) -> Tensor:
        """Divide sums (size, ...) by the number of values of their segment."""
        if self._counts is None:
            self._counts = _count(self.index, self.size).clamp_(min=1)
        return sums / self._counts.view(-1, *[1] * (sums.dim() - 1)).to(sums.dtype)

    def weighted_mean(self, values: Tensor, weights: Tensor) -> Tensor:
        """Means of values (n_edges, d) with weights (n_edges,), shape (size, d), where weights do not sum to zero."""
        if self.size == 1:
            return (weights @ values / weights.sum())[None]
        return self.sum(weights[:, None] * values) / self.sum(weights)[:, None]

    def spread(self, values: Tensor) -> Tensor:
        """Give each member the value (size, ...) of its segment, shape (n_edges, ...)."""
        if self.size == 1:
            return values.expand(len(self.index), *values.shape[1:])
        return values.index_select(0, self.index)


def _count(index: Tensor, size: int) -> Tensor:
    # Not torch.bincount: it waits for the GPU to learn the largest index.
    return index.new_zeros(size).index_add_(0, index, torch.ones_like(index))


def _torch_scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    try:
        from torch_scatter import segment_csr
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the scatter back-end 'torch_scatter' needs torch_scatter, which is not installed; "
            "install the extra: pip install 'fastegnn-md[scatter]'"
        ) from error
    # A stable order fixes the order of the additions, and with it every bit of the result.
    order = torch.argsort(index, stable=True)
    ends = _count(index, size).cumsum(0)
    return segment_csr(values[order].contiguous(), torch.cat((ends.new_zeros(1), ends)), reduce="sum")


def _check(values: Tensor, index: Tensor, size: int) -> None:
    if index.dim() != 1 or index.dtype != torch.int64 or values.shape[:1] != index.shape:
        raise GraphError(
            f"expected values (n_edges, ...) and an int64 index (n_edges,), got values {tuple(values.shape)} "
            f"and index {tuple(index.shape)} of {index.dtype}"
        )
    if torch.compiler.is_compiling():
        return  # a look at values would split the graph; who compiles has checked them
    # On a GPU the look at the values would wait for the device at every layer; its kernels assert the range themselves.
    if index.device.type == "cpu" and index.numel():
        low, high = (int(bound) for bound in torch.aminmax(index))
        if low < 0 or high >= size:
            raise GraphError(f"the index runs from {low} to {high}, outside the {size} segments [0, {size})")
