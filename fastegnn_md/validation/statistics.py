"""Confidence intervals by block bootstrap, and a learned ensemble beside the spread of independent reference runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import t as student

from ..errors import ConfigError

REPETITIONS = 200  # of the bootstrap; the error of a standard deviation is then 5 %
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Sample:
    """What a stretch of trajectory gives for an observable.

    Attributes
    ----------
    values : ndarray
        Means over its frames (of any shape).
    weight : float
        Its share in a pool: number of frames.
    """

    values: np.ndarray
    weight: float = 1.0


Distance = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Comparison:
    """A learned ensemble beside independent reference runs, all by one distance.

    Attributes
    ----------
    value : float
        Distance of the learned ensemble to the pool of all reference runs.
    interval : tuple of float, or None
        95 % confidence interval of ``value``; None for a single block.
    spread : tuple of float
        Distance of each reference run to the pool of the others.
    limit : float
        Spread factor times the mean of ``spread``.
    """

    value: float
    interval: tuple[float, float] | None
    spread: tuple[float, ...]
    limit: float

    @property
    def within(self) -> bool:
        """Whether the learned ensemble lies no further from the reference than its own runs do."""
        return self.value <= self.limit


def pool(samples: Sequence[Sample]) -> np.ndarray:
    """Mean of samples, each with its weight."""
    weights = np.array([sample.weight for sample in samples])
    return np.tensordot(weights / weights.sum(), np.stack([sample.values for sample in samples]), axes=1)


def bootstrap_interval(
    samples: Sequence[Sample], statistic: Callable[[np.ndarray], float], rng: np.random.Generator
) -> tuple[float, float] | None:
    """95 % confidence interval of a statistic of pooled blocks.

    Blocks are drawn with replacement and pooled; the standard deviation σ of the statistic over such draws gives
    value ± t σ √(B / (B − 1)), with Student's t for the B − 1 degrees of freedom of B blocks (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, ch. 12; blocks keep the correlation of neighbouring frames: Künsch, Ann.
    Statist. 17, 1217 (1989)). An interval of percentiles would suffer from the bias of distances, which grow with
    noise.

    Parameters
    ----------
    samples : sequence of Sample
        Blocks, longer than the correlation time.
    statistic : callable
        Of a pool, as :func:`pool` makes it.
    rng : numpy.random.Generator
        Advanced.

    Returns
    -------
    tuple of float, or None
        None for fewer than two blocks.
    """
    count = len(samples)
    if count < 2:
        return None
    half = float(student.ppf(0.5 + CONFIDENCE / 2, count - 1) * bootstrap_error(samples, statistic, rng))
    value = statistic(pool(samples))
    return value - half, value + half


def bootstrap_error(
    samples: Sequence[Sample],
    statistic: Callable[[np.ndarray], Any],
    rng: np.random.Generator,
    repetitions: int = REPETITIONS,
) -> np.ndarray:
    """Standard error of a statistic, of any shape, of pooled independent runs: σ √(B / (B − 1)) of B runs.

    Where a statistic is not finite in a draw (a state that none of its runs visits), that draw counts for nothing.

    Parameters
    ----------
    samples : sequence of Sample
        Independent runs, or blocks longer than the correlation time; NaN comes out for fewer than two.
    statistic : callable
        Of a pool, as :func:`pool` makes it.
    rng : numpy.random.Generator
        Advanced.
    repetitions : int
        Draws with replacement.
    """
    count = len(samples)
    if count < 2:
        return np.full(np.shape(statistic(pool(samples))), np.nan)
    drawn = rng.integers(count, size=(repetitions, count))
    found = np.array([statistic(pool([samples[i] for i in rows])) for rows in drawn], dtype=np.float64)
    known = np.isfinite(found)
    heads = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, found, 0.0).sum(axis=0) / heads
    square = np.where(known, (found - mean) ** 2, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(heads > 1, np.sqrt(square / (heads - 1)) * math.sqrt(count / (count - 1)), np.nan)


def compare(
    learned: Sequence[Sample],
    reference: Sequence[Sample],
    distance: Distance,
    rng: np.random.Generator,
    *,
    factor: float = 1.5,
) -> Comparison:
    """Hold a learned ensemble against the spread of independent reference runs.

    Parameters
    ----------
    learned : sequence of Sample
        Blocks of the learned runs.
    reference : sequence of Sample
        One per independent reference run, two or more.
    distance : callable
        Of two pools, 0 for equal ones.
    rng : numpy.random.Generator
        Of the bootstrap; advanced.
    factor : float
        How many times the mean spread still counts as within it.

    Returns
    -------
    Comparison
        The distance with its interval, and the spread that it is held against.

    Raises
    ------
    ConfigError
        If there are fewer than two reference runs, or no learned block.
    """
    if len(reference) < 2 or not learned:
        raise ConfigError(
            f"{len(reference)} reference runs and {len(learned)} learned blocks; a spread needs two runs or more"
        )
    everything = pool(reference)

    def to_reference(values: np.ndarray) -> float:
        return distance(values, everything)

    spread = tuple(distance(one.values, pool([*reference[:k], *reference[k + 1 :]])) for k, one in enumerate(reference))
    interval = bootstrap_interval(learned, to_reference, rng)
    if interval is not None:
        interval = max(0.0, interval[0]), interval[1]
    return Comparison(to_reference(pool(learned)), interval, spread, factor * float(np.mean(spread)))


LARGEST = 1.0  # that the next distance can be


def mean_jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon distance, base 2, of histograms in rows (K, bins); the mean over rows, from 0 to 1."""
    return float(np.mean(jensenshannon(p, q, base=2, axis=1)))
