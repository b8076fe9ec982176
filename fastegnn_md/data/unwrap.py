"""Periodic boundaries: atoms are followed through them, molecules are put together across them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class JumpFound(Exception):
    """An atom moved more than half the cell: a finding, to be turned into an error that names the atom.

    Attributes
    ----------
    atom : int
    distance : float, Å
    """

    atom: int
    distance: float

    def __init__(self, atom: int, distance: float):
        super().__init__(f"atom {atom} moved {distance:g} Å")
        self.atom, self.distance = atom, distance


class Unwrapper:
    """Follow atoms through periodic boundaries, frame after frame.

    Each atom gets the lattice vector n·h of the *current* cell h that keeps its fractional coordinates continuous:
    n ← n − round(s − s_before), s = x h⁻¹ (Kulke and Vermaas, J. Chem. Theory Comput. 18, 6161 (2022), Eq. B6). So it
    holds for triclinic cells and for cells that change, and unwrapped positions stay equal to the wrapped ones modulo
    the lattice of their own frame. It is right as long as no atom moves more than half the distance between opposite
    faces of the cell from one frame to the next.

    Parameters
    ----------
    move : bool
        With False positions are left alone and a jump raises.
    """

    def __init__(self, *, move: bool = True):
        self.move = move
        self._before: np.ndarray | None = None  # unwrapped fractional coordinates of the frame before

    def __call__(self, positions: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
        """Unwrapped positions of the next frame.

        Parameters
        ----------
        positions : ndarray, shape (N, 3), Å
        cell : ndarray, shape (3, 3), Å, or None
            Cell vectors in rows; without a cell nothing is done.

        Returns
        -------
        ndarray, shape (N, 3), Å

        Raises
        ------
        JumpFound
            If an atom jumps more than half the cell and ``move`` is False.
        """
        if cell is None:
            return positions
        fractional = positions @ np.linalg.inv(cell)
        if self._before is not None:
            turns = np.round(fractional - self._before)
            if not self.move and np.any(turns):
                atom = int(np.flatnonzero(turns.any(axis=1))[0])
                raise JumpFound(atom, float(np.linalg.norm((fractional - self._before)[atom] @ cell)))
            fractional = fractional - turns
            positions = positions - turns @ cell
        self._before = fractional
        return positions


def spanning_tree(bonds: np.ndarray, n_atoms: int) -> np.ndarray:
    """Bonds in an order in which molecules can be put together, atom by atom.

    Parameters
    ----------
    bonds : ndarray of int, shape (M, 2)
    n_atoms : int

    Returns
    -------
    ndarray of int64, shape (K, 3)
        Depth, atom already placed, atom to place next to it; sorted by depth.
    """
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    seen = [False] * n_atoms
    tree = []
    for root in range(n_atoms):
        if seen[root]:
            continue
        seen[root] = True
        level, depth = [root], 0
        while level:
            following = []
            depth += 1
            for i in level:
                for j in neighbours[i]:
                    if not seen[j]:
                        seen[j] = True
                        tree.append((depth, i, j))
                        following.append(j)
            level = following
    return np.array(sorted(tree), dtype=np.int64).reshape(-1, 3)


def make_whole(positions: np.ndarray, cell: np.ndarray, tree: np.ndarray) -> np.ndarray:
    """Put the atoms of each molecule next to each other.

    Parameters
    ----------
    positions : ndarray, shape (N, 3), Å
    cell : ndarray, shape (3, 3), Å
    tree : ndarray, shape (K, 3)
        From :func:`spanning_tree`.

    Returns
    -------
    ndarray, shape (N, 3), Å
        Positions equal to the given ones modulo the lattice; bonded atoms at their nearest images (bonds are shorter
        than half the distance between faces of the cell).
    """
    kind = np.result_type(positions, cell)
    return whole(torch.from_numpy(positions.astype(kind)), torch.from_numpy(cell.astype(kind)), tree).numpy()


def whole(positions: Tensor, cell: Tensor, tree: np.ndarray) -> Tensor:
    """:func:`make_whole` on tensors in any unit of length, which may be on a GPU."""
    fractional = positions @ torch.linalg.inv(cell)
    turns = torch.zeros_like(fractional)
    for depth in range(1, int(tree[:, 0].max(initial=0)) + 1):
        level = torch.from_numpy(tree[tree[:, 0] == depth]).to(positions.device)
        placed, other = level[:, 1], level[:, 2]
        turns[other] = turns[placed] - torch.round(fractional[other] - fractional[placed])
    return positions + turns @ cell
