"""Vibrational density of states, from velocities or from positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import find_peaks, welch

from ...data.frames import copy_frame
from ...data.topology import quiet, read_topology
from ...data.unwrap import Unwrapper
from ...errors import DataError
from .frames import FrameAnalysis

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

CM = 33.35640951981521  # 1/cm per 1/ps
_PROMINENCE = 0.02  # of a peak, in units of the highest


class VelocityDensityOfStates(FrameAnalysis):
    """Power spectrum of mass-weighted velocities, S(ν) ∝ Σ_i m_i |v̂_i(ν)|², of integral one.

    By Welch's method: mean over segments that overlap by half, each in a Hann window.

    Parameters
    ----------
    atoms : AtomGroup
    velocities : {"stored", "central"}
        Those of the frames, or (x(t+δ) − x(t−δ)) / 2δ between frames δ apart. The latter multiply S by
        (sin 2πνδ / 2πνδ)², so both are to be compared with a reference of the same δ. Where they disagree more than
        those of a reference, v′ is not the derivative of x′.
    segment : float, ps, optional
        Length of a segment; the resolution is its inverse. Default: all frames in one.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.frequencies : ndarray, shape (n,), 1/cm
    results.density : ndarray, shape (n,), cm
        S(ν).
    results.peaks : ndarray, 1/cm
        Frequencies of maxima that stand out by 2 % of the highest.

    Raises
    ------
    DataError
        If frames lack velocities, are not evenly spaced, or are fewer than eight.
    """

    segment: float | None

    def __init__(
        self, atoms: AtomGroup, velocities: str = "stored", segment: float | None = None, *, verbose: bool = False
    ):
        if velocities not in ("stored", "central"):
            raise DataError(f"velocities={velocities!r}; expected 'stored' or 'central'")
        super().__init__(atoms, verbose=verbose)
        self.velocities, self.segment = velocities, segment
        with quiet():
            self._masses = read_topology(atoms).masses

    def row(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Velocities (N, 3), or positions (N, 3) and cell (3, 3)."""
        if self.velocities == "central":
            frame = copy_frame(self.atoms, velocities=False, forces=False)
            return frame.positions, frame.cell
        if not self._ts.has_velocities:
            raise DataError(f"frame {self._ts.frame} has no velocities; use velocities='central'")
        return self.atoms.velocities.astype(np.float64), None

    def _conclude(self) -> None:
        spacing, rows = even_spacing(self.times), self.taken()
        series = np.array(unwrapped_rows(rows) if self.velocities == "central" else [row[0] for row in rows])
        if self.velocities == "central":
            series = (series[2:] - series[:-2]) / (2 * spacing)
        if len(series) < 8:
            raise DataError(f"{len(rows)} frames are too few for a spectrum; give ten or more")
        length = len(series) if self.segment is None else min(len(series), round(self.segment / spacing))
        frequencies, power = welch(
            series.reshape(len(series), -1), fs=1 / spacing, nperseg=max(8, length), detrend=False, axis=0
        )
        density = power @ np.repeat(self._masses, 3)
        self.results.frequencies = CM * frequencies
        self.results.density = density / (density.sum() * self.results.frequencies[1])
        highest = self.results.density.max()
        places, _ = find_peaks(self.results.density, prominence=_PROMINENCE * highest)
        self.results.peaks = self.results.frequencies[places]


def unwrapped_rows(rows: list[tuple[np.ndarray, np.ndarray | None]]) -> list[np.ndarray]:
    """Positions (N, 3) of successive frames, followed through the boundaries of their cells."""
    follow = Unwrapper()
    return [follow(positions, cell) for positions, cell in rows]


def even_spacing(times: np.ndarray) -> float:
    """Time between frames in ps.

    Raises
    ------
    DataError
        If frames are not evenly spaced, or fewer than two.
    """
    if len(times) < 2:
        raise DataError("one frame has no time step; give a trajectory")
    steps = np.diff(times)
    spacing = float(steps.mean())
    # times of float32 files have seven digits
    if spacing <= 0 or np.abs(steps - spacing).max() > 1e-2 * spacing + 1e-6 * np.abs(times).max():
        raise DataError(
            f"frames are not evenly spaced (from {steps.min():g} to {steps.max():g} ps); give one run per trajectory"
        )
    return spacing
