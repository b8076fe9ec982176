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


def one_hot(values: Tensor, classes: int) -> Tensor:
    """Columns of 0 and 1, shape (N, classes), int64, of values (N,) in [0, classes), which nobody looks at."""
    return (values[:, None] == torch.arange(classes, device=values.device)).long()


class BondDistance:
    """Number of bonds between the atoms of an edge, looked up in what follows from the bonds once and for all.

    Parameters
    ----------
    bonds : Tensor of int64, shape (M, 2)
        Bonded pairs, each once.
    atoms : int
        Number of atoms N that indices refer to.
    """

    bonds: Tensor
    atoms: int

    def __init__(self, bonds: Tensor, atoms: int):
        self.bonds, self.atoms = bonds, atoms
        # A path from a to b is kept as the one number a * atoms + b: sorting numbers is much cheaper than sorting rows.
        both = (torch.cat([bonds[:, 0], bonds[:, 1]]) * atoms + torch.cat([bonds[:, 1], bonds[:, 0]])).unique()
        paths = [both]
        for _ in range(2):
            paths.append(_extend(paths[-1], both, atoms))
        # Three bonds first: a stable sort leaves the shortest path of a pair as its last entry.
        pairs = torch.cat(paths[::-1])
        steps = torch.cat([torch.full_like(one, k) for k, one in reversed(list(enumerate(paths)))])
        order = pairs.argsort(stable=True)
        self._pairs, steps = pairs[order], steps[order]
        last = torch.ones_like(self._pairs, dtype=torch.bool)
        last[:-1] = self._pairs[1:] != self._pairs[:-1]
        self._pairs, self._steps = self._pairs[last], steps[last]

    def fits(self, bonds: Tensor, atoms: int) -> bool:
        """Whether it was made from the same bonds."""
        return bonds is self.bonds or (
            atoms == self.atoms and bonds.device == self.bonds.device and torch.equal(bonds, self.bonds)
        )

    def partners(self) -> dict[str, Tensor]:
        """The same by atom: atoms up to three bonds from each, and how many bonds less one.

        Returns
        -------
        dict of Tensor of int64
            ``partners`` and ``steps``, shape (P,), those of atom i from ``partners_begin[i]`` to
            ``partners_begin[i + 1]``, shape (N + 1,).
        """
        begin = torch.searchsorted(self._pairs, torch.arange(self.atoms + 1) * self.atoms)
        return {"partners_begin": begin, "partners": self._pairs % self.atoms, "steps": self._steps}

    def __call__(self, edge_index: Tensor) -> Tensor:
        """One-hot columns for 1, 2, 3 and "more or none", shape (E, 4), of edges (2, E)."""
        edges = edge_index[0] * self.atoms + edge_index[1]
        if not len(self._pairs):
            return one_hot(torch.full_like(edges, 3), 4)
        place = torch.searchsorted(self._pairs, edges).clamp(max=len(self._pairs) - 1)
        known = self._pairs.index_select(0, place) == edges
        return one_hot(torch.where(known, self._steps.index_select(0, place), 3), 4)


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
        p in [0, 1]: of the E edges of a system, round((1 - p) E) stay, and those as long as the longest of them: an
        edge and its reverse stay or go together, whatever the order of the atoms. p = 1 leaves none.

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
    stay = rank < ((1.0 - dropped) * counts.double()).round().long().index_select(0, ordered_system)
    longest = length.new_full(counts.shape, -torch.inf)
    longest.scatter_reduce_(0, ordered_system[stay], length[order[stay]], "amax")
    return (length <= longest.index_select(0, system)).nonzero()[:, 0]
