"""Jumps translated by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..graph import EdgeList

# Edges up to which a jump that is compiled as a whole is faster on the CPU than one with the C++ kernel.
_COMPILED_EDGES = 4096
# The same on a GPU, with the Triton kernel: a graph holds the hidden values of all edges.
_COMPILED_EDGES_ON_GPU = 2**20
# On a GPU, where a CUDA graph is recorded for each number of edges, it is filled up to a multiple of this.
_PADDED_EDGES = 1024

Move = Callable[..., tuple[Any, ...]]  # from tensors to tensors, or None in their place

# From positions to the edges of each atom and their distance along bonds, (E, 4).
Near = Callable[[Tensor], tuple[EdgeList, Tensor]]


class Atoms(NamedTuple):
    """What stays the same from jump to jump, in the order in which ``_move`` and ``_kick`` take it."""

    masses: Tensor  # (N,)
    species: Tensor  # (N,), index of the element
    batch: Tensor  # (N,)
    systems: int


class CompiledMove:
    """The arithmetic of a jump, or of a kick, as one piece of compiled code.

    Parameters
    ----------
    move : callable
        From tensors to a tuple of tensors; messages must be weighted by an envelope that is zero at the cutoff.
    cutoff : float
        Å.
    on_cpu : bool
        Else on a GPU, where the code is recorded in CUDA graphs.
    """

    def __init__(self, move: Move, cutoff: float, *, on_cpu: bool):
        self._cutoff, self._on_cpu = cutoff, on_cpu
        self._plain = move

    @cached_property
    def _move(self) -> Move:
        # Called from C++, the kernels of a small molecule take half the time they take when called from Python.
        options: Any = {"cpp_wrapper": True} if self._on_cpu else {"triton.cudagraphs": True}
        return torch.compile(self._plain, dynamic=True, fullgraph=True, options=options)

    def pays(self, edges: EdgeList) -> bool:
        """Whether it is faster than the same arithmetic with the kernels for many edges."""
        return edges.edge_index.shape[1] <= (_COMPILED_EDGES if self._on_cpu else _COMPILED_EDGES_ON_GPU)

    def sized(self, edges: EdgeList, atoms: int) -> EdgeList:
        """Edges to give: lists of a few sizes only where a graph is recorded for each size."""
        return edges if self._on_cpu else edges.padded(_PADDED_EDGES, self._cutoff, atoms)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """What ``move`` gives."""
        if self._on_cpu:
            return self._move(*inputs)
        torch.compiler.cudagraph_mark_step_begin()
        # What a graph returns is its own, and overwritten by its next run.
        return tuple(None if one is None else one.clone() for one in self._move(*inputs))
