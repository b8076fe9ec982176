"""Bonds and distances: whether they are those of molecules, whether some are missing, and a guess by MDAnalysis."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np
from MDAnalysis.guesser.default_guesser import DefaultGuesser
from MDAnalysis.guesser.tables import Z2SYMB, vdwradii
from MDAnalysis.lib.distances import calc_bonds, self_capped_distance
from MDAnalysis.lib.mdamath import triclinic_box
from scipy.sparse import coo_array, csgraph
from scipy.spatial import KDTree

from ..errors import DataError
from ..mechanics.fragments import COVALENT_RADII
from .topology import Topology, describe, quiet, read_topology

# Lengths in sums of two covalent radii. Bonds of molecules have 0.85 to 1.3, also hot and transition states' ones.
_SHORT, _LONG, _HUGE = 0.6, 1.8, 7.0  # of the median in nm as Å; of a bond that is none; of all in Å as nm
_BEADS = 1.5  # all longer: links between beads that stand for several atoms
_SHORTEST = 0.6  # Å; H2 has 0.74
_APART = 0.5  # Å; no two atoms are as near, in hot H2 neither
_NEAR = 1.15  # two atoms nearer are bonded
# Most guessed bonds of an atom: iodine has up to 8 neighbours; a metal 12 or 14, in some alloys 16.
_MOST, _MOST_OF_METAL = 8, 16


def add_guessed_bonds(universe: mda.Universe) -> int:
    """Give a universe without bonds those that the distances of its present frame suggest.

    Two atoms are bonded if they are closer than 0.55 times the sum of their van der Waals radii (MDAnalysis), by their
    elements and not by their types, across periodic boundaries too.

    Returns
    -------
    int
        How many were added; none where the universe has bonds.

    Raises
    ------
    DataError
        If an element has no radius, there are no bonds to be seen, or more and shorter ones than atoms have.
    """
    atoms = universe.atoms
    if len(getattr(universe, "bonds", ())):
        return 0
    _check_unit(atoms)
    with quiet():
        numbers = read_topology(atoms).numbers
        symbols = np.array([Z2SYMB[int(z)] for z in numbers], dtype=object)
        unknown = sorted({symbol for symbol in symbols if symbol.upper() not in vdwradii})
        if unknown:
            raise DataError(f"bonds of {', '.join(unknown)} cannot be guessed; give a topology that has them")
        named = mda.Universe.empty(len(atoms), trajectory=False)
        named.add_TopologyAttr("types", symbols)
        named.load_new(atoms.positions, dimensions=universe.dimensions)
        bonds = DefaultGuesser(None, box=universe.dimensions).guess_bonds(named.atoms, atoms.positions)
    if not len(bonds):
        raise DataError("no two atoms are as near as bonded ones, so there are no bonds to guess")
    _check_degrees(atoms, numbers, np.array(bonds, dtype=np.int64))
    if not hasattr(universe, "bonds"):
        universe.add_TopologyAttr("bonds", [])
    universe.add_bonds(bonds)
    return len(bonds)


def check_bond_lengths(
    topology: Topology,
    positions: np.ndarray,
    cell: np.ndarray | None,
    where: str,
    *,
    atoms: mda.AtomGroup | None = None,
) -> None:
    """Refuse a frame whose bonds are not as long as bonds are: another unit, another order of atoms, wrapped atoms.

    Lengths are held against sums of covalent radii. Bonds of metals, between two hydrogens (rigid water) and between
    beads, all of which are longer than any bond of atoms, are not judged.

    Parameters
    ----------
    topology : Topology
    positions : ndarray, shape (N, 3), Å
    cell : ndarray, shape (3, 3), Å, or None
        Bonds are the shortest ones across it.
    where : str
        The frame, as the message names it.
    atoms : AtomGroup, optional
        Of the topology, for their names in the message.

    Raises
    ------
    DataError
        If the median is below 0.6 of the sum, or all are above 7 times it; or one above 1.8 times it where others are
        below 1.5.
    """
    if topology.bonds is None:
        return
    judged, lengths, sums = _lengths(topology.numbers, topology.bonds, positions, cell)
    if not len(judged):
        return
    ratios = lengths / sums
    middle = int(np.argsort(ratios)[len(ratios) // 2])
    if ratios[middle] < _SHORT or ratios.min() > _HUGE:
        wrong, fits = ("nm", "short") if ratios[middle] < _SHORT else ("a tenth of an Å", "long")
        raise DataError(
            f"{where}: bonds are too {fits}; half of them are {'below' if fits == 'short' else 'above'} "
            f"{lengths[middle]:.3g} Å, where the sum of covalent radii is {sums[middle]:.2f} Å. Are the coordinates in "
            f"{wrong}, or are the atoms in another order than in the topology? Positions are read as Å: convert the "
            "file"
        )
    longest = int(np.argmax(ratios))
    if ratios[longest] > _LONG and ratios.min() < _BEADS:
        first, second = (
            f"atom {k} ({Z2SYMB[int(topology.numbers[k])]})" if atoms is None else describe(atoms, k)
            for k in judged[longest]
        )
        raise DataError(
            f"{where}: the bond of {first} and {second} is {lengths[longest]:.2f} Å long, the "
            f"sum of their covalent radii is {sums[longest]:.2f} Å ({np.count_nonzero(ratios > _LONG)} of "
            f"{len(ratios)} bonds are longer than {_LONG} times that). Are the atoms in another order than in the "
            "topology, or were they wrapped into a box that the file does not hold? Give the topology that the "
            "trajectory was written with, and molecules that are whole; bonds that break do not belong into it"
        )


def check_spacing(atoms: mda.AtomGroup, positions: np.ndarray, cell: np.ndarray | None, where: str) -> None:
    """Refuse a frame in which two atoms are nearer than any bond is short: another unit, or an atom twice.

    Virtual sites, which have no mass, may be as near to atoms as they are.

    Parameters
    ----------
    atoms : AtomGroup
        For masses, and for names of the message.
    positions : ndarray, shape (N, 3), Å
    cell : ndarray, shape (3, 3), Å, or None
        Distances are the shortest ones across it.
    where : str
        The frame, as the message names it.

    Raises
    ------
    DataError
        If two atoms are less than 0.5 Å apart.
    """
    box = None if cell is None else triclinic_box(*cell)
    pairs, distances = self_capped_distance(positions.astype(np.float32), _APART, box=box)
    if len(pairs) and hasattr(atoms, "masses"):
        both = (atoms.masses[pairs] > 0).all(axis=1)
        pairs, distances = pairs[both], distances[both]
    if not len(pairs):
        return
    nearest = int(np.argmin(distances))
    i, j = pairs[nearest]
    count = len(np.unique(pairs))
    raise DataError(
        f"{where}: {describe(atoms, i)} and {describe(atoms, j)} are {distances[nearest]:.2g} Å apart ({count} of "
        f"{len(positions)} atoms have another one within {_APART} Å, no bond is that short); are coordinates in nm in "
        "place of Å, atoms in the file twice, or is the box too small?"
    )


def missing_bonds(topology: Topology, positions: np.ndarray) -> np.ndarray:
    """Pairs of atoms as near as bonded ones, which the topology does not even connect through others.

    Parameters
    ----------
    topology : Topology
    positions : ndarray, shape (N, 3), Å
        Of molecules that are whole.

    Returns
    -------
    ndarray of int64, shape (M, 2)
        None of metals, between two hydrogens, or of a hydrogen that has its bond (a strong hydrogen bond).
    """
    radii = np.array([COVALENT_RADII.get(int(z), 0.0) for z in topology.numbers])
    pairs = KDTree(positions).query_pairs(2 * _NEAR * radii.max(initial=0.1), output_type="ndarray")
    judged, lengths, sums = _lengths(topology.numbers, pairs, positions, None)
    near = judged[lengths < _NEAR * sums]
    bonds = np.empty((0, 2), dtype=np.int64) if topology.bonds is None else topology.bonds
    n = topology.n_atoms
    _, piece = csgraph.connected_components(coo_array((np.ones(len(bonds)), bonds.T), shape=(n, n)), directed=False)
    held = (topology.numbers == 1) & (np.bincount(bonds.ravel(), minlength=n) > 0)
    missing: np.ndarray = near[(piece[near[:, 0]] != piece[near[:, 1]]) & ~held[near].any(axis=1)]
    return missing


def _lengths(
    numbers: np.ndarray, bonds: np.ndarray, positions: np.ndarray, cell: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bonds whose length can be judged, their lengths and the sums of covalent radii, Å."""
    radii = np.array([COVALENT_RADII.get(int(z), np.nan) for z in numbers])
    sums = radii[bonds].sum(axis=1)
    known = np.isfinite(sums) & ~(numbers[bonds] == 1).all(axis=1)
    bonds = bonds[known]
    box = None if cell is None else triclinic_box(*cell)
    return bonds, calc_bonds(positions[bonds[:, 0]], positions[bonds[:, 1]], box=box), sums[known]


def _check_unit(atoms: mda.AtomGroup) -> None:
    """Refuse a frame in which most atoms are nearer to another one than any bond is short."""
    if len(atoms) < 2:
        return
    nearest = float(np.median(KDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1]))
    if nearest < _SHORTEST:
        raise DataError(
            f"bonds cannot be guessed: half of the atoms have another one within {nearest:.3g} Å, no bond is that "
            "short. Coordinates in nm look like that, which are read as Å: convert the file"
        )


def _check_degrees(atoms: mda.AtomGroup, numbers: np.ndarray, bonds: np.ndarray) -> None:
    """Refuse guessed bonds that are more than an atom has."""
    most = np.where([int(z) in COVALENT_RADII for z in numbers], _MOST, _MOST_OF_METAL)
    degree = np.bincount(bonds.ravel(), minlength=len(numbers))
    atom = int(np.argmax(degree / most))
    if degree[atom] > most[atom]:
        raise DataError(
            f"bonds cannot be guessed: {describe(atoms, atom)} would have {degree[atom]}, it is as near to so many as "
            "bonded atoms are. Atoms lie on others, or the coordinates are not in Å: mend or convert the file"
        )
