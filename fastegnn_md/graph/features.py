"""Invariant features of edges: radial basis, cutoff envelope, distance along bonds; and which edges are short."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cutoff_envelope(distance: Tensor, cutoff: float) -> Tensor:
    """Twice continuously differentiable step from 1 at zero to 0 at the cutoff: 1 - 10u³ + 15u⁴ - 6u⁵, u = r/cutoff."""
    u = (distance / cutoff).clamp(max=1.0)
    return 1.0 - u**3 * (10.0 - 15.0 * u + 6.0 * u**2)


def bessel_basis(distance: Tensor, cutoff: float, functions: int) -> Tensor:
    """Radial functions sin(nπr/cutoff)/r, n = 1..functions (Gasteiger et al., DimeNet, 2020, Eq. 7, unnormalised).

    Parameters
    ----------
    distance : Tensor, shape (E, 1), Å
    cutoff : float
        Å.
    functions : int

    Returns
    -------
    Tensor, shape (E, functions), 1/Å
    """
    order = torch.arange(1, functions + 1, dtype=distance.dtype, device=distance.device)
    return torch.sin(distance * (order * (math.pi / cutoff))) / distance


def bond_distance(edge_index: Tensor, bonds: Tensor, atoms: int) -> Tensor:
    """Number of bonds between the atoms of each edge, as one-hot columns for 1, 2, 3 and "more or none".

    Parameters
    ----------
    edge_index : Tensor of int64, shape (2, E)
    bonds : Tensor of int64, shape (M, 2)
        Bonded pairs, each once.
    atoms : int
        Number of atoms N that indices refer to.

    Returns
    -------
    Tensor of int64, shape (E, 4)
    """
    # A path from a to b is kept as the one number a * atoms + b: sorting numbers is much cheaper than sorting rows.
    both = (torch.cat([bonds[:, 0], bonds[:, 1]]) * atoms + torch.cat([bonds[:, 1], bonds[:, 0]])).unique()
    paths = [both]
    for _ in range(2):
        paths.append(_extend(paths[-1], both, atoms))
    edges = edge_index[0] * atoms + edge_index[1]
    column = torch.full_like(edges, 3)
    for steps in (2, 1, 0):  # the shortest path is written last
        column[torch.isin(edges, paths[steps])] = steps
    return torch.nn.functional.one_hot(column, 4)


def _extend(paths: Tensor, both: Tensor, atoms: int) -> Tensor:
    """Continue each path by every bond of its last atom; ``both`` is sorted, so by its first atom."""
    begin, last = paths // atoms, paths % atoms
    degree = torch.bincount(both // atoms, minlength=atoms)
    first_bond = degree.cumsum(0) - degree
    repeats = degree.index_select(0, last)
    within = torch.arange(int(repeats.sum()), device=paths.device)
    within = within - (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    end = both[first_bond.index_select(0, last).repeat_interleave(repeats) + within] % atoms
    return (begin.repeat_interleave(repeats) * atoms + end).unique()


def shortest_edges(length: Tensor, system: Tensor, dropped: float) -> Tensor:
    """Which edges stay when the longest share of each system is dropped (the paper's edge dropping rate p).

    Parameters
    ----------
    length : Tensor, shape (E,)
        Lengths, or anything that grows with them.
    system : Tensor of int64, shape (E,)
        System of each edge.
    dropped : float
        p in [0, 1]: of the E edges of a system, round((1 - p) E) stay; p = 1 leaves none.

    Returns
    -------
    Tensor of int64, shape (K,)
        Indices of the edges that stay, ascending.

    Raises
    ------
    ValueError
        If the share is outside [0, 1].
    """
    if not 0.0 <= dropped <= 1.0:
        raise ValueError(f"the share of dropped edges is {dropped}; expected a number from 0 to 1")
    counts = torch.bincount(system)
    by_length = length.argsort(stable=True)
    order = by_length[system.index_select(0, by_length).argsort(stable=True)]  # by system, then by length
    ordered_system = system.index_select(0, order)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).index_select(0, ordered_system)
    keep_count = ((1.0 - dropped) * counts.double()).round().long()
    return order[rank < keep_count.index_select(0, ordered_system)].sort().values
