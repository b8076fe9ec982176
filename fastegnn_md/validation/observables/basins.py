"""Basins: which one a frame is in, how often each is visited, how far two maps of φ and ψ lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ..statistics import Sample, bootstrap_error, mean_jensen_shannon, pool

# φ and ψ, degrees, from and up to; an end beyond 180 goes through the edge of the map. Together they cover it once.
ALANINE: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "C5": ((140, 250), (60, 240)),
    "C7eq": ((250, 360), (60, 240)),
    "alphaR": ((140, 360), (-120, 60)),
    "alphaL": ((0, 140), (-45, 105)),
    "C7ax": ((0, 140), (105, 315)),
}


def named_basins(
    angles: np.ndarray, regions: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = ALANINE
) -> np.ndarray:
    """Number of the region that φ and ψ lie in; −1 outside all of them.

    Parameters
    ----------
    angles : ndarray, shape (..., 2)
        φ and ψ, degrees.
    regions : mapping of str to ((from, to), (from, to))
        Degrees of φ and of ψ. Default: five regions of alanine-like residues, which leave out nothing.

    Returns
    -------
    ndarray of int, shape (...)
    """
    labels = np.full(np.shape(angles)[:-1], -1, dtype=np.int64)
    for number, region in enumerate(regions.values()):
        inside = np.ones(labels.shape, dtype=bool)
        for axis, (begin, end) in enumerate(region):
            inside &= np.mod(angles[..., axis] - begin, 360.0) < end - begin
        labels[inside & (labels < 0)] = number
    return labels


@dataclass(frozen=True, eq=False)
class Populations:
    """Shares of the frames.

    Attributes
    ----------
    values : ndarray, shape (S,)
    errors : ndarray, shape (S,)
        Standard errors by a bootstrap of whole trajectories; NaN for a single one.
    """

    values: np.ndarray
    errors: np.ndarray


def populations(labels: Sequence[np.ndarray], states: int, rng: np.random.Generator) -> Populations:
    """Share of the frames in each state, over independent trajectories.

    Parameters
    ----------
    labels : sequence of ndarray of int, shape (n_frames,)
        State of each frame, a trajectory each; negative ones are in none.
    states : int
    rng : numpy.random.Generator
        Of the bootstrap; advanced.

    Raises
    ------
    DataError
        If there are no frames.
    """
    samples = [Sample(shares_of(one, states), len(one)) for one in labels if len(one)]
    if not samples:
        raise DataError("there are no frames")
    return Populations(pool(samples), bootstrap_error(samples, lambda values: values, rng))


def shares_of(labels: np.ndarray, states: int) -> np.ndarray:
    """Share of the frames in each state, shape (states,)."""
    return np.bincount(labels[labels >= 0], minlength=states)[:states] / len(labels)


def split_half_floor(histograms: Sequence[Sample], rng: np.random.Generator, splits: int = 20) -> float:
    """Mean Jensen-Shannon distance of two halves of the reference runs, over random halves.

    Parameters
    ----------
    histograms : sequence of Sample
        Of independent runs or of pieces of them, values of shape (K, bins).
    rng : numpy.random.Generator
        Draws the halves.
    splits : int
        Halves drawn; all there are where these are fewer does no harm.

    Raises
    ------
    DataError
        If there are fewer than two runs.
    """
    count = len(histograms)
    if count < 2:
        raise DataError("one run has no halves of runs; cut it into pieces")
    found = []
    for _ in range(splits):
        order = rng.permutation(count)
        halves = [pool([histograms[i] for i in part]) for part in (order[: count // 2], order[count // 2 :])]
        found.append(mean_jensen_shannon(*halves))
    return float(np.mean(found))
