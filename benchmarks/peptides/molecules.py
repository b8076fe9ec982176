"""The peptides of the benchmark and their force field: implicit solvent, bonds to hydrogen constrained."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import MDAnalysis as mda
import numpy as np
from openmm import Platform, System, unit
from openmm.app import ForceField, HBonds, Modeller, NoCutoff, PDBFile, Topology
from openmm.app.element import carbon, nitrogen, oxygen

# Native OBC: 20 to 40 times cheaper than a GB model of custom forces for so few atoms. No CMAP, so that mirror images
# have the same energy.
FORCE_FIELD = ("amber99sbildn.xml", "amber99_obc.xml")


@dataclass(frozen=True)
class Peptide:
    """Atoms, bonds and forces of a molecule.

    Attributes
    ----------
    topology : openmm.app.Topology
    positions : ndarray, shape (N, 3), nm
    """

    topology: Topology
    positions: np.ndarray

    def write(self, path: Path) -> None:
        """A PDB file with all bonds, which OpenMM leaves out of residues that everybody knows."""
        lines = io.StringIO()
        PDBFile.writeFile(self.topology, self.positions * unit.nanometer, lines)
        lines.seek(0)
        universe = mda.Universe(lines, format="PDB")
        if hasattr(universe, "bonds"):
            universe.del_TopologyAttr("bonds")
        universe.add_TopologyAttr("bonds", [(bond[0].index, bond[1].index) for bond in self.topology.bonds()])
        universe.atoms.write(str(path), bonds="all")

    def system(self) -> System:
        """The molecule in implicit solvent."""
        force_field = ForceField(*FORCE_FIELD)
        return force_field.createSystem(
            self.topology, nonbondedMethod=NoCutoff, constraints=HBonds, removeCMMotion=False
        )


def _placed(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """The point at a distance from c, an angle with b and a torsion about b-c; degrees."""
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    bend, turn = np.radians(180.0 - angle), np.radians(torsion)
    across = np.cos(turn) * np.cross(normal, along) + np.sin(turn) * normal
    return c + length * (np.cos(bend) * along + np.sin(bend) * across)


def capped_alanines(residues: int) -> Peptide:
    """Ac-(Ala)n-NHMe, stretched, with the hydrogens that OpenMM adds."""
    topology, positions = Topology(), []
    chain = topology.addChain()
    elements = {"N": nitrogen, "O": oxygen}

    def add(residue, name: str, place: np.ndarray) -> np.ndarray:
        topology.addAtom(name, elements.get(name, carbon), residue)
        positions.append(place)
        return place

    cap = topology.addResidue("ACE", chain)
    methyl = add(cap, "CH3", np.zeros(3))
    last = add(cap, "C", np.array([1.522, 0.0, 0.0]))
    oxygen_at = add(cap, "O", _placed(np.array([0.0, 1.0, 0.0]), methyl, last, 1.229, 120.4, 0.0))
    before, middle = oxygen_at, methyl  # so that N comes to stand opposite to O
    for number in range(residues + 1):
        residue = topology.addResidue("ALA" if number < residues else "NME", chain)
        opposite = number == 0
        nitrogen_at = add(residue, "N", _placed(before, middle, last, 1.335, 116.6, 180.0 if opposite else 150.0))
        alpha = _placed(middle, last, nitrogen_at, 1.449, 121.9, 180.0)
        if number == residues:
            add(residue, "C", alpha)
            break
        add(residue, "CA", alpha)
        carbonyl = _placed(last, nitrogen_at, alpha, 1.522, 111.1, -150.0)
        add(residue, "CB", _placed(last, nitrogen_at, alpha, 1.526, 109.7, -150.0 - 122.5))
        add(residue, "C", carbonyl)
        add(residue, "O", _placed(nitrogen_at, alpha, carbonyl, 1.229, 120.4, 150.0 - 180.0))
        before, middle, last = nitrogen_at, alpha, carbonyl
    topology.createStandardBonds()
    modeller = Modeller(topology, 0.1 * np.array(positions) * unit.nanometer)
    modeller.addHydrogens(ForceField(*FORCE_FIELD), platform=Platform.getPlatformByName("Reference"))
    return Peptide(modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)))


def peptide(name: str) -> Peptide:
    """``ala2``, alanine dipeptide, or ``ala3`` and so on, Ac-(Ala)n-NHMe."""
    if name == "ala2":
        with files("fastegnn_md").joinpath("assets", "ala2.pdb").open(encoding="utf-8") as file:
            pdb = PDBFile(file)
        return Peptide(pdb.topology, np.array(pdb.positions.value_in_unit(unit.nanometer)))
    return capped_alanines(int(name.removeprefix("ala")))
