"""Distances between atoms: all pairs of an isolated molecule, g(r) of a periodic system."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from MDAnalysis.analysis.rdf import InterRDF
from MDAnalysis.analysis.results import ResultsGroup
from MDAnalysis.guesser.tables import Z2SYMB
from MDAnalysis.lib.distances import self_distance_array

from ...data.topology import quiet, read_topology
from .frames import FrameAnalysis

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

WIDTH = 0.05  # Å, of the bins of h(r)


class PairDistances(FrameAnalysis):
    """Distribution of the distances of all pairs of atoms, h(r) = 2 / N(N−1) ⟨Σ_{i<j} δ(r − r_ij)⟩.

    Without periodic images: for isolated molecules (Fu et al., TMLR 2023, "Forces are not enough").

    Parameters
    ----------
    atoms : AtomGroup
    longest : float, Å
        End of the last bin, in which longer distances are counted too.
    width : float, Å
        Of a bin.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.bins : ndarray, shape (n_bins,), Å
        Centres.
    results.density : ndarray, shape (n_bins,), 1/Å
        h(r), of integral one.
    """

    def __init__(self, atoms: AtomGroup, longest: float, width: float = WIDTH, *, verbose: bool = False):
        super().__init__(atoms, verbose=verbose)
        self.width = width
        self._n_bins = max(1, int(np.ceil(longest / width)))

    def _prepare(self) -> None:
        self.results.count = np.zeros(self._n_bins)

    def _single_frame(self) -> None:
        distances = self_distance_array(self.atoms.positions)
        places = np.minimum(distances / self.width, self._n_bins - 1).astype(np.int64)
        self.results.count += np.bincount(places, minlength=self._n_bins)

    def _conclude(self) -> None:
        self.results.bins = (np.arange(self._n_bins) + 0.5) * self.width
        count = self.results.pop("count")
        self.results.density = count / (max(1.0, count.sum()) * self.width)

    def _get_aggregator(self) -> ResultsGroup:
        return ResultsGroup(lookup={"count": ResultsGroup.ndarray_sum})


def element_pairs(atoms: AtomGroup) -> dict[str, tuple[AtomGroup, AtomGroup]]:
    """Groups of atoms for the g(r) of each pair of elements, ``{"H-O": (hydrogens, oxygens), …}``."""
    with quiet():
        numbers = read_topology(atoms).numbers
    groups = {Z2SYMB[int(number)]: atoms[numbers == number] for number in np.unique(numbers)}
    pairs = itertools.combinations_with_replacement(groups, 2)
    return {f"{a}-{b}": (groups[a], groups[b]) for a, b in pairs if a != b or len(groups[a]) > 1}


def radial_distribution(first: AtomGroup, second: AtomGroup, longest: float, n_bins: int = 100) -> InterRDF:
    """MDAnalysis' g(r) between two groups, without pairs of one molecule (residue); not yet run.

    Parameters
    ----------
    first, second : AtomGroup
        Equal or disjoint.
    longest : float, Å
        At most half the shortest edge of the box.
    n_bins : int
        Bins from 0 to ``longest``.

    Returns
    -------
    InterRDF
        ``.run()`` gives ``results.bins`` (Å) and ``results.rdf``.
    """
    options: dict[str, object] = {"nbins": n_bins, "range": (0.0, longest)}
    molecules = np.unique(np.concatenate([first.resindices, second.resindices]))
    if len(molecules) > 1:
        options["exclude_same"] = "residue"
    elif first == second:
        options["exclusion_block"] = (1, 1)
    return InterRDF(first, second, **options)
