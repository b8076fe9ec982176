"""What a molecule's bonds say of its shape: stereocentres and torsions, and the numbers that tell how they stand."""

from __future__ import annotations

import torch
from torch import Tensor

from .environments import environments


def stereocentres(numbers: Tensor, bonds: Tensor) -> Tensor:
    """Atoms with four bonded neighbours that differ in pairs, however far along bonds one has to look.

    Neighbours that differ by their handedness alone count as alike.

    Parameters
    ----------
    numbers : Tensor of int64, shape (N,)
        Atomic numbers.
    bonds : Tensor of int64, shape (M, 2)
        Bonded pairs, each once.

    Returns
    -------
    Tensor of int64, shape (C, 5)
        The atom and its four neighbours.
    """
    found = tetrahedra(bonds, len(numbers))
    keys = environments(numbers, bonds)[found[:, 1:]].sort(dim=1).values
    return found[(keys[:, 1:] != keys[:, :-1]).all(dim=1)]


def tetrahedra(bonds: Tensor, atoms: int) -> Tensor:
    """Atoms with four bonded neighbours, and these, shape (T, 5), of ``atoms`` atoms with bonds (M, 2)."""
    both = torch.cat([bonds, bonds.flip(1)])
    both = both[both[:, 0].argsort(stable=True)]
    degree = torch.bincount(both[:, 0], minlength=atoms)
    centres = (degree == 4).nonzero()[:, 0]
    return torch.cat([centres[:, None], both[degree[both[:, 0]] == 4, 1].view(-1, 4)], dim=1)


def signed_volumes(positions: Tensor, centres: Tensor) -> Tensor:
    """Six times the volume of the tetrahedron of the neighbours of each stereocentre, its sign their handedness.

    Parameters
    ----------
    positions : Tensor, shape (..., N, 3), Å
    centres : Tensor of int64, shape (C, 5)
        Of :func:`stereocentres` or :func:`tetrahedra`.

    Returns
    -------
    Tensor, shape (..., C), Å³
    """
    a, b, c, d = positions[..., centres[:, 1:], :].unbind(-2)
    return torch.linalg.vecdot(a - d, torch.linalg.cross(b - d, c - d))


def torsions(bonds: Tensor) -> Tensor:
    """All chains of four bonded atoms, each once.

    Parameters
    ----------
    bonds : Tensor of int64, shape (M, 2)
        Bonded pairs, each once.

    Returns
    -------
    Tensor of int64, shape (T, 4)
    """
    neighbours: dict[int, list[int]] = {}
    pairs = bonds.tolist()
    for a, b in pairs:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    chains = [
        (a, b, c, d) for b, c in pairs for a in neighbours[b] for d in neighbours[c] if a != c and d != b and a != d
    ]
    return torch.tensor(chains, dtype=torch.int64, device=bonds.device).reshape(-1, 4)


def dihedral_angles(positions: Tensor, chains: Tensor) -> Tensor:
    """Angles of torsions, 180° where the outer atoms are opposite to each other (IUPAC).

    Parameters
    ----------
    positions : Tensor, shape (N, 3), Å
    chains : Tensor of int64, shape (T, 4)
        Of :func:`torsions`.

    Returns
    -------
    Tensor, shape (T,), rad
        From -π to π.
    """
    a, b, c, d = positions[chains].unbind(1)
    along = c - b
    first, second = torch.linalg.cross(b - a, along), torch.linalg.cross(along, d - c)
    sine = torch.linalg.vecdot(b - a, second) * along.norm(dim=1)
    return torch.atan2(sine, torch.linalg.vecdot(first, second))
