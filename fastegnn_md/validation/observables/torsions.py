"""Torsion angles: which ones, their histograms, and how far two of these lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from MDAnalysis.analysis.dihedrals import Dihedral

from ...data.topology import quiet, read_topology
from ...errors import DataError

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup

BINS, JOINT_BINS = 100, 50


class Torsions(NamedTuple):
    """Torsions of a molecule.

    Attributes
    ----------
    names : list of str
    groups : list of AtomGroup
        Of four atoms each.
    pairs : list of (int, int)
        Rows of φ and ψ of one residue.
    """

    names: list[str]
    groups: list[AtomGroup]
    pairs: list[tuple[int, int]]


def find_torsions(atoms: AtomGroup) -> Torsions:
    """φ and ψ of the residues of a protein; of other molecules one torsion about each bond between heavy atoms.

    The end atoms of the latter are the heaviest neighbours, the first among equals.

    Parameters
    ----------
    atoms : AtomGroup
        With bonds, where it is no protein.

    Returns
    -------
    Torsions
        Groups of four atoms, with their names.

    Raises
    ------
    DataError
        If there is no protein and the topology has no bonds, or no bond has a torsion.
    """
    backbone = _backbone(atoms)
    if backbone.groups:
        return backbone
    with quiet():
        topology = read_topology(atoms)
    if topology.bonds is None:
        raise DataError("the topology has no bonds and no protein, so torsions are not known")
    neighbours: dict[int, list[int]] = {}
    for a, b in topology.bonds.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    found = Torsions([], [], [])
    for b, c in topology.bonds.tolist():
        if min(topology.numbers[b], topology.numbers[c]) == 1:
            continue
        ends = [[n for n in neighbours[one] if n != other] for one, other in ((b, c), (c, b))]
        if not all(ends):
            continue
        a, d = (min(end, key=lambda n: (-topology.masses[n], n)) for end in ends)
        if a == d:
            continue  # a ring of three
        quadruple = atoms[[a, b, c, d]]
        names = quadruple.names if hasattr(atoms, "names") else quadruple.ix
        found.names.append("-".join(str(name) for name in names))
        found.groups.append(quadruple)
    if not found.groups:
        raise DataError("no bond between heavy atoms has a torsion")
    return found


def _backbone(atoms: AtomGroup) -> Torsions:
    found = Torsions([], [], [])
    if not hasattr(atoms, "resnames") or not hasattr(atoms, "names"):
        return found
    inside = set(atoms.ix.tolist())
    protein = atoms.select_atoms("protein")
    for residue in protein.residues:
        rows = []
        for name, group in (("φ", residue.phi_selection()), ("ψ", residue.psi_selection())):
            if group is not None and inside.issuperset(group.ix.tolist()):
                rows.append(len(found.groups))
                found.names.append(f"{name} of {residue.resname} {residue.resid}")
                found.groups.append(group)
        if len(rows) == 2:
            found.pairs.append((rows[0], rows[1]))
    return found


def torsion_angles(groups: Sequence[AtomGroup], **frames: int | None) -> np.ndarray:
    """Angles by MDAnalysis' ``Dihedral``.

    Parameters
    ----------
    groups : sequence of AtomGroup
        Four atoms each, in order.
    **frames
        ``start``, ``stop``, ``step`` of the run.

    Returns
    -------
    ndarray, shape (n_frames, n_torsions), degrees
        From −180 to 180.
    """
    return Dihedral(list(groups)).run(**frames).results.angles


def torsion_histograms(angles: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Histograms of torsions.

    Parameters
    ----------
    angles : ndarray, shape (n_frames, n_torsions), degrees
        From −180 to 180.
    bins : int
        Of equal width.

    Returns
    -------
    ndarray, shape (n_torsions, bins)
        Share of the frames in each bin.
    """
    edges = np.linspace(-180, 180, bins + 1)
    return np.array([np.histogram(column, edges)[0] for column in angles.T]) / len(angles)


def joint_histograms(angles: np.ndarray, pairs: Sequence[tuple[int, int]], bins: int = JOINT_BINS) -> np.ndarray:
    """Histograms of pairs of torsions, such as φ and ψ of a residue.

    Parameters
    ----------
    angles : ndarray, shape (n_frames, n_torsions), degrees
        From −180 to 180.
    pairs : sequence of tuple of int
        Columns of ``angles`` that belong together.
    bins : int
        Of equal width, for each of the two.

    Returns
    -------
    ndarray, shape (n_pairs, bins²)
        Share of the frames in each cell.
    """
    edges = np.linspace(-180, 180, bins + 1)
    counts = [np.histogram2d(angles[:, a], angles[:, b], (edges, edges))[0].ravel() for a, b in pairs]
    return np.array(counts) / len(angles)
