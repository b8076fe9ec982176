"""Pairs of atoms and of their images, by trying them all."""

from __future__ import annotations

import itertools

import numpy as np

OPEN, CLOSED = (False,) * 3, (True,) * 3


def heights(cell, pbc=CLOSED):
    """Distances between opposite faces of the cell, of the periodic directions."""
    return 1.0 / np.linalg.norm(np.linalg.pinv(cell[list(pbc)]), axis=0)


def every_pair(x, cell, pbc, cutoff):
    """Distance of each (i, j, shift) with |x_i - x_j - shift cell| < cutoff, by trying every shift that can be."""
    difference = x[:, None] - x[None]
    periodic = np.flatnonzero(pbc)
    nearest = np.zeros_like(difference)
    nearest[..., periodic] = np.round(difference @ np.linalg.pinv(cell[periodic]))
    reach = np.zeros(3, dtype=int)
    reach[periodic] = np.ceil(cutoff / heights(cell, pbc) + 0.5)
    around = np.array(list(itertools.product(*(range(-most, most + 1) for most in reach))))
    shifts = nearest[:, :, None] + around
    distances = np.linalg.norm(difference[:, :, None] - shifts @ cell, axis=3)
    near = distances < cutoff
    near[np.eye(len(x), dtype=bool)[:, :, None] & ~shifts.any(axis=3)] = False
    i, j, _ = near.nonzero()
    keys = zip(i.tolist(), j.tolist(), *shifts[near].astype(int).T.tolist(), strict=True)
    return dict(zip(keys, distances[near].tolist(), strict=True))
