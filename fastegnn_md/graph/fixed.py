"""Neighbours in tensors whose shapes depend on no value, for what is recorded once and run again and again.

Nothing here looks at a value: whether the answer is whole is a tensor, too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import GraphError
from ..state import State
from .neighbours import OVERLAP, EdgeList

# Up to this many all pairs are given: finding the near ones would cost more than they save.
_WHOLE = 2**13
_WHOLE_SIZE = 32  # and in systems of this size
# Pairs that are looked at, of all systems together: 2,048 atoms in one system.
_MOST_PAIRS = 2**22
_ROOM = 1.3  # edges there is room for, over those of the first state
_STEP = 256


class FixedEdges(NamedTuple):
    """Edges, some of which may weigh nothing: loops of the last atom, or pairs beyond the cutoff at its distance."""

    edges: EdgeList
    pair: Tensor | None  # (E,), which of the pairs of FixedNeighbours each edge is; None where edge k is pair k
    whole: Tensor  # bool, no dimensions: all pairs are there, and none is of atoms on each other


class FixedNeighbours:
    """All pairs of a batch of systems of equal size within a cutoff, as edges of a number that is fixed.

    Parameters
    ----------
    state : State
        Whose systems, boundaries and number of neighbours are those of all states to come.
    cutoff : float
        Å.

    Attributes
    ----------
    pairs : Tensor of int64, shape (2, P)
        Receiver and sender of every pair of atoms of a system, sorted by receiver.

    Raises
    ------
    GraphError
        If :meth:`serve` says no.
    """

    def __init__(self, state: State, cutoff: float):
        size = state.equal_counts
        if size is None or not self.serve(state, cutoff):
            raise GraphError("neighbours of a fixed number are for systems of one size, small or twice the cutoff wide")
        self._cutoff, self._size, self._systems = cutoff, size, state.n_systems
        self._pbc = state.pbc[0] if state.periodic else None  # type: ignore[index]
        device = state.device
        atom = torch.arange(size, device=device)
        i, j = (one.flatten() for one in torch.meshgrid(atom, atom, indexing="ij"))
        i, j = i[i != j], j[i != j]
        start = size * torch.arange(state.n_systems, device=device)[:, None]
        self.pairs: Tensor = torch.stack([(start + i).flatten(), (start + j).flatten()])
        self._room: int | None = None
        if self.pairs.shape[1] > _WHOLE or size > _WHOLE_SIZE:
            near = self._distances(state.positions, state.cell)[1] < cutoff
            self._room = _STEP * max(1, math.ceil(_ROOM * int(near.sum()) / _STEP))

    @staticmethod
    def serve(state: State, cutoff: float) -> bool:
        """Whether pairs of such a state can be found: few, and by the one nearest image where it is periodic."""
        size = state.equal_counts
        if size is None or size < 2 or state.n_systems * size * size > _MOST_PAIRS:
            return False
        if not state.periodic:
            return True
        assert state.pbc is not None and state.cell is not None  # of periodic states
        one = all(boundary == state.boundaries[0] for boundary in state.boundaries)
        return one and bool(_wide(state.cell, state.pbc[0], cutoff))

    def __call__(self, positions: Tensor, cell: Tensor | None) -> FixedEdges:
        """Edges of positions (N, 3) in Å, and of cells (B, 3, 3) where the systems are periodic."""
        vector, distance = self._distances(positions, cell)
        near = distance < self._cutoff
        whole = ~(distance < OVERLAP).any()
        if self._pbc is not None and cell is not None:
            whole = whole & _wide(cell, self._pbc, self._cutoff)
        if self._room is None:
            along_x = torch.zeros_like(vector)
            along_x[:, 0] = self._cutoff
            vector = torch.where(near[:, None], vector, along_x)
            return FixedEdges(EdgeList(self.pairs, vector, vector.norm(dim=1, keepdim=True)), None, whole)
        count = near.cumsum(0)
        # The k-th near pair goes to place k; all others to a place at the end that nobody reads.
        place = torch.where(near, count - 1, self._room).clamp(max=self._room)
        pair = count.new_zeros(self._room + 1).scatter_(0, place, self._numbers())[:-1]
        found = torch.arange(self._room, device=count.device) < count[-1]
        index = torch.where(found, self.pairs.index_select(1, pair), len(positions) - 1)
        vector = vector.index_select(0, pair)
        along_x = torch.zeros_like(vector)
        along_x[:, 0] = self._cutoff
        vector = torch.where(found[:, None], vector, along_x)
        edges = EdgeList(index, vector, vector.norm(dim=1, keepdim=True))
        return FixedEdges(edges, pair, whole & (count[-1] <= self._room))

    def _numbers(self) -> Tensor:
        return torch.arange(self.pairs.shape[1], device=self.pairs.device)

    def _distances(self, positions: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
        """Vectors (P, 3) from sender to receiver, and their lengths (P,)."""
        vector = positions.index_select(0, self.pairs[0]) - positions.index_select(0, self.pairs[1])
        if self._pbc is not None and cell is not None:
            of_system = vector.view(self._systems, -1, 3)
            shift = torch.where(self._pbc, (of_system @ _inverse(cell)).round(), 0.0)
            vector = (of_system - shift @ cell).view(-1, 3)
        return vector, vector.norm(dim=1)


def _cross(cell: Tensor) -> Tensor:
    """Products b × c, c × a and a × b of the vectors of cells (B, 3, 3), in rows."""
    return torch.linalg.cross(cell.roll(-1, 1), cell.roll(-2, 1))


def _inverse(cell: Tensor) -> Tensor:
    """Inverse of cells (B, 3, 3), without the look at the result that torch's own takes."""
    cross = _cross(cell)
    return (cross / (cross * cell).sum(2, keepdim=True)).transpose(1, 2)


def _wide(cell: Tensor, pbc: Tensor, cutoff: float) -> Tensor:
    """Whether cells (B, 3, 3) are twice the cutoff high along each periodic direction: one image is near at most."""
    cross = _cross(cell)
    height = (cross * cell).sum(2).abs() / cross.norm(dim=2)
    return ((height >= 2 * cutoff) | ~pbc).all()
