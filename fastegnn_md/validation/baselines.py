"""Samplers that learned nothing of dynamics, or nothing of molecules: a learned one has to beat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .observables.kinetics import CLUSTERS, assign, fit_clusters, markov_model
from .observables.transitions import count_transitions

_PAIRS = 5000  # displacements of a covariance


def independent_draws(frames: np.ndarray, runs: int, jumps: int, rng: np.random.Generator) -> np.ndarray:
    """Frames drawn at random, whatever the one before: the right distribution without dynamics.

    Parameters
    ----------
    frames : ndarray, shape (F, ...)
        Training data, as positions (F, N, 3).
    runs, jumps : int
    rng : numpy.random.Generator
        Advanced.

    Returns
    -------
    ndarray, shape (runs, jumps + 1, ...)
    """
    return frames[rng.integers(len(frames), size=(runs, jumps + 1))]


def unmoved(starts: np.ndarray, jumps: int) -> np.ndarray:
    """x′ = x from each start (runs, ...), shape (runs, jumps + 1, ...)."""
    return np.repeat(starts[:, None], jumps + 1, axis=1)


@dataclass(frozen=True, eq=False)
class GaussianJump:
    """x′ = x + L ε with the covariance of displacements, L Lᵀ = ⟨d_i · d_j⟩ / 3, which is the same in all directions.

    Attributes
    ----------
    factor : ndarray, shape (N, N), Å
        L.
    """

    factor: np.ndarray

    @classmethod
    def fit(cls, runs: Sequence[np.ndarray], lag: int) -> GaussianJump:
        """From trajectories of positions (n_frames, N, 3), ends turned onto their starts.

        Raises
        ------
        DataError
            If no trajectory is longer than the lag.
        """
        long = [one for one in runs if len(one) > lag]
        if not long:
            raise DataError(f"the lag is {lag} frames and the longest run {max(map(len, runs), default=0)}")
        stride = max(1, sum(len(one) - lag for one in long) // _PAIRS)
        begin = np.concatenate([one[:-lag:stride] for one in long]).astype(np.float64)
        end = np.concatenate([one[lag::stride] for one in long]).astype(np.float64)
        moved = turned_onto(begin, end) - (begin - begin.mean(axis=1, keepdims=True))
        covariance = np.einsum("fik,fjk->ij", moved, moved) / (3 * len(moved))
        values, vectors = np.linalg.eigh(covariance)
        return cls(vectors * np.sqrt(np.maximum(values, 0.0)))

    def trajectories(self, starts: np.ndarray, jumps: int, rng: np.random.Generator) -> np.ndarray:
        """Chains (runs, jumps + 1, N, 3) from starts (runs, N, 3)."""
        noise = self.factor @ rng.normal(size=(len(starts), jumps, *starts.shape[1:]))
        return np.concatenate([starts[:, None], starts[:, None] + noise.cumsum(axis=1)], axis=1)


def turned_onto(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Ends, centred and turned by proper rotations onto their centred starts (Kabsch 1976), shape (F, N, 3)."""
    x, y = (one - one.mean(axis=1, keepdims=True) for one in (begin, end))
    u, _, vt = np.linalg.svd(np.einsum("fia,fib->fab", y, x))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
    return y @ (u @ vt)


@dataclass(frozen=True, eq=False)
class MarkovEmulator:
    """A Markov state model of the training data that emits a frame of the cluster it has jumped to.

    Populations and slow time scales are as good as those of any Markov state model of these data; within a cluster,
    frames are drawn without regard to the present one.

    Attributes
    ----------
    ends : ndarray, shape (S, S)
        Cumulated transition probabilities of the clusters that are connected.
    members : list of ndarray of int
        Frames of each of these clusters.
    stationary : ndarray, shape (S,)
    """

    ends: np.ndarray
    members: list[np.ndarray]
    stationary: np.ndarray

    @classmethod
    def fit(
        cls, features: Sequence[np.ndarray], lag: int, clusters: int = CLUSTERS, centres: np.ndarray | None = None
    ) -> MarkovEmulator:
        """From trajectories of features (n_frames, F), as cosines and sines of torsions.

        Parameters
        ----------
        features : sequence of ndarray, shape (n_frames, F)
        lag : int
            Frames.
        clusters : int
            Without ``centres``: of k-means.
        centres : ndarray, shape (S, F), optional

        Raises
        ------
        DataError
            If there are too few frames for the clusters, or no two of them are connected.
        """
        places = fit_clusters(features, clusters) if centres is None else centres
        labels = [assign(one, places) for one in features]
        model = markov_model(np.sum([count_transitions(one, lag, len(places)) for one in labels], axis=0), lag)
        every = np.concatenate(labels)
        members = [np.flatnonzero(every == symbol) for symbol in model.count_model.state_symbols]
        return cls(model.transition_matrix.cumsum(axis=1), members, np.asarray(model.stationary_distribution))

    def trajectories(self, runs: int, jumps: int, rng: np.random.Generator) -> np.ndarray:
        """Frames of the training data, numbered through all its trajectories, shape (runs, jumps + 1)."""
        count = len(self.members)
        states = np.empty((runs, jumps + 1), dtype=np.int64)
        states[:, 0] = rng.choice(count, size=runs, p=self.stationary / self.stationary.sum())
        for jump in range(jumps):
            reached = (self.ends[states[:, jump]] < rng.random((runs, 1))).sum(axis=1)
            states[:, jump + 1] = np.minimum(reached, count - 1)
        frames = np.empty_like(states)
        for state, members in enumerate(self.members):
            here = states == state
            frames[here] = rng.choice(members, size=int(here.sum()))
        return frames
