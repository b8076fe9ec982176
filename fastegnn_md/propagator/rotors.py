"""Groups of a molecule that turn into themselves about a bond: methyl, tert-butyl, carboxylate, phenyl and the like."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..graph.environments import environments

_Adjacency: TypeAlias = list[list[int]]


class Rotor(NamedTuple):
    """Branches of an atom that nothing tells apart, beside the bond about which they turn; in R copies of a molecule.

    Attributes
    ----------
    atoms : Tensor of int64, shape (R, k, m)
        Of k branches the m atoms that take each other's places. Atoms on the axis, as the last ones of a phenyl ring,
        are left out.
    core : Tensor of bool, shape (m,)
        Those that are in no rotor inside a branch.
    inner : Tensor of int64, shape (R, T, 4)
        Methyl groups and the like in the branches: their middle, and three atoms, which keep their handedness.
    """

    atoms: Tensor
    core: Tensor
    inner: Tensor

    def of(self, firsts: Tensor) -> Rotor:
        """The same of copies whose first atoms (R,) are given, of one whose first atom is 0."""
        atoms, inner = (firsts[:, None, None] + one for one in (self.atoms, self.inner))
        return Rotor(atoms, self.core.to(firsts.device), inner)

    def nearest(self, x: Tensor, y: Tensor) -> Tensor:
        """Positions y (N, 3) with the atoms of the branches numbered cyclically as they lie nearest to x (N, 3)."""
        here, there = x[self.atoms], y[self.atoms]  # (R, k, m, 3)
        k = self.atoms.shape[1]
        turns = torch.stack([there.roll(-shift, dims=1) for shift in range(k)], dim=1)
        far = (turns - here[:, None])[:, :, :, self.core].square().sum(dim=(2, 3, 4))
        chosen = turns[torch.arange(len(here), device=x.device), far.argmin(1)]
        y = y.index_copy(0, self.atoms.flatten(), chosen.flatten(0, 2))
        if not self.inner.numel():
            return y
        # Which hydrogen of another methyl group is the first one, bonds do not say; two that are exchanged mirror it.
        mirrored = _sides(x, self.inner) * _sides(y, self.inner) < 0
        wrong = self.inner[mirrored]
        return y.index_copy(0, wrong[:, 1:3].flatten(), y[wrong[:, 1:3].flip(1).flatten()])


def _sides(x: Tensor, inner: Tensor) -> Tensor:
    a, b, c = (x[inner[..., k]] - x[inner[..., 0]] for k in (1, 2, 3))
    return torch.linalg.vecdot(a, torch.linalg.cross(b, c))


@lru_cache(maxsize=64)
def rotors_of(numbers: tuple[int, ...], bonds: tuple[tuple[int, int], ...]) -> tuple[Rotor, ...]:
    """Rotors of one molecule, those that hold others first; R is 1.

    Three branches of an atom with four neighbours, or two of one with three, whose atoms have the same elements and
    bonds. They exchange places cyclically: of an atom with four neighbours that is a rotation, two of one with three
    lie in its plane or swing through it. Branches with other tetrahedral centres than those of methyl groups are left
    as they are, as bonds alone do not tell the handedness of these.

    Parameters
    ----------
    numbers : tuple of int
        Atomic numbers.
    bonds : tuple of (int, int)
    """
    adjacency: _Adjacency = [[] for _ in numbers]
    for a, b in bonds:
        adjacency[a].append(b)
        adjacency[b].append(a)
    if not bonds:
        return ()
    keys = environments(torch.tensor(numbers), torch.tensor(bonds)).tolist()
    found: dict[frozenset[int], list[tuple[int, ...]]] = {}
    for centre, around in enumerate(adjacency):
        if len(around) not in (3, 4):
            continue
        for axis in around:
            roots = [one for one in around if one != axis]
            alike = len({keys[one] for one in roots}) == 1 and keys[axis] != keys[roots[0]]
            whole = len(roots) == 2 and len(adjacency[axis]) == 1  # the rest of the molecule turns, and not a group
            rows = _matched(centre, axis, roots, adjacency, keys) if alike and not whole else None
            if rows is not None:
                found.setdefault(frozenset(atom for row in rows for atom in row), rows)
    trios = [(row, adjacency[row[0]][0]) for rows in found.values() for row in rows if _is_trio(row, adjacency)]
    made = []
    for atoms, rows in sorted(found.items(), key=lambda item: -len(item[1])):
        inside = [(centre, *trio) for trio, centre in trios if centre in atoms and set(trio) < atoms]
        leaves = {atom for _, *trio in inside for atom in trio}
        made.append(
            Rotor(
                torch.tensor(rows).T[None],
                torch.tensor([row[0] not in leaves for row in rows]),
                torch.tensor(inside, dtype=torch.int64).reshape(1, -1, 4),
            )
        )
    return tuple(made)


def _matched(
    centre: int, axis: int, roots: list[int], adjacency: _Adjacency, keys: list[int]
) -> list[tuple[int, ...]] | None:
    """Atoms of the branches from their roots on, those that correspond in one row; None if they are no rotor."""
    rows, seen, at = [tuple(roots)], {centre, *roots}, 0
    while at < len(rows):
        row, at = rows[at], at + 1
        following = [sorted((one for one in adjacency[k] if one not in seen), key=keys.__getitem__) for k in row]
        if len({tuple(keys[one] for one in ahead) for ahead in following}) > 1:
            return None
        for nearer in zip(*following, strict=True):
            distinct = len(set(nearer))
            if axis in nearer or 1 < distinct < len(nearer):
                return None  # a ring through the axis, or branches that meet elsewhere
            if distinct > 1:
                rows.append(nearer)
            seen.update(nearer)
    if any(len(adjacency[row[0]]) == 4 and not _is_methyl(row[0], adjacency, keys) for row in rows):
        return None
    turned = {row[k]: row[(k + 1) % len(row)] for row in rows for k in range(len(row))}
    whole = all(turned.get(b, b) in adjacency[turned.get(a, a)] for a, around in enumerate(adjacency) for b in around)
    return rows if whole else None


def _is_methyl(atom: int, adjacency: _Adjacency, keys: list[int]) -> bool:
    leaves = [keys[one] for one in adjacency[atom] if len(adjacency[one]) == 1]
    return len(leaves) == 3 and len(set(leaves)) == 1


def _is_trio(row: tuple[int, ...], adjacency: _Adjacency) -> bool:
    leaves = all(len(adjacency[one]) == 1 for one in row)
    return leaves and len(row) == 3 and len({adjacency[one][0] for one in row}) == 1
