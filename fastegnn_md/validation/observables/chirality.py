"""Handedness: stereocentres, their signed volumes, and how often one turned over."""

from __future__ import annotations

import numpy as np
import torch

from ...graph.environments import environments


def stereocentres(numbers: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Atoms with four neighbours that the bonds tell apart, shape (C, 5): the atom, then its neighbours.

    Neighbours are in the order of their keys of :func:`~fastegnn_md.graph.environments.environments`, so that the same
    centre of another molecule has them in the same order. Stereocentres that only others of their kind tell apart are
    not found.

    Parameters
    ----------
    numbers : ndarray of int, shape (N,)
        Atomic numbers.
    bonds : ndarray of int, shape (M, 2)
        Bonded pairs, each once.
    """
    keys = environments(torch.as_tensor(numbers, dtype=torch.int64), torch.as_tensor(bonds, dtype=torch.int64))
    neighbours: dict[int, list[int]] = {}
    for a, b in np.asarray(bonds).tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    found = [
        [centre, *sorted(around, key=lambda atom: int(keys[atom]))]
        for centre, around in sorted(neighbours.items())
        if len(around) == 4 and len({int(keys[atom]) for atom in around}) == 4
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 5)


def signed_volumes(positions: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Volume of the tetrahedron of each centre and its first three neighbours, shape (..., C), Å³.

    A mirror image has the opposite sign, and so has a centre that passed through the plane of these neighbours.

    Parameters
    ----------
    positions : ndarray, shape (..., N, 3), Å
    centres : ndarray of int, shape (C, 5)
        From :func:`stereocentres`.
    """
    a, b, c, d = (positions[..., centres[:, k], :] for k in (0, 1, 2, 3))
    return np.einsum("...i,...i->...", b - a, np.cross(c - a, d - a)) / 6.0


def flips(volumes: np.ndarray, handedness: np.ndarray) -> np.ndarray:
    """How often each centre changes to the other hand from one frame to the next, shape (C,).

    The first frame is held against ``handedness``. Volumes that are near zero, less than a tenth of their centre's
    usual size, belong to no hand and leave it as it was.

    Parameters
    ----------
    volumes : ndarray, shape (n_frames, C), Å³
        Of consecutive frames.
    handedness : ndarray, shape (C,), Å³
        Volumes of the right hand, as the mean of a reference.
    """
    flat = np.abs(volumes) < 0.1 * np.abs(handedness)
    found = np.zeros(volumes.shape[1], dtype=np.int64)
    for centre in range(volumes.shape[1]):
        signs = np.sign(volumes[~flat[:, centre], centre])
        signs = np.concatenate([[np.sign(handedness[centre])], signs])
        found[centre] = np.count_nonzero(np.diff(signs))
    return found
