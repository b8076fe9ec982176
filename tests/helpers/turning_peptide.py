"""Alanine dipeptide of which ψ turns as a known process has it."""

from __future__ import annotations

from importlib.resources import as_file, files

import MDAnalysis as mda
import numpy as np
from MDAnalysis.coordinates.memory import MemoryReader

TAU = 0.5


def molecule() -> mda.Universe:
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        return mda.Universe(str(path), to_guess=["elements", "masses"], force_guess=["bonds"])


def turning(psi: np.ndarray, dt: float = TAU) -> mda.Universe:
    """Alanine dipeptide of which ψ turns as it is told, degrees."""
    universe = molecule()
    residue = universe.select_atoms("resname ALA").residues[0]
    group = residue.psi_selection()
    moving = universe.select_atoms("resname NME or (resname ALA and name O)")
    begin, axis = group.dihedral.value(), group[2].position - group[1].position
    at, frames = group[2].position.copy(), []
    reference = universe.atoms.positions.copy()
    for angle in psi:
        universe.atoms.positions = reference
        moving.rotateby(angle - begin, axis, point=at)
        frames.append(universe.atoms.positions.copy())
    universe.load_new(np.array(frames), format=MemoryReader, dt=dt)
    return universe


def of_well(x: np.ndarray, dt: float = TAU) -> mda.Universe:
    """ψ follows the place in a double well: below zero C7eq or C5, above alphaR."""
    return turning((60 - 75 * x + 180) % 360 - 180, dt)
