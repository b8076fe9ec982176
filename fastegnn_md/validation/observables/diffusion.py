"""Mean squared displacement and diffusion coefficient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import MDAnalysis as mda
import numpy as np
from MDAnalysis.analysis.msd import EinsteinMSD
from scipy.stats import linregress

from ..._extras import naming_extras
from ...data.frames import copy_frame
from ...errors import DataError
from .frames import FrameAnalysis
from .vdos import even_spacing, unwrapped_rows

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

FIT = (0.1, 0.5)  # shares of the longest lag: beyond ballistic motion, before the statistics run out


class Diffusion(FrameAnalysis):
    """Mean squared displacement by MDAnalysis' ``EinsteinMSD``, and D = slope / 6 of a straight line through it.

    Atoms are followed through periodic boundaries first.

    Parameters
    ----------
    atoms : AtomGroup
    fit : tuple of float
        Stretch of the line, as shares of the longest lag.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.lags : ndarray, shape (n_frames,), ps
    results.msd : ndarray, shape (n_frames,), Å²
    results.diffusion : float, Å²/ps
        D; 1 Å²/ps is 10⁻⁴ cm²/s.

    Raises
    ------
    DataError
        If frames are not evenly spaced, or fewer than ten.
    """

    def __init__(self, atoms: AtomGroup, fit: tuple[float, float] = FIT, *, verbose: bool = False):
        if not 0 <= fit[0] < fit[1] <= 1:
            raise DataError(f"fit={fit}; expected two rising shares between 0 and 1")
        super().__init__(atoms, verbose=verbose)
        self.fit = fit

    def row(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions (N, 3) and cell (3, 3) of a frame, Å."""
        frame = copy_frame(self.atoms, velocities=False, forces=False)
        return frame.positions, frame.cell

    def _conclude(self) -> None:
        rows = unwrapped_rows(self.taken())
        spacing = even_spacing(self.times)
        if len(rows) < 10:
            raise DataError(f"{len(rows)} frames are too few for a diffusion coefficient; give ten or more")
        unwrapped = mda.Universe.empty(len(self.atoms), trajectory=False)
        # float32 in memory: displacements keep their digits about the first frame
        unwrapped.load_new(np.array(rows) - rows[0], dt=spacing)
        with naming_extras("a mean squared displacement"):
            import tidynamics  # noqa: F401 - EinsteinMSD asks for it
        msd = EinsteinMSD(unwrapped, select="all", fft=True).run()
        self.results.msd = msd.results.timeseries
        self.results.lags = spacing * np.arange(len(rows))
        first, last = (round(share * (len(rows) - 1)) for share in self.fit)
        line = linregress(self.results.lags[first : last + 1], self.results.msd[first : last + 1])
        self.results.diffusion = float(line.slope) / 6
