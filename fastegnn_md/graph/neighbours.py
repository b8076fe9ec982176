"""Pairs of atoms within a cutoff, by minimum image where a system is periodic."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from vesin import NeighborList

from ..errors import GraphError
from ..state import State

# Closer than this two atoms are one by mistake: directions between them mean nothing.
_OVERLAP = 1e-3  # Å
# Up to this size comparing all pairs in one batched call is cheaper than one cell list per system.
_DENSE_ATOMS = 64


class EdgeList(NamedTuple):
    """Directed edges, each pair in both directions, sorted by receiver.

    Attributes
    ----------
    edge_index : Tensor of int64, shape (2, E)
        Row 0 the receiver i, row 1 the sender j.
    vector : Tensor, shape (E, 3), Å
        x_i - x_j by the periodic image that is within the cutoff.
    distance : Tensor, shape (E, 1), Å
        Its length.
    """

    edge_index: Tensor
    vector: Tensor
    distance: Tensor


def neighbour_list(state: State, cutoff: float, backend: str = "auto") -> EdgeList:
    """All pairs of each system of a batch that are closer than the cutoff.

    Parameters
    ----------
    state : State
        Positions may be unwrapped: pairs and vectors do not change when an atom is moved by a lattice vector.
    cutoff : float
        Radius in Å.
    backend : {"auto", "vesin", "dense"}
        ``vesin``: cell lists, any boundary. ``dense``: all pairs of isolated systems of equal size in one batched call.
        ``auto`` takes dense for batches of small isolated systems, else vesin.

    Raises
    ------
    GraphError
        If the back-end is unknown or unfit, or two atoms lie on each other.
    """
    if backend == "auto":
        backend = "dense" if _dense_fits(state) else "vesin"
    if backend not in _BACKENDS:
        raise GraphError(f"unknown neighbour list {backend!r}; available: {', '.join(available_neighbour_lists())}")
    index, vector = _BACKENDS[backend](state, float(cutoff))
    distance = vector.norm(dim=1, keepdim=True)
    if distance.numel() and float(distance.detach().min()) < _OVERLAP:
        i, j = index[:, int(distance.argmin())].tolist()
        raise GraphError(
            f"atoms {i} and {j} are {float(distance.detach().min()):.1e} Å apart; separate overlapping atoms"
        )
    return EdgeList(index, vector, distance)


def available_neighbour_lists() -> tuple[str, ...]:
    """Names of the back-ends of :func:`neighbour_list`."""
    return tuple(sorted(_BACKENDS))


def minimum_image(vectors: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """Shortest of the periodic images of each vector, for vectors shorter than half of the shortest cell height.

    Parameters
    ----------
    vectors : Tensor, shape (M, 3), Å
    cell : Tensor, shape (M, 3, 3), Å
        Cell vectors in rows.
    pbc : Tensor of bool, shape (M, 3)
    """
    shift = torch.where(pbc, fractional(vectors, cell).round(), 0.0)
    if _same_cell(cell):
        return vectors - shift @ cell[0]
    return vectors - torch.bmm(shift[:, None], cell).squeeze(1)


def fractional(vectors: Tensor, cell: Tensor) -> Tensor:
    """Coordinates in units of the cell vectors; shapes as in :func:`minimum_image`."""
    if _same_cell(cell):
        return vectors @ torch.linalg.inv(cell[0])
    return torch.linalg.solve(cell, vectors[:, None], left=False).squeeze(1)


def _same_cell(cell: Tensor) -> bool:
    """Whether one cell was expanded to all vectors: it is inverted once."""
    return len(cell) > 0 and cell.stride(0) == 0


def _dense_fits(state: State) -> bool:
    if state.periodic:
        return False
    atoms, systems = state.n_atoms, state.n_systems
    return atoms <= _DENSE_ATOMS * systems and bool((state.atom_counts == atoms // systems).all())


def _dense(state: State, cutoff: float) -> tuple[Tensor, Tensor]:
    if state.periodic or state.n_atoms % state.n_systems or bool((state.atom_counts != state.atom_counts[0]).any()):
        raise GraphError("the dense neighbour list takes isolated systems of equal size; use 'vesin'")
    size = state.n_atoms // state.n_systems
    x = state.positions.view(-1, size, 3)
    square = (x[:, :, None] - x[:, None]).square().sum(-1)
    near = (square < cutoff * cutoff) & ~torch.eye(size, dtype=torch.bool, device=x.device)
    system, i, j = near.nonzero().unbind(1)
    index = torch.stack([i, j]) + system * size
    return index, state.positions.index_select(0, index[0]) - state.positions.index_select(0, index[1])


def _vesin(state: State, cutoff: float) -> tuple[Tensor, Tensor]:
    finder = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    indices, vectors, start = [], [], 0
    for system, count in enumerate(state.atom_counts.tolist()):
        x = state.positions[start : start + count]
        cell, pbc = torch.zeros(3, 3, dtype=x.dtype, device=x.device), [False] * 3
        if state.cell is not None and state.pbc is not None:
            pbc = state.pbc[system].tolist()
            if any(pbc):
                cell = state.cell[system]
                # A wrapped copy: far images would cost precision and are refused by cell lists.
                images = fractional(x, cell.expand(count, 3, 3)).floor()
                x = x - torch.where(state.pbc[system], images, 0.0) @ cell
        pairs, shifts = finder.compute(
            points=x.detach().cpu().double().numpy(),
            box=cell.detach().cpu().double().numpy(),
            periodic=pbc,
            quantities="PS",
        )
        index = torch.as_tensor(pairs.astype("int64"), device=x.device).T
        vector = x.index_select(0, index[0]) - x.index_select(0, index[1])
        if any(pbc):
            vector = vector - torch.as_tensor(shifts, dtype=x.dtype, device=x.device) @ cell
        indices.append(index + start)
        vectors.append(vector)
        start += count
    return torch.cat(indices, dim=1), torch.cat(vectors)


_BACKENDS: dict[str, Callable[[State, float], tuple[Tensor, Tensor]]] = {"dense": _dense, "vesin": _vesin}
