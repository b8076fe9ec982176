"""What an OpenMM System is beyond its atoms: what it holds, what pushes beyond a force field, what acts between steps.

Pure functions of a System and its topology, for comparison with what a propagator was trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from .register import FORCE_NAME

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology

Held = Literal["all", "some", "none", "absent"]

_FORCE_FIELD = (
    "NonbondedForce", "HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "RBTorsionForce",
    "CMAPTorsionForce", "CustomNonbondedForce", "CustomGBForce", "CustomHbondForce", "CustomManyParticleForce",
    "CustomBondForce", "CustomAngleForce", "CustomTorsionForce", "GBSAOBCForce", "GayBerneForce", "LCPOForce",
    "DrudeForce", "HippoNonbondedForce",
)  # fmt: skip
_TERMS = {
    "HarmonicBondForce": ("getNumBonds", "getBondParameters", 2),
    "CustomBondForce": ("getNumBonds", "getBondParameters", 2),
    "CustomAngleForce": ("getNumAngles", "getAngleParameters", 3),
    "CustomTorsionForce": ("getNumTorsions", "getTorsionParameters", 4),
}
_BETWEEN_STEPS = ("CMMotionRemover", "AndersenThermostat")
_REACH = 3  # bonds between two atoms of one term of a force field: 1-4 pairs


@dataclass(frozen=True)
class SystemDescription:
    """What may differ between the System of a user and that of a training.

    Attributes
    ----------
    hydrogen_bonds, other_bonds, hydrogen_angles, water : {"all", "some", "none", "absent"}
        What constraints hold: bonds with a hydrogen and the others, distances across an angle, and water (all of its
        three distances). Water counts in the last only. ``"absent"``: there are none of the kind. Of angles it is not
        known how many could be held: ``"some"`` or ``"none"``.
    massless : tuple of int
        Particles that a mass of zero holds in place, without virtual sites.
    unusual_forces : tuple of str
        Forces beyond an ordinary force field, such as restraints and biases: their class, and their name where it is
        another one.
    barostat : str or None
        Its class.
    motion_remover : int or None
        Steps between two removals of the motion of the centre of mass.
    between_steps : tuple of str
        Classes of all that acts between steps, barostat and CMMotionRemover included.
    """

    hydrogen_bonds: Held
    other_bonds: Held
    hydrogen_angles: Held
    water: Held
    massless: tuple[int, ...]
    unusual_forces: tuple[str, ...]
    barostat: str | None
    motion_remover: int | None
    between_steps: tuple[str, ...]

    @property
    def constraints(self) -> str:
        """As ``createSystem`` calls it: none, HBonds, AllBonds or HAngles; other where it is none of these."""
        hydrogen, others = self.hydrogen_bonds, self.other_bonds
        if self.hydrogen_angles == "some":
            return "HAngles" if hydrogen in ("all", "absent") and others in ("all", "absent") else "other"
        if others == "all" and hydrogen in ("all", "absent"):
            return "AllBonds"
        if others in ("none", "absent") and hydrogen == "all":
            return "HBonds"
        return "none" if hydrogen in ("none", "absent") and others in ("none", "absent") else "other"


def describe_system(system: openmm.System, topology: Topology, atoms: Iterable[int] | None = None) -> SystemDescription:
    """Describe a System.

    Parameters
    ----------
    system : openmm.System
    topology : openmm.app.Topology
        Of as many atoms as the System has particles. Without bonds it cannot be told from a Harmonic- or
        CustomBondForce whether it holds remote atoms together.
    atoms : iterable of int, optional
        Look at constraints and masses of these only, as those that jump. Default: all.

    Returns
    -------
    SystemDescription
    """
    n = system.getNumParticles()
    chosen = set(range(n)) if atoms is None else {int(i) for i in atoms}
    forces = [force for force in system.getForces() if force.getName() != FORCE_NAME]
    names = [type(force).__name__ for force in forces]
    barostats = [name for name in names if "Barostat" in name]
    removers = [force.getFrequency() for force, name in zip(forces, names, strict=True) if name == "CMMotionRemover"]
    return SystemDescription(
        **_held(system, topology, chosen),
        massless=tuple(
            i for i in sorted(chosen) if system.getParticleMass(i)._value == 0 and not system.isVirtualSite(i)
        ),
        unusual_forces=unusual_forces(system, topology),
        barostat=barostats[0] if barostats else None,
        motion_remover=min(removers) if removers else None,
        between_steps=tuple(dict.fromkeys(name for name in names if name in _BETWEEN_STEPS or "Barostat" in name)),
    )


def theory_of(system: openmm.System) -> str:
    """Classes of the forces of a force field, as a provenance has them."""
    names = {type(force).__name__ for force in system.getForces() if force.getName() != FORCE_NAME}
    return ", ".join(sorted(name for name in names if name in _FORCE_FIELD or name.startswith("Amoeba")))


def unusual_forces(system: openmm.System, topology: Topology | None) -> tuple[str, ...]:
    """Forces beyond an ordinary force field: restraints, biases, fields, machine-learned potentials.

    A Custom{Bond,Angle,Torsion}Force is one if it has global parameters, as biases have, or holds atoms together that
    are more than three bonds apart; a CustomTorsionForce also if it turns a bond and is no improper torsion.

    Returns
    -------
    tuple of str
        Class, and name where that is another: ``"CustomExternalForce"``, ``"CustomBondForce 'umbrella'"``.
    """
    neighbours = _neighbours(topology)
    amoeba = any(type(force).__name__.startswith("Amoeba") for force in system.getForces())
    found = []
    for force in system.getForces():
        kind, name = type(force).__name__, force.getName()
        if name == FORCE_NAME or _is_ordinary(force, kind, neighbours, amoeba):
            continue
        found.append(kind if name in ("", kind) else f"{kind} {name!r}")
    return tuple(found)


def _is_ordinary(force: Any, kind: str, neighbours: dict[int, set[int]], amoeba: bool) -> bool:
    if kind in _BETWEEN_STEPS or "Barostat" in kind or kind.startswith("Amoeba"):
        return True
    if kind == "CustomCompoundBondForce":
        return amoeba
    if kind not in _FORCE_FIELD:
        return False
    if kind not in _TERMS:
        return True
    if kind != "HarmonicBondForce" and force.getNumGlobalParameters():
        return False
    if not neighbours:
        return True
    count, read, size = _TERMS[kind]
    for k in range(getattr(force, count)()):
        atoms = getattr(force, read)(k)[:size]
        if kind == "CustomTorsionForce" and all(b in neighbours[a] for a, b in pairwise(atoms)):
            return False
        if not all(_within(neighbours, atoms[0], other) for other in atoms[1:]):
            return False
    return True


def _neighbours(topology: Topology | None) -> dict[int, set[int]]:
    """Bonded atoms of each atom; empty if there are no bonds."""
    if topology is None:
        return {}
    bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    if not bonds:
        return {}
    found: dict[int, set[int]] = {atom.index: set() for atom in topology.atoms()}
    for i, j in bonds:
        found[i].add(j)
        found[j].add(i)
    return found


def _within(neighbours: dict[int, set[int]], start: int, end: int) -> bool:
    reached = {start}
    for _ in range(_REACH):
        if end in reached:
            return True
        reached = reached.union(*(neighbours[i] for i in reached))
    return end in reached


def _waters(topology: Topology) -> Iterator[set[int]]:
    """Atoms of each water, without virtual sites."""
    for residue in topology.residues():
        atoms = [atom for atom in residue.atoms() if atom.element is not None]
        if sorted(atom.element.symbol for atom in atoms) == ["H", "H", "O"]:
            yield {atom.index for atom in atoms}


def _held(system: openmm.System, topology: Topology, chosen: set[int]) -> dict[str, Held]:
    elements = [None if atom.element is None else atom.element.symbol for atom in topology.atoms()]
    waters = [water for water in _waters(topology) if water <= chosen]
    water_of = {atom: k for k, water in enumerate(waters) for atom in water}
    bonds = {
        frozenset((bond[0].index, bond[1].index))
        for bond in topology.bonds()
        if {bond[0].index, bond[1].index} <= chosen and bond[0].index not in water_of
    }
    held: Counter[str] = Counter()
    for k in range(system.getNumConstraints()):
        i, j, _ = system.getConstraintParameters(k)
        if i not in chosen or j not in chosen:
            continue
        hydrogens = (elements[i] == "H") + (elements[j] == "H")
        if i in water_of and water_of[i] == water_of.get(j):
            held["water"] += 1
        elif frozenset((i, j)) in bonds or (not bonds and hydrogens < 2):
            held["hydrogen" if hydrogens else "other"] += 1
        else:
            held["angles"] += 1
    with_hydrogen = sum(any(elements[i] == "H" for i in bond) for bond in bonds)
    return {
        "hydrogen_bonds": _share(held["hydrogen"], with_hydrogen),
        "other_bonds": _share(held["other"], len(bonds) - with_hydrogen),
        "hydrogen_angles": "some" if held["angles"] else "none",
        "water": _share(held["water"], 3 * len(waters)),
    }


def _share(held: int, present: int) -> Held:
    if not held:
        return "none" if present else "absent"
    return "all" if held >= present else "some"
