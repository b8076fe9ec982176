"""Populations and time scales from short runs: a reversible Markov state model with Bayesian intervals (deeptime)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._extras import naming_extras
from ..data.internal import fit_components
from ..errors import DataError

_COMPONENTS, _PROCESSES = 4, 3
_CLUSTERS, _FRAMES_PER_CLUSTER = (4, 50), 50
_SAMPLES = 100  # of the posterior
FEW = 10  # transitions at the lag into a state and out of it: below, its share is hardly known
_MOST_STATES = 5


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: Sequence[float] | np.ndarray) -> Interval:
        """From samples of the posterior; the interval holds the value."""
        low, high = np.quantile(np.asarray(samples), (0.025, 0.975))
        return cls(float(value), float(min(low, value)), float(max(high, value)))

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Kinetics:
    """A Markov state model of short runs.

    Attributes
    ----------
    lag : int
        Frames.
    populations : tuple of Interval
        Share of each metastable state, the largest first.
    timescales : tuple of Interval
        Implied time scales in frames, the slowest first; only those of processes that outlast the lag.
    scan : dict of int to tuple of Interval
        Implied time scales at other lags, in frames.
    transitions : ndarray of int, shape (n_states, 2)
        Into and out of each state at the lag, windows that do not overlap.
    connected : float
        Share of the frames in the largest connected set of clusters, which the model is of.
    left_out : tuple of ndarray
        Centres, in the given features, of the clusters outside of it.
    clusters : int
    weights : list of ndarray
        Weight of each frame of the runs at equilibrium; sums to 1 over all.
    """

    lag: int
    populations: tuple[Interval, ...]
    timescales: tuple[Interval, ...]
    scan: dict[int, tuple[Interval, ...]]
    transitions: np.ndarray
    connected: float
    left_out: tuple[np.ndarray, ...]
    clusters: int
    weights: list[np.ndarray]
    _place: _Clusters = field(repr=False)
    _states: np.ndarray = field(repr=False)  # of each cluster, -1 outside the connected set

    def states_of(self, features: np.ndarray) -> np.ndarray:
        """Metastable state of each frame, from 0; -1 where the model knows nothing."""
        found: np.ndarray = self._states[self._place.labels(features)]
        return found


class _Clusters:
    """k-means in slow components, scaled so that distances are kinetic ones (Noé and Clementi, 2015)."""

    def __init__(self, runs: list[np.ndarray], lag: int, seed: int):
        with naming_extras("a Markov state model"):
            from deeptime.clustering import KMeans

        self._model = fit_components(runs, lag, min(_COMPONENTS, runs[0].shape[1]))
        series = [self._slow(run) for run in runs]
        total = sum(map(len, series))
        count = int(np.clip(total // _FRAMES_PER_CLUSTER, *_CLUSTERS))
        estimator = KMeans(count, max_iter=100, fixed_seed=seed + 1, n_jobs=1)
        self._kmeans = estimator.fit(np.concatenate(series)).fetch_model()
        self.count = count

    def labels(self, features: np.ndarray) -> np.ndarray:
        """Cluster of each frame."""
        found: np.ndarray = self._kmeans.transform(self._slow(features))
        return found

    def _slow(self, features: np.ndarray) -> np.ndarray:
        slow = self._model.transform(features)
        scaled: np.ndarray = np.ascontiguousarray(slow * self._model.singular_values[: slow.shape[1]], dtype=np.float64)
        return scaled


def estimate(runs: Sequence[np.ndarray], lag: int, *, seed: int = 0) -> Kinetics:
    """Estimate a reversible Markov state model from runs that need not start from equilibrium.

    The transition matrix holds probabilities *given* where a transition starts; how often runs start where cancels, as
    long as each run has forgotten how it came to its cluster (local equilibrium). The posterior of the matrix is that
    of counts of windows that do not overlap (Trendelkamp-Schroer et al., J. Chem. Phys. 143, 174101, 2015).

    Parameters
    ----------
    runs : sequence of ndarray, shape (n_frames, n_features)
        Internal coordinates, beginnings dropped.
    lag : int
        Frames.
    seed : int
        Of the clustering.

    Raises
    ------
    DataError
        If there are too few runs or frames, or no two clusters are connected in both directions.
    MissingDependencyError
        If deeptime is not installed.
    """
    with naming_extras("a Markov state model"):
        from deeptime.markov.msm import BayesianMSM, MaximumLikelihoodMSM

    used = [np.ascontiguousarray(run, dtype=np.float64) for run in runs if len(run) > lag]
    if not used:
        raise DataError(f"no run has a frame {lag} frames after another; run longer bursts, or take a shorter lag")
    place = _Clusters(used, lag, seed)
    paths = [place.labels(run) for run in used]
    counts = _counts(paths, lag, place.count, "sliding").submodel_largest()
    known = np.asarray(counts.state_symbols)
    if len(known) < 2:
        raise DataError(
            "too few bursts: no two clusters have transitions in both directions, so no populations can be had; run "
            "more or longer bursts"
        )
    model = MaximumLikelihoodMSM(reversible=True).fit(counts).fetch_model()
    independent = _counts(paths, lag, place.count, "sliding-effective").submodel(known)
    samples = BayesianMSM(n_samples=_SAMPLES, reversible=True).fit(independent).fetch_model().samples
    states = _metastable(model, known, place.count, lag)
    n_states = int(states.max()) + 1
    pi = np.zeros((1 + len(samples), n_states))
    for row, one in enumerate((model, *samples)):
        np.add.at(pi[row], states[known], one.stationary_distribution)
    order = np.argsort(-pi[0])
    renamed = np.full(n_states + 1, -1)
    renamed[order] = np.arange(n_states)
    states = renamed[states]
    pi = pi[:, order]
    cluster_weight = np.zeros(place.count)
    frames = np.bincount(np.concatenate(paths), minlength=place.count)
    cluster_weight[known] = model.stationary_distribution / frames[known]
    outside = np.setdiff1d(np.unique(np.concatenate(paths)), known)
    together = np.concatenate(used), np.concatenate(paths)
    return Kinetics(
        lag=lag,
        populations=tuple(Interval.of(pi[0, k], pi[1:, k]) for k in range(n_states)),
        timescales=_timescales(model, samples, lag),
        scan=_scan(paths, place.count, lag),
        transitions=_transitions(paths, states, n_states, lag),
        connected=float(frames[known].sum() / frames.sum()),
        left_out=tuple(together[0][together[1] == one].mean(axis=0) for one in outside),
        clusters=place.count,
        weights=[cluster_weight[place.labels(np.asarray(run, dtype=np.float64))] for run in runs],
        _place=place,
        _states=states,
    )


def _counts(paths: list[np.ndarray], lag: int, clusters: int, mode: str) -> Any:
    from deeptime.markov import TransitionCountEstimator

    return TransitionCountEstimator(lag, mode, n_states=clusters).fit(paths).fetch_model()


def _timescales(model: Any, samples: Sequence[Any], lag: int) -> tuple[Interval, ...]:
    """Implied time scales in frames, of processes that outlast the lag: what is left of others after it is noise."""
    count = min(_PROCESSES, model.n_states - 1)
    drawn = np.array([one.timescales(count) for one in samples])
    pairs = enumerate(model.timescales(count))
    return tuple(Interval.of(one, drawn[:, k]) for k, one in pairs if one > lag)


def _scan(paths: list[np.ndarray], clusters: int, lag: int) -> dict[int, tuple[Interval, ...]]:
    """Implied time scales at lags around the one chosen; those at which nothing is connected are left out."""
    from deeptime.markov.msm import BayesianMSM, MaximumLikelihoodMSM

    longest = max(map(len, paths))
    lags = sorted({max(1, round(lag * factor)) for factor in (0.2, 0.5, 1.0, 1.5, 2.0)})
    found = {}
    for one in lags:
        if one >= 0.8 * longest:
            break
        counts = _counts(paths, one, clusters, "sliding").submodel_largest()
        if counts.n_states < 2:
            continue
        independent = _counts(paths, one, clusters, "sliding-effective").submodel(np.asarray(counts.state_symbols))
        model = MaximumLikelihoodMSM(reversible=True).fit(counts).fetch_model()
        samples = BayesianMSM(n_samples=_SAMPLES // 4, reversible=True).fit(independent).fetch_model().samples
        found[one] = _timescales(model, samples, one)
    return found


def _metastable(model: Any, known: np.ndarray, clusters: int, lag: int) -> np.ndarray:
    """State of each cluster by PCCA+: one more than there are processes that outlast the lag; two at least."""
    outlast = int(np.count_nonzero(np.asarray(model.timescales()) > lag))
    count = int(np.clip(1 + outlast, 2, min(_MOST_STATES, model.n_states)))
    states = np.full(clusters, -1)
    found = np.asarray(model.pcca(count).assignments)
    # PCCA+ may leave a state without clusters of its own.
    states[known] = np.unique(found, return_inverse=True)[1]
    return states


def _transitions(paths: list[np.ndarray], states: np.ndarray, n_states: int, lag: int) -> np.ndarray:
    counts = np.zeros((n_states, n_states))
    for path in paths:
        place = states[path]
        a, b = place[:-lag], place[lag:]
        inside = (a >= 0) & (b >= 0)
        np.add.at(counts, (a[inside], b[inside]), 1.0 / lag)
    np.fill_diagonal(counts, 0.0)
    both: np.ndarray = np.stack([counts.sum(axis=0), counts.sum(axis=1)], axis=1).round().astype(int)
    return both
