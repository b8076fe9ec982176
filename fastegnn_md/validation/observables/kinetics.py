"""Slow processes: a reversible Markov state model of small clusters, its time scales, passage times and consistency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from ..._extras import naming_extras
from ...errors import DataError
from .transitions import count_transitions

if TYPE_CHECKING:
    from deeptime.markov.msm import MarkovStateModel

CLUSTERS = 100
REPETITIONS = 200  # of the bootstrap; the error of a standard deviation is then 5 %
_FRAMES = 20_000  # that clusters are found from


def fit_clusters(features: Sequence[np.ndarray], clusters: int = CLUSTERS, seed: int = 0) -> np.ndarray:
    """Centres of k-means clusters (deeptime), shape (clusters, F).

    Parameters
    ----------
    features : sequence of ndarray, shape (n_frames, F)
        As the cosines and sines of torsions; of the reference, so that all runs are told by the same clusters.
    clusters : int
    seed : int

    Raises
    ------
    DataError
        If there are fewer frames than clusters.
    MissingDependencyError
        If deeptime is not installed.
    """
    with naming_extras("clusters"):
        from deeptime.clustering import KMeans

    frames = np.concatenate([np.asarray(one, dtype=np.float64) for one in features])
    if len(frames) < clusters:
        raise DataError(f"{len(frames)} frames do not make {clusters} clusters")
    some = np.ascontiguousarray(frames[:: -(-len(frames) // _FRAMES)]) if len(frames) > _FRAMES else frames
    model = KMeans(clusters, max_iter=100, fixed_seed=seed, tolerance=1e-3, n_jobs=1).fit(some).fetch_model()
    return np.array(model.cluster_centers)


def assign(features: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Number of the nearest centre, shape (n_frames,)."""
    return cKDTree(centres).query(features)[1].astype(np.int64)


def markov_model(counts: np.ndarray, lag: int = 1) -> MarkovStateModel:
    """The reversible maximum-likelihood Markov state model (deeptime) of the largest connected set of states.

    Parameters
    ----------
    counts : ndarray, shape (S, S)
        From :func:`~.transitions.count_transitions`.
    lag : int
        Frames; times of the model are in frames.

    Raises
    ------
    DataError
        If no two states are connected.
    MissingDependencyError
        If deeptime is not installed.
    """
    with naming_extras("a Markov state model"):
        from deeptime.markov import TransitionCountModel
        from deeptime.markov.msm import MaximumLikelihoodMSM

    model = TransitionCountModel(np.asarray(counts, dtype=np.float64), lagtime=lag)
    connected = model.submodel_largest(connectivity_threshold=0, directed=True)
    if connected.n_states < 2:
        raise DataError("no two states are connected by transitions there and back")
    return MaximumLikelihoodMSM(reversible=True, allow_disconnected=False, maxerr=1e-7).fit(connected).fetch_model()


@dataclass(frozen=True, eq=False)
class TimeScales:
    """Implied time scales of the slowest processes, in frames.

    Attributes
    ----------
    lags : ndarray of int, shape (L,)
    values : ndarray, shape (L, K)
        NaN where there are fewer processes.
    lower, upper : ndarray, shape (L, K)
        Ends of the 95 % interval: a bootstrap of whole trajectories, in the logarithm. Where most draws do not see the
        process at all the ends are NaN.
    connected : ndarray, shape (L,)
        Share of the transitions within the states that the model holds. Where it is below one a process that leads out
        of them was left out.
    """

    lags: np.ndarray
    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    connected: np.ndarray


