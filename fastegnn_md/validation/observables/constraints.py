"""Held distances: which pairs of atoms are rigid, and how far a trajectory strays from their lengths."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from MDAnalysis.analysis.results import ResultsGroup
from MDAnalysis.lib.distances import calc_bonds

from ...data.topology import quiet, read_topology
from .frames import FrameAnalysis

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

# Å. Coordinates rounded to 0.01 Å (XTC) make the length of a rigid bond fluctuate by 0.004 Å; the stiffest bonds (O-H,
# C=O) do so by 0.02 Å at room temperature.
RIGID = 0.008


class RigidPairs(FrameAnalysis):
    """Bonded atoms and atoms two bonds apart whose distance stays the same.

    Parameters
    ----------
    atoms : AtomGroup
        With bonds.
    tolerance : float, Å
        Largest standard deviation of a rigid distance.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.pairs : ndarray of int, shape (M, 2)
        Numbered within the group; empty for topologies without bonds.
    results.lengths : ndarray, shape (M,), Å
        Mean distances.
    """

    def __init__(self, atoms: AtomGroup, tolerance: float = RIGID, *, verbose: bool = False):
        super().__init__(atoms, verbose=verbose)
        self.tolerance = tolerance
        with quiet():
            bonds = read_topology(atoms).bonds
        self._pairs = np.empty((0, 2), dtype=np.int64) if bonds is None else _with_angles(bonds)

    def _prepare(self) -> None:
        self.results.moments = [(0, np.zeros(len(self._pairs)), np.zeros(len(self._pairs)))]

    def _single_frame(self) -> None:
        here = (1, pair_lengths(self.atoms, self._pairs), np.zeros(len(self._pairs)))
        self.results.moments = [_together(self.results.moments[0], here)]

    def _conclude(self) -> None:
        _, mean, square = functools.reduce(_together, self.results.pop("moments"))
        rigid = square / max(1, self.n_frames) < self.tolerance**2
        if self.n_frames < 2:
            rigid[:] = False
        self.results.pairs = self._pairs[rigid]
        self.results.lengths = mean[rigid]

    def _get_aggregator(self) -> ResultsGroup:
        return ResultsGroup(lookup={"moments": ResultsGroup.flatten_sequence})


class ConstraintViolation(FrameAnalysis):
    """Relative deviation of held distances from their lengths.

    Parameters
    ----------
    atoms : AtomGroup
    pairs : ndarray of int, shape (M, 2)
        Numbered within the group.
    lengths : ndarray, shape (M,), Å
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.rms, results.largest : ndarray, shape (n_frames,)
        Of |d / d₀ − 1| over the pairs.
    """

    pairs: np.ndarray
    lengths: np.ndarray

    def __init__(self, atoms: AtomGroup, pairs: np.ndarray, lengths: np.ndarray, *, verbose: bool = False):
        super().__init__(atoms, verbose=verbose)
        self.pairs, self.lengths = np.asarray(pairs, dtype=np.int64), np.asarray(lengths)

    def row(self) -> tuple[float, float]:
        """RMS and largest deviation of a frame."""
        deviation = np.abs(pair_lengths(self.atoms, self.pairs) / self.lengths - 1)
        return float(np.sqrt(np.mean(deviation**2))), float(deviation.max())

    def _conclude(self) -> None:
        self.results.rms, self.results.largest = np.array(self.taken()).reshape(-1, 2).T


Moments: TypeAlias = tuple[int, np.ndarray, np.ndarray]


def _together(a: Moments, b: Moments) -> Moments:
    """Number, mean and sum of squared deviations of two sets as one (Chan, Golub and LeVeque, 1979)."""
    n, apart = a[0] + b[0], b[1] - a[1]
    if not n:
        return a
    return n, a[1] + apart * (b[0] / n), a[2] + b[2] + apart**2 * (a[0] * b[0] / n)


def pair_lengths(atoms: AtomGroup, pairs: np.ndarray) -> np.ndarray:
    """Distances of pairs (M, 2) of a group by minimum image, shape (M,), Å."""
    x = atoms.positions
    return calc_bonds(x[pairs[:, 0]], x[pairs[:, 1]], box=atoms.dimensions)


def _with_angles(bonds: np.ndarray) -> np.ndarray:
    """Bonds, and pairs of atoms bonded to the same third."""
    neighbours: dict[int, list[int]] = {}
    for a, b in bonds.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    apart = [pair for near in neighbours.values() for pair in itertools.combinations(sorted(near), 2)]
    return np.unique(np.concatenate([np.sort(bonds, axis=1), np.array(apart, dtype=np.int64).reshape(-1, 2)]), axis=0)
