"""Drift of the total energy at constant energy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from ...errors import DataError
from ..statistics import CONFIDENCE

_BLOCKS = 20  # whose means are fitted: neighbouring frames are correlated, blocks hardly


class Drift(NamedTuple):
    """Slope of the total energy.

    Attributes
    ----------
    per_atom : float, kJ/mol/ps
        Slope over the number of atoms.
    over_fluctuation : float, 1/ps
        Slope over the standard deviation of the kinetic energy.
    error : float, 1/ps
        Half the 95 % confidence interval of ``over_fluctuation``.
    """

    per_atom: float
    over_fluctuation: float
    error: float


def energy_drift(times: np.ndarray, energy: np.ndarray, kinetic: np.ndarray, n_atoms: int) -> Drift:
    """Straight line through the total energy of a run at constant energy.

    Parameters
    ----------
    times : ndarray, shape (n_frames,), ps
    energy, kinetic : ndarray, shape (n_frames,), kJ/mol
        Total and kinetic energy.
    n_atoms : int
        Divides the slope in ``per_atom``.

    Returns
    -------
    Drift
        Slope of the line, in the units of its attributes.

    Raises
    ------
    DataError
        If there are fewer than 40 frames, the energies are not finite, or the kinetic energy does not fluctuate.
    """
    if len(times) < 2 * _BLOCKS:
        raise DataError(f"{len(times)} frames are too few for a drift; give {2 * _BLOCKS} or more")
    if not (np.isfinite(energy).all() and np.isfinite(kinetic).all()):
        raise DataError("an energy is not finite: the run blew up")
    fluctuation = float(np.std(kinetic))
    if fluctuation == 0:
        raise DataError("the kinetic energy does not fluctuate; a drift is measured against it")
    means = [(np.mean(t), np.mean(e)) for t, e in zip(_blocks(times), _blocks(energy), strict=True)]
    line = linregress(*np.array(means).T)
    half = student.ppf(0.5 + CONFIDENCE / 2, _BLOCKS - 2) * line.stderr
    return Drift(float(line.slope) / n_atoms, float(line.slope) / fluctuation, float(half) / fluctuation)


def _blocks(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(values, _BLOCKS)
