"""Slow motions: time-lagged independent components of torsions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from MDAnalysis.lib.distances import calc_dihedrals

from ...data.internal import fit_components as fit_components  # one of the names of this file
from .frames import FrameAnalysis

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

DIMENSION = 2


class TorsionFeatures(FrameAnalysis):
    """Sines and cosines of torsions.

    Parameters
    ----------
    groups : sequence of AtomGroup
        Of four atoms each.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.features : ndarray, shape (n_frames, 2 n_torsions)
        Sines, then cosines.
    """

    def __init__(self, groups: Sequence[AtomGroup], *, verbose: bool = False):
        super().__init__(groups[0].universe.atoms, verbose=verbose)
        self._quadruples = np.array([group.ix for group in groups])

    def row(self) -> np.ndarray:
        """Sines and cosines (2 n_torsions,) of a frame."""
        a, b, c, d = self._ts.positions[self._quadruples.T]
        angles = calc_dihedrals(a, b, c, d, box=self._ts.dimensions)
        return np.concatenate([np.sin(angles), np.cos(angles)])

    def _conclude(self) -> None:
        self.results.features = np.array(self.taken())


class TorsionComponents(TorsionFeatures):
    """Time-lagged independent components of the sines and cosines of torsions.

    Parameters
    ----------
    groups : sequence of AtomGroup
        Of four atoms each.
    lag : int
        Frames; used without ``model``.
    dimension : int
        Number of components; used without ``model``.
    model : optional
        From :func:`fit_components`, to project onto components known already; by default they are fitted to this run.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.features : ndarray, shape (n_frames, 2 n_torsions)
    results.components : ndarray, shape (n_frames, dimension)
    results.model : deeptime.decomposition.TransferOperatorModel
    """

    lag: int
    dimension: int
    model: Any

    def __init__(
        self,
        groups: Sequence[AtomGroup],
        lag: int = 1,
        dimension: int = DIMENSION,
        model: Any = None,
        *,
        verbose: bool = False,
    ):
        super().__init__(groups, verbose=verbose)
        self.lag, self.dimension, self.model = lag, dimension, model

    def _conclude(self) -> None:
        super()._conclude()
        model = self.model
        if model is None:
            model = fit_components([self.results.features], self.lag, self.dimension)
        self.results.model = model
        self.results.components = model.transform(self.results.features)
