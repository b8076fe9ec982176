"""Bonds for topologies that have none, guessed by MDAnalysis from the distances of atoms."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np
from MDAnalysis.guesser.default_guesser import DefaultGuesser
from MDAnalysis.guesser.tables import Z2SYMB, vdwradii

from ..errors import DataError
from .topology import quiet, read_topology


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
        If an element has no radius, or there are no bonds to be seen.
    """
    atoms = universe.atoms
    if len(getattr(universe, "bonds", ())):
        return 0
    with quiet():
        symbols = np.array([Z2SYMB[int(z)] for z in read_topology(atoms).numbers], dtype=object)
        unknown = sorted({symbol for symbol in symbols if symbol.upper() not in vdwradii})
        if unknown:
            raise DataError(f"bonds of {', '.join(unknown)} cannot be guessed; give a topology that has them")
        named = mda.Universe.empty(len(atoms), trajectory=False)
        named.add_TopologyAttr("types", symbols)
        named.load_new(atoms.positions, dimensions=universe.dimensions)
        bonds = DefaultGuesser(None, box=universe.dimensions).guess_bonds(named.atoms, atoms.positions)
    if not len(bonds):
        raise DataError("no two atoms are as near as bonded ones, so there are no bonds to guess")
    if not hasattr(universe, "bonds"):
        universe.add_TopologyAttr("bonds", [])
    universe.add_bonds(bonds)
    return len(bonds)
