"""Transitions between states after a lag: the matrix, whether there and back are equally frequent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from ...errors import DataError
from ..statistics import Sample, bootstrap_error

_FEWEST = 20  # crossings of a pair of states, to and fro, of which an asymmetry is told


def count_transitions(labels: np.ndarray, lag: int, states: int) -> np.ndarray:
    """How often state i is followed by state j a lag later, shape (S, S), for every frame with both ends in a state.

    Parameters
    ----------
    labels : ndarray of int, shape (n_frames,)
        Negative ones are in no state.
    lag : int
        Frames.
    states : int
    """
    begin, end = labels[: max(0, len(labels) - lag)], labels[lag:]
    known = (begin >= 0) & (end >= 0)
    flat = np.bincount(begin[known] * states + end[known], minlength=states * states)
    return flat.reshape(states, states)


@dataclass(frozen=True, eq=False)
class TransitionMatrix:
    """Probabilities of transitions.

    Attributes
    ----------
    probabilities : ndarray, shape (S, S)
        Rows add up to one; NaN for a state that is never left.
    errors : ndarray, shape (S, S)
        Standard errors by a bootstrap of whole trajectories.
    counts : ndarray, shape (S,)
        Of each row, without overlap of windows: transitions seen over the lag in frames.
    """

    probabilities: np.ndarray
    errors: np.ndarray
    counts: np.ndarray


def transition_matrix(
    labels: Sequence[np.ndarray], lag: int, states: int, rng: np.random.Generator
) -> TransitionMatrix:
    """Transition matrix between states at a lag, over independent trajectories.

    Parameters
    ----------
    labels : sequence of ndarray of int, shape (n_frames,)
    lag : int
        Frames.
    states : int
    rng : numpy.random.Generator
        Of the bootstrap; advanced.

    Raises
    ------
    DataError
        If no trajectory is longer than the lag.
    """
    samples = [Sample(count_transitions(one, lag, states).astype(np.float64)) for one in labels if len(one) > lag]
    if lag < 1 or not samples:
        raise DataError(f"the lag is {lag} frames and the longest run {max(map(len, labels), default=0)}")
    total = np.sum([sample.values for sample in samples], axis=0)
    return TransitionMatrix(_rows(total), bootstrap_error(samples, _rows, rng), total.sum(axis=1) / lag)


def _rows(counts: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Asymmetry:
    """Net flux between states, of a process in equilibrium zero.

    Attributes
    ----------
    scores : ndarray, shape (S, S)
        N_ij − N_ji in standard errors, which come from the differences among runs; NaN where crossings are too few.
    largest : float
        Largest score; 0 where none is known.
    limit : float
        That the largest exceeds by chance once in a hundred runs in equilibrium.
    """

    scores: np.ndarray
    largest: float
    limit: float


def flux_asymmetry(labels: Sequence[np.ndarray], lag: int, states: int) -> Asymmetry:
    """Whether crossings there and back are equally frequent: N_ij − N_ji in standard errors.

    Parameters
    ----------
    labels : sequence of ndarray of int, shape (n_frames,)
        Of eight or more independent runs, or pieces longer than the correlation time.
    lag : int
        Frames.
    states : int

    Raises
    ------
    DataError
        If fewer than eight runs are longer than the lag.
    """
    counts = np.array([count_transitions(one, lag, states) for one in labels if len(one) > lag], dtype=np.float64)
    runs = len(counts)
    if runs < 8:
        raise DataError(f"{runs} runs are longer than the lag; standard errors of a flux want eight runs or pieces")
    net = counts - counts.transpose(0, 2, 1)
    crossings = (counts + counts.transpose(0, 2, 1)).sum(axis=0) / lag
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = net.sum(axis=0) / (np.sqrt(runs) * net.std(axis=0, ddof=1))
    scores[(crossings < _FEWEST) | ~np.isfinite(scores)] = np.nan
    np.fill_diagonal(scores, np.nan)
    known = np.abs(scores[np.isfinite(scores)])
    pairs = max(1, len(known) // 2)
    limit = float(student.ppf(1 - 0.01 / (2 * pairs), runs - 1))
    return Asymmetry(scores, float(known.max(initial=0.0)), limit)
