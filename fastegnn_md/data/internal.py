"""Coordinates that turning and shifting a molecule leaves alone, and the slow ones among their combinations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from MDAnalysis.lib.distances import calc_dihedrals

from .._extras import naming_extras
from ..errors import DataError
from .topology import Topology

_MOST_ATOMS = 12  # whose distances are taken: 66 of them


class InternalCoordinates:
    """Torsions about bonds between heavy atoms, and distances of some heavy atoms.

    Torsions of groups whose ends are equal hydrogens, as methyl, are left out: their turns change nothing.

    Parameters
    ----------
    topology : Topology

    Attributes
    ----------
    quadruples : ndarray of int64, shape (T, 4)
        Atoms of the torsions; none where the topology has no bonds.
    pairs : ndarray of int64, shape (D, 2)
        Atoms of the distances: up to 12 heavy ones, evenly spread over the molecule; all atoms where there are not two.

    Raises
    ------
    DataError
        If there is one atom alone.
    """

    def __init__(self, topology: Topology):
        if topology.n_atoms < 2:
            raise DataError("one atom alone has no internal coordinates; select a molecule")
        self.quadruples: np.ndarray = _torsions(topology)
        heavy = np.flatnonzero(topology.numbers > 1)
        if len(heavy) < 2:
            heavy = np.arange(topology.n_atoms)
        chosen = heavy[np.unique(np.linspace(0, len(heavy) - 1, min(_MOST_ATOMS, len(heavy))).round().astype(int))]
        first, second = np.triu_indices(len(chosen), 1)
        self.pairs: np.ndarray = np.stack([chosen[first], chosen[second]], axis=1)

    def angles(self, positions: np.ndarray) -> np.ndarray:
        """Torsions in radians, shape (n_frames, T), of positions (n_frames, N, 3) in Å."""
        x = np.asarray(positions, dtype=np.float32)
        shape = (len(x), len(self.quadruples))
        a, b, c, d = (np.ascontiguousarray(x[:, self.quadruples[:, k]].reshape(-1, 3)) for k in range(4))
        return calc_dihedrals(a, b, c, d).reshape(shape) if a.size else np.zeros(shape)

    def turns(self, positions: np.ndarray) -> np.ndarray:
        """Sines and cosines of the torsions, shape (n_frames, 2T); distances where there is no torsion."""
        if not len(self.quadruples):
            return self.distances(positions)
        angles = self.angles(positions)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    def distances(self, positions: np.ndarray) -> np.ndarray:
        """Distances, shape (n_frames, D), Å."""
        x = np.asarray(positions)
        return np.linalg.norm(x[:, self.pairs[:, 0]] - x[:, self.pairs[:, 1]], axis=-1)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """All of them, shape (n_frames, 2T + D) or (n_frames, D)."""
        if not len(self.quadruples):
            return self.distances(positions)
        return np.concatenate([self.turns(positions), self.distances(positions)], axis=1)


def fit_components(series: Sequence[np.ndarray], lag: int, dimension: int = 2) -> Any:
    """Fit time-lagged independent components with deeptime (Molgedey and Schuster, Phys. Rev. Lett. 72, 3634 (1994)).

    Parameters
    ----------
    series : sequence of ndarray, shape (n_frames, n_features)
        Independent runs.
    lag : int
        Frames.
    dimension : int
        Number of components.

    Returns
    -------
    deeptime.decomposition.TransferOperatorModel
        With ``transform`` and ``timescales``.

    Raises
    ------
    DataError
        If a run is no longer than the lag, or nothing moves.
    MissingDependencyError
        If deeptime is not installed.
    """
    with naming_extras("fitting slow components"):
        from deeptime.decomposition import TICA
        from deeptime.numeric import ZeroRankError

    if lag < 1 or min(len(one) for one in series) <= lag:
        raise DataError(f"the lag is {lag} frames and the shortest run {min(len(one) for one in series)}")
    try:
        return TICA(lagtime=lag, dim=dimension).fit([np.ascontiguousarray(one) for one in series]).fetch_model()
    except ZeroRankError as error:
        raise DataError("torsions and distances are the same in all frames; give a molecule that moves") from error


def _torsions(topology: Topology) -> np.ndarray:
    """One torsion about each bond between heavy atoms that has different neighbours on both sides to turn."""
    neighbours: dict[int, list[int]] = {}
    bonds = [] if topology.bonds is None else topology.bonds.tolist()
    for a, b in bonds:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    heavy = {atom: sum(topology.numbers[n] > 1 for n in near) for atom, near in neighbours.items()}
    found = []
    for b, c in bonds:
        if min(topology.numbers[b], topology.numbers[c]) == 1:
            continue
        ends = [[n for n in neighbours[one] if n != other] for one, other in ((b, c), (c, b))]
        if not all(ends) or any(len(end) > 1 and set(topology.numbers[end]) == {1} for end in ends):
            continue
        a, d = (min(end, key=lambda n: (-heavy[n], -topology.numbers[n], n)) for end in ends)  # along the chain
        if a != d:  # else a ring of three
            found.append((a, b, c, d))
    return np.array(found, dtype=np.int64).reshape(-1, 4)
