"""Conditional shots: many jumps from one start beside as many pieces of dynamics from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from .basins import shares_of

_PERMUTATIONS = 200


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|X − Y| − E|X − X′| − E|Y − Y′| of two samples (n, F) and (m, F), without the bias of finite samples.

    Zero on average for samples of one distribution, positive for others (Székely and Rizzo, J. Stat. Plann. Inference
    143, 1249 (2013)); by chance it can be negative.

    Raises
    ------
    DataError
        If a sample has fewer than two points.
    """
    first = np.arange(len(a) + len(b)) < len(a)
    return float(_energy_distances(_distances(np.concatenate([a, b])), first[None])[0])


def _distances(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    squares = (points**2).sum(axis=1)
    return np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * points @ points.T, 0.0))


def _energy_distances(distances: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Of points with these distances (N, N), parted in P ways into those that are first (P, N) and the others."""
    inside = first.astype(np.float64)
    n = inside[0].sum()
    m = inside.shape[1] - n
    if min(n, m) < 2:
        raise DataError(f"an energy distance of {n:.0f} and {m:.0f} points; give two or more of each")
    sums = inside @ distances
    within, between = (sums * inside).sum(axis=1), (sums * (1 - inside)).sum(axis=1)
    beyond = distances.sum() - within - 2 * between
    return 2 * between / (n * m) - within / (n * (n - 1)) - beyond / (m * (m - 1))


@dataclass(frozen=True, eq=False)
class Shots:
    """Learned jumps beside dynamics from the same starts.

    Attributes
    ----------
    distances : ndarray, shape (S,)
        Energy distance at each start.
    limits : ndarray, shape (S,)
        That two samples of one distribution exceed once in a hundred times, by permutations of these.
    learned, reference : ndarray, shape (S, B)
        Shares in each basin.
    scores : ndarray, shape (S, B)
        Their difference in standard errors of counts.
    """

    distances: np.ndarray
    limits: np.ndarray
    learned: np.ndarray
    reference: np.ndarray
    scores: np.ndarray

    @property
    def told_apart(self) -> int:
        """At how many starts the two differ by more than chance."""
        return int(np.count_nonzero(self.distances > self.limits))


def compare_shots(
    learned: np.ndarray,
    reference: np.ndarray,
    learned_basins: np.ndarray,
    reference_basins: np.ndarray,
    basins: int,
    rng: np.random.Generator,
) -> Shots:
    """Hold samples of the learned map against shots of dynamics, start by start.

    Parameters
    ----------
    learned, reference : ndarray, shape (S, n, F), (S, m, F)
        Features of the ends, as cosines and sines of torsions, from S starts.
    learned_basins, reference_basins : ndarray of int, shape (S, n), (S, m)
        Their basins.
    basins : int
    rng : numpy.random.Generator
        Of the permutations; advanced.

    Raises
    ------
    DataError
        If there are other starts for one than for the other, or fewer than two shots.
    """
    if len(learned) != len(reference):
        raise DataError(f"{len(learned)} starts of learned shots and {len(reference)} of the reference")
    distances, limits = [], []
    for ours, theirs in zip(learned, reference, strict=True):
        among = _distances(np.concatenate([ours, theirs]))
        first = np.arange(len(among)) < len(ours)
        chance = rng.permuted(np.tile(first, (_PERMUTATIONS, 1)), axis=1)
        found = _energy_distances(among, np.concatenate([first[None], chance]))
        distances.append(found[0])
        limits.append(np.quantile(found[1:], 0.99))
    shares = [np.array([shares_of(one, basins) for one in every]) for every in (learned_basins, reference_basins)]
    n, m = learned_basins.shape[1], reference_basins.shape[1]
    together = (n * shares[0] + m * shares[1]) / (n + m)
    error = np.sqrt(together * (1 - together) * (1 / n + 1 / m))
    scores = np.divide(shares[0] - shares[1], error, out=np.zeros_like(error), where=error > 0)
    return Shots(np.array(distances), np.array(limits), shares[0], shares[1], scores)


def break_even(spent: float, reference: float, learned: float) -> float:
    """Simulated time from which a learned run is cheaper, everything counted; inf if it never is.

    Parameters
    ----------
    spent : float
        Seconds for data and training.
    reference, learned : float
        Seconds for a nanosecond of dynamics, and for one of learned jumps.

    Returns
    -------
    float, ns
    """
    return spent / (reference - learned) if reference > learned else float("inf")
