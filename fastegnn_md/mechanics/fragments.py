"""Which atoms hang together: molecules by the distances of their atoms."""

from __future__ import annotations

import torch
from scipy import sparse
from torch import Tensor

from ..state import State

# Covalent radii, Å: B. Cordero et al., Dalton Trans. 2832 (2008). Of elements that make molecules; metals do not.
COVALENT_RADII = {
    1: 0.31, 5: 0.84, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57, 14: 1.11, 15: 1.07, 16: 1.05, 17: 1.02, 34: 1.20, 35: 1.20,
    53: 1.39,
}  # fmt: skip
_STRETCHED = 1.3  # times the sum of two radii is still a bond
_MOST = 2000  # atoms: all distances are looked at


def molecules(state: State) -> list[int] | None:
    """Atoms of each molecule of an isolated system, the largest first.

    Parameters
    ----------
    state : State
        One system. Its bonds count, and so do distances below 1.3 times the sum of covalent radii.

    Returns
    -------
    list of int or None
        None where molecules are not told by distances: periodic systems, metals, thousands of atoms.
    """
    numbers = state.numbers.tolist()
    if state.periodic or len(numbers) > _MOST or not COVALENT_RADII.keys() >= set(numbers):
        return None
    radii = torch.tensor([COVALENT_RADII[number] for number in numbers], dtype=state.positions.dtype)
    near = torch.cdist(state.positions.cpu(), state.positions.cpu()) < _STRETCHED * (radii[:, None] + radii)
    if state.bonds is not None and len(state.bonds):
        first, second = state.bonds.cpu().T
        near[first, second] = True
    return _sizes(near)


def parts(positions: Tensor, reach: float) -> list[int] | None:
    """Atoms of each part of an isolated system, the largest first; parts are farther from each other than the reach.

    Parameters
    ----------
    positions : Tensor, shape (N, 3), Å
    reach : float, Å

    Returns
    -------
    list of int or None
        None for thousands of atoms.
    """
    if len(positions) > _MOST:
        return None
    return _sizes(torch.cdist(positions.cpu(), positions.cpu()) < reach)


def _sizes(near: Tensor) -> list[int]:
    _, labels = sparse.csgraph.connected_components(sparse.csr_array(near.numpy()), directed=False)
    return sorted(torch.bincount(torch.from_numpy(labels).long()).tolist(), reverse=True)
