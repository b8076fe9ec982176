"""Geometry of bonds: lengths and angles beside those of a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import DataError


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and standard deviations over frames of lengths or angles.

    Attributes
    ----------
    mean, deviation : ndarray, shape (M,)
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of values (n_frames, M).

        Raises
        ------
        DataError
            If there are no frames.
        """
        if not len(values):
            raise DataError("there are no frames")
        return cls(values.mean(axis=0), values.std(axis=0))


def bonded_angles(bonds: np.ndarray) -> np.ndarray:
    """Triples a-b-c of bonded atoms, shape (K, 3), each once."""
    neighbours: dict[int, list[int]] = {}
    for a, b in np.asarray(bonds).tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    triples = [
        [around[i], centre, around[j]]
        for centre, around in sorted(neighbours.items())
        for i in range(len(around))
        for j in range(i + 1, len(around))
    ]
    return np.array(triples, dtype=np.int64).reshape(-1, 3)


def bond_lengths(positions: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Lengths, shape (..., M), Å, in positions (..., N, 3)."""
    return np.linalg.norm(positions[..., bonds[:, 1], :] - positions[..., bonds[:, 0], :], axis=-1)


def angle_sizes(positions: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """Angles, shape (..., K), degrees, in positions (..., N, 3)."""
    u = positions[..., triples[:, 0], :] - positions[..., triples[:, 1], :]
    v = positions[..., triples[:, 2], :] - positions[..., triples[:, 1], :]
    across, along = np.linalg.norm(np.cross(u, v), axis=-1), np.einsum("...i,...i->...", u, v)
    return np.degrees(np.arctan2(across, along))


def rms_from(values: Moments, reference: Moments) -> float:
    """RMS, over frames and bonds, of the deviation from the mean of the reference.

    Of the reference itself it is the thermal vibration: √⟨σ²⟩.
    """
    return float(np.sqrt(np.mean((values.mean - reference.mean) ** 2 + values.deviation**2)))
