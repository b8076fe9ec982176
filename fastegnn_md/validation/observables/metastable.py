"""Basins without names: sets of clusters that a molecule seldom leaves, found by PCCA+."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from .kinetics import CLUSTERS, assign, fit_clusters, markov_model
from .transitions import count_transitions

MOST = 5  # sets


@dataclass(frozen=True, eq=False)
class MetastableSets:
    """Which set a frame is in.

    Attributes
    ----------
    centres : ndarray, shape (K, F)
        Of clusters.
    sets : ndarray of int, shape (K,)
        Set of each cluster, the most visited first; −1 for clusters that are not connected to the others.
    """

    centres: np.ndarray
    sets: np.ndarray

    @property
    def count(self) -> int:
        """How many sets there are."""
        return int(self.sets.max()) + 1

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Set of each frame, shape (n_frames,), from its features (n_frames, F)."""
        return self.sets[assign(features, self.centres)]


def metastable_sets(
    features: Sequence[np.ndarray], lag: int, clusters: int = CLUSTERS, seed: int = 0
) -> MetastableSets:
    """The sets between which a molecule is slower than a lag, by PCCA+ (Röblitz, Weber, 2013) of a Markov state model.

    There is one more than there are processes slower than the lag, and five at most.

    Parameters
    ----------
    features : sequence of ndarray, shape (n_frames, F)
        Of independent trajectories, as the cosines and sines of torsions.
    lag : int
        Frames.
    clusters : int
    seed : int
        Of the clusters.

    Raises
    ------
    DataError
        If no process is slower than the lag, so that there is no set to tell, or there are too few frames.
    MissingDependencyError
        If deeptime is not installed.
    """
    centres = fit_clusters(features, clusters, seed)
    counts = np.sum([count_transitions(assign(one, centres), lag, clusters) for one in features], axis=0)
    model = markov_model(counts, lag)
    slow = int((model.timescales(k=min(MOST - 1, model.n_states - 1)) > lag).sum())
    if not slow:
        raise DataError(
            "every process of the torsions is faster than the lag: there are no basins to tell; see the row torsions"
        )
    found = model.pcca(slow + 1)
    inside = found.assignments
    visited = np.bincount(inside, weights=model.stationary_distribution, minlength=slow + 1)
    rank = np.empty(slow + 1, dtype=np.int64)
    rank[np.argsort(-visited)] = np.arange(slow + 1)
    sets = np.full(clusters, -1, dtype=np.int64)
    sets[model.count_model.state_symbols] = rank[inside]
    return MetastableSets(centres, sets)
