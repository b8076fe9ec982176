"""Basins, kinetics and handedness as MDAnalysis analyses, of one trajectory or of several independent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from MDAnalysis.analysis.base import AnalysisBase

from ..data.frames import keeping_frame
from ..data.topology import quiet, read_topology, static
from ..errors import DataError
from ..graph.stereo import signed_volumes, stereocentres
from .observables.basins import populations
from .observables.chirality import flips
from .observables.frames import FrameAnalysis
from .observables.kinetics import CLUSTERS, assign, fit_clusters, implied_timescales, markov_model
from .observables.torsions import find_torsions, torsion_angles
from .observables.transitions import count_transitions
from .observables.vdos import even_spacing
from .torsion_runs import TorsionRuns

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup, Universe


class _SeveralRuns(AnalysisBase):
    """Base of analyses of independent trajectories of the same atoms."""

    def __init__(self, runs: AtomGroup | Universe | Sequence[AtomGroup | Universe], *, verbose: bool = False):
        every: list[Any] = list(runs) if isinstance(runs, list | tuple) else [runs]
        if not every:
            raise DataError("there is no trajectory to analyse")
        self.groups: list[Any] = [static(one.atoms) for one in every]
        if len({len(group) for group in self.groups}) > 1:
            raise DataError(f"the runs have {[len(group) for group in self.groups]} atoms; give the same atoms of each")
        super().__init__(self.groups[0].universe.trajectory, verbose=verbose)

    def run(self, start: int | None = None, stop: int | None = None, step: int | None = None) -> Any:
        """Analyse these frames of every run.

        Parameters
        ----------
        start, stop, step : int, optional
            Frames of each run, as of a slice.

        Returns
        -------
        This analysis, with :attr:`results`.
        """
        readers = [group.universe.trajectory for group in self.groups]
        frames = [range(*slice(start, stop, step).indices(len(reader))) for reader in readers]
        if not all(frames):
            raise DataError(f"a run has no frame from {start} to {stop}")
        times = []
        for group, reader, chosen in zip(self.groups, readers, frames, strict=True):
            with quiet(), keeping_frame(reader):
                times.append([reader[frame].time for frame in chosen[:3]])
                self._one(group, chosen)
        # times are looked at where an analysis needs them: a single frame has none between frames
        self._times = times
        self._conclude()
        return self

    def _one(self, group: AtomGroup, frames: range) -> None:
        raise NotImplementedError

    def _spacing(self) -> float:
        found = [even_spacing(np.array(one, dtype=np.float64)) for one in self._times]
        if max(found) - min(found) > 1e-3 * max(found):
            raise DataError(f"the runs have frames {sorted(set(found))} ps apart; give runs with the same")
        return found[0]


class TorsionBasins(_SeveralRuns):
    """In which basin of φ and ψ each residue is, and how often.

    Basins are C5, C7eq, alphaR, alphaL and C7ax of alanine and its like (:data:`~.observables.basins.ALANINE`).

    Parameters
    ----------
    runs : AtomGroup, Universe, or a list of these
        Independent trajectories of the same peptide.
    seed : int
        Of the bootstrap.
    verbose : bool

    Attributes
    ----------
    results.names : list of str
        Of the basins, S of them.
    results.residues : list of str
        R of them.
    results.angles : list of ndarray, shape (n_frames, T)
        φ and ψ of each run, degrees.
    results.labels : list of ndarray of int, shape (n_frames, R)
        Basin of each residue in each run.
    results.populations, results.errors : ndarray, shape (R, S)
        Shares of the frames; standard errors by a bootstrap of whole runs, NaN for one run.

    Raises
    ------
    DataError
        If no residue has φ and ψ, or the runs have different atoms.

    Examples
    --------
    >>> basins = TorsionBasins([first, second]).run()  # doctest: +SKIP
    >>> dict(zip(basins.results.names, basins.results.populations[0]))  # doctest: +SKIP
    """

    def __init__(
        self, runs: AtomGroup | Universe | Sequence[AtomGroup | Universe], *, seed: int = 0, verbose: bool = False
    ):
        super().__init__(runs, verbose=verbose)
        self.seed = seed

    def run(self, start: int | None = None, stop: int | None = None, step: int | None = None) -> TorsionBasins:
        """Analyse these frames of every run; see :meth:`MDAnalysis.analysis.base.AnalysisBase.run`."""
        self.results.angles = []
        return super().run(start, stop, step)

    def _one(self, group: AtomGroup, frames: range) -> None:
        found = find_torsions(group)
        self._names, self._pairs = found.names, found.pairs
        self.results.angles.append(torsion_angles(found.groups, start=frames.start, stop=frames.stop, step=frames.step))

    def _runs(self, spacing: float) -> TorsionRuns:
        return TorsionRuns.of(self.results.angles, spacing, self._pairs, self._names)

    def _conclude(self) -> None:
        runs, rng = self._runs(1.0), np.random.default_rng(self.seed)
        found = [populations(one, len(runs.regions), rng) for one in runs.basins]
        self.results.names, self.results.residues = list(runs.regions), runs.residues
        self.results.labels = [np.stack(one, axis=1) for one in zip(*runs.basins, strict=True)]
        self.results.populations = np.array([one.values for one in found])
        self.results.errors = np.array([one.errors for one in found])


class Kinetics(TorsionBasins):
    """Transitions between basins after a lag, and the slow processes of the torsions.

    A reversible Markov state model (deeptime) of k-means clusters of the cosines and sines of φ and ψ.

    Parameters
    ----------
    runs : AtomGroup, Universe, or a list of these
        Independent trajectories of the same peptide.
    lag : float
        ps, a multiple of the time between frames.
    clusters : int
        Of k-means, without ``centres``.
    centres : ndarray, shape (K, 2 T), optional
        Clusters of another analysis, its ``results.centres``, so that both are told by the same.
    processes : int
        How many of the slowest.
    seed : int
        Of clusters and bootstrap.
    verbose : bool

    Attributes
    ----------
    results.transitions, results.transition_errors : ndarray, shape (R, S, S)
        Probabilities of a transition in a lag, rows add up to one, and their standard errors.
    results.counts : ndarray, shape (R, S)
        Transitions of each row, without overlap.
    results.timescales, results.lower, results.upper : ndarray, shape (processes,)
        Implied time scales and the ends of their 95 % intervals, ps.
    results.model : deeptime.markov.msm.MarkovStateModel
        In frames.
    results.centres : ndarray, shape (K, 2 T)
    results.names, results.residues, results.angles, results.labels, results.populations, results.errors
        As in :class:`TorsionBasins`.

    Raises
    ------
    DataError
        Beside what :class:`TorsionBasins` raises: if the lag does not fit the frames, or there are too few.
    MissingDependencyError
        If deeptime is not installed.
    """

    lag: float
    clusters: int
    centres: np.ndarray | None
    processes: int

    def __init__(
        self,
        runs: AtomGroup | Universe | Sequence[AtomGroup | Universe],
        lag: float,
        *,
        clusters: int = CLUSTERS,
        centres: np.ndarray | None = None,
        processes: int = 3,
        seed: int = 0,
        verbose: bool = False,
    ):
        super().__init__(runs, seed=seed, verbose=verbose)
        self.lag, self.clusters, self.centres, self.processes = lag, clusters, centres, processes

    def _conclude(self) -> None:
        super()._conclude()
        spacing = self._spacing()
        runs, rng = self._runs(spacing), np.random.default_rng(self.seed)
        lag = runs.lag(self.lag)
        matrices = [runs.transitions(k, self.lag, rng) for k in range(len(runs.residues))]
        self.results.transitions = np.array([one.probabilities for one in matrices])
        self.results.transition_errors = np.array([one.errors for one in matrices])
        self.results.counts = np.array([one.counts for one in matrices])
        centres = fit_clusters(runs.features, self.clusters, self.seed) if self.centres is None else self.centres
        labels = [assign(one, centres) for one in runs.features]
        scales = implied_timescales(labels, [lag], len(centres), rng, self.processes)
        for name, one in (("timescales", scales.values), ("lower", scales.lower), ("upper", scales.upper)):
            self.results[name] = one[0] * spacing
        counts = np.sum([count_transitions(one, lag, len(centres)) for one in labels], axis=0)
        self.results.model, self.results.centres = markov_model(counts, lag), centres


class Chirality(FrameAnalysis):
    """Handedness of the stereocentres of a molecule, and how often one turned over.

    Parameters
    ----------
    atoms : AtomGroup
        With bonds.
    verbose : bool

    Attributes
    ----------
    results.centres : ndarray of int, shape (C,)
        Stereocentres, numbered within the group.
    results.volumes : ndarray, shape (n_frames, C), Å³
        Six times the signed volume of the tetrahedron of the neighbours.
    results.flips : ndarray of int, shape (C,)
        Changes of the hand from frame to frame.

    Raises
    ------
    DataError
        If the topology has no bonds.
    """

    def __init__(self, atoms: AtomGroup, *, verbose: bool = False):
        super().__init__(atoms, verbose=verbose)
        with quiet():
            topology = read_topology(atoms)
        if topology.bonds is None:
            raise DataError("the topology has no bonds, so stereocentres are not known; add them or guess them")
        self._centres = stereocentres(torch.as_tensor(topology.numbers), torch.as_tensor(topology.bonds))

    def row(self) -> np.ndarray:
        """Signed volumes (C,) of a frame."""
        return signed_volumes(torch.from_numpy(self.atoms.positions.astype(np.float64)), self._centres).numpy()

    def _conclude(self) -> None:
        self.results.volumes = np.array(self.taken())
        self.results.centres = self._centres[:, 0].numpy()
        self.results.flips = flips(self.results.volumes, self.results.volumes[0])