def implied_timescales(
    labels: Sequence[np.ndarray],
    lags: Sequence[int],
    states: int,
    rng: np.random.Generator,
    processes: int = 3,
    repetitions: int = REPETITIONS,
) -> TimeScales:
    """Implied time scales −lag / ln λ of reversible Markov state models, with intervals.

    Parameters
    ----------
    labels : sequence of ndarray of int, shape (n_frames,)
        Clusters, a trajectory each.
    lags : sequence of int
        Frames.
    states : int
    rng : numpy.random.Generator
        Of the bootstrap; advanced.
    processes : int
        How many of the slowest.
    repetitions : int
        Of the bootstrap.

    Raises
    ------
    DataError
        If no run is longer than a lag, or no two states are connected.
    """
    shape = (len(lags), processes)
    values, lower, upper = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    connected = np.zeros(len(lags))
    for row, lag in enumerate(lags):
        counts = np.array([count_transitions(one, lag, states) for one in labels if len(one) > lag])
        if lag < 1 or not len(counts):
            raise DataError(f"the lag is {lag} frames and the longest run {max(map(len, labels), default=0)}")
        total = counts.sum(axis=0)
        model = markov_model(total, lag)
        inside = model.count_model.state_symbols
        connected[row] = total[np.ix_(inside, inside)].sum() / total.sum()
        values[row] = _slowest(model, processes)
        if len(counts) > 1:
            drawn = rng.integers(len(counts), size=(repetitions, len(counts)))
            drawn_scales = lag / -np.log(_correlations(model, counts[drawn].sum(axis=1), processes))
            for k in range(processes):
                usable = drawn_scales[:, k][np.isfinite(drawn_scales[:, k])]
                if len(usable) > repetitions / 2:
                    spread = np.std(np.log(usable), ddof=1) * np.sqrt(len(counts) / (len(counts) - 1))
                    lower[row, k], upper[row, k] = values[row, k] * np.exp([-1.96 * spread, 1.96 * spread])
    return TimeScales(np.array(lags), values, lower, upper, connected)


def _slowest(model: Any, processes: int) -> np.ndarray:
    found = np.full(processes, np.nan)
    scales = model.timescales(k=min(processes, model.n_states - 1))
    found[: len(scales)] = scales
    return found


def _correlations(model: Any, drawn: np.ndarray, processes: int) -> np.ndarray:
    """Correlations after a lag of the processes of a model in draws of counts (R, S, S); NaN outside 0 to 1.

    To first order these are the eigenvalues that a model of the draw would have, at a hundredth of its cost.
    """
    inside = model.count_model.state_symbols
    modes = model.eigenvectors_right(min(processes, model.n_states - 1) + 1)[:, 1:]
    counts = drawn[:, inside[:, None], inside[None]]
    after = np.einsum("ik,rij,jk->rk", modes, counts, modes, optimize=True)
    at_once = np.einsum("ik,ri->rk", modes**2, 0.5 * (counts.sum(axis=1) + counts.sum(axis=2)))
    found = np.full((len(drawn), processes), np.nan)
    ratio = np.divide(after, at_once, out=np.full_like(after, np.nan, dtype=np.float64), where=at_once > 0)
    found[:, : ratio.shape[1]] = np.where((ratio > 0) & (ratio < 1), ratio, np.nan)
    return found


def passage_times(model: MarkovStateModel, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Mean first passage times from set to set of states, shape (S, S), in frames; NaN for sets that are not there.

    Parameters
    ----------
    model : MarkovStateModel
        From :func:`markov_model`.
    sets : sequence of ndarray of int
        Clusters of each set, without overlap.
    """
    place = {int(symbol): row for row, symbol in enumerate(model.count_model.state_symbols)}
    inside = [[place[int(one)] for one in members if int(one) in place] for members in sets]
    times = np.full((len(sets), len(sets)), np.nan)
    for i, begin in enumerate(inside):
        for j, end in enumerate(inside):
            if i != j and begin and end:
                times[i, j] = model.mfpt(begin, end)
    return times


def chapman_kolmogorov(
    labels: Sequence[np.ndarray], basins: Sequence[np.ndarray], lag: int, states: int, sets: int, steps: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Transitions between basins after several lags: as the model at one lag predicts them, and as they are seen.

    Parameters
    ----------
    labels, basins : sequence of ndarray of int, shape (n_frames,)
        Cluster and basin of each frame.
    lag : int
        Frames.
    states, sets : int
        Numbers of clusters and of basins.
    steps : int
        Lags.

    Returns
    -------
    predicted, seen : ndarray, shape (sets, sets)
        Rows add up to one; NaN for basins that are not there.
    """
    total = np.sum([count_transitions(one, lag, states) for one in labels], axis=0)
    model = markov_model(total, lag)
    inside = model.count_model.state_symbols
    # share of the frames of a cluster that lie in each basin
    within = np.zeros((states, sets))
    for clusters, one in zip(labels, basins, strict=True):
        known = one >= 0
        np.add.at(within, (clusters[known], one[known]), 1.0)
    within = within[inside] / np.maximum(within[inside].sum(axis=1, keepdims=True), 1.0)
    flow = model.stationary_distribution[:, None] * np.linalg.matrix_power(model.transition_matrix, steps)
    seen = np.sum([count_transitions(one, steps * lag, sets) for one in basins], axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        joint = within.T @ flow @ within
        return joint / joint.sum(axis=1, keepdims=True), seen / seen.sum(axis=1, keepdims=True)
