"""Trajectories that are one another: turned, shifted or mirrored copies, which a split by trajectory takes for two."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import pdist

from ..errors import DataError

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from ..data.store import Store

_SAME = 0.03  # Å; files round positions to 0.01 Å, other simulations differ by far more
_ATOMS, _FRAMES = 200, 10


def check_copies(*sets: TrajectoryPairs) -> None:
    """Refuse trajectories of which the molecule has the same shape in frame after frame.

    Raises
    ------
    DataError
        Naming the two.
    """
    stores = {str(store.path): store for pairs in sets for store in pairs.stores}
    shapes = [(name, _shapes(store)) for name, store in stores.items()]
    for (one, first), (other, second) in itertools.combinations(shapes, 2):
        if first.shape == second.shape and np.abs(first - second).max() < _SAME:
            raise DataError(
                f"{other} is a copy of {one}, turned, shifted or mirrored: all distances in it are the same. What is "
                "held out has to be another simulation, or another part of it: leave the copy out"
            )


def _shapes(store: Store) -> np.ndarray:
    """Distances between some of the atoms in some of the frames, and how many frames there are."""
    every, chosen = max(1, store.n_atoms // _ATOMS), np.linspace(0, store.n_frames - 1, _FRAMES).astype(int)
    found = [pdist(np.asarray(store.positions[k][::every], dtype=float)) for k in chosen]
    return np.append(np.concatenate(found), store.n_frames)
