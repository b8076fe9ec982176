"""Held distances: which pairs of atoms are rigid, and how far a trajectory strays from their lengths."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from MDAnalysis.analysis.base import AnalysisBase
from MDAnalysis.lib.distances import calc_bonds

from ...data.topology import quiet, read_topology

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

# Å. Coordinates rounded to 0.01 Å (XTC) make the length of a rigid bond fluctuate by 0.004 Å; the stiffest bonds (O-H,
# C=O) do so by 0.02 Å at room temperature.
RIGID = 0.008


class RigidPairs(AnalysisBase):
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
        super().__init__(atoms.universe.trajectory, verbose=verbose)
        self.atoms, self.tolerance = atoms, tolerance
        with quiet():
            bonds = read_topology(atoms).bonds
        self._pairs = np.empty((0, 2), dtype=np.int64) if bonds is None else _with_angles(bonds)

    def _prepare(self) -> None:
        self._shift: np.ndarray | None = None
        self._sum, self._square = np.zeros(len(self._pairs)), np.zeros(len(self._pairs))

    def _single_frame(self) -> None:
        lengths = pair_lengths(self.atoms, self._pairs)
        if self._shift is None:
            self._shift = lengths
        self._sum += lengths - self._shift
        self._square += np.square(lengths - self._shift)

    def _conclude(self) -> None:
        mean, square = self._sum / self.n_frames, self._square / self.n_frames
        shift = np.zeros(len(self._pairs)) if self._shift is None else self._shift
        rigid = square - mean**2 < self.tolerance**2
        if self.n_frames < 2:
            rigid[:] = False
        self.results.pairs = self._pairs[rigid]
        self.results.lengths = (shift + mean)[rigid]


class ConstraintViolation(AnalysisBase):
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

    def __init__(self, atoms: AtomGroup, pairs: np.ndarray, lengths: np.ndarray, *, verbose: bool = False):
        super().__init__(atoms.universe.trajectory, verbose=verbose)
        self.atoms, self.pairs, self.lengths = atoms, np.asarray(pairs, dtype=np.int64), np.asarray(lengths)

    def _prepare(self) -> None:
        self._rows: list[tuple[float, float]] = []

    def _single_frame(self) -> None:
        deviation = np.abs(pair_lengths(self.atoms, self.pairs) / self.lengths - 1)
        self._rows.append((float(np.sqrt(np.mean(deviation**2))), float(deviation.max())))

    def _conclude(self) -> None:
        self.results.rms, self.results.largest = np.array(self._rows).reshape(-1, 2).T


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
