"""The part of an OpenMM System that a propagator moves: who its atoms are, what holds them, and its units.

OpenMM has nm, ps, amu and kJ/mol; inside there are Å, ps and amu.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...data.topology import join_bonds
from ...data.unwrap import spanning_tree, whole
from ...errors import CompatibilityError
from ...mechanics.constraints import Constraints
from ...mechanics.fragments import COVALENT_RADII
from ...state import State
from ...units import KJ_PER_MOL

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology

    from ...propagator.learned_map import LearnedMap

NM = 10.0  # Å
FORCE = KJ_PER_MOL / NM  # amu Å/ps² per kJ/mol/nm
_LONGEST = 1.2  # sums of covalent radii: bonds of force fields have up to 1.1, atoms two bonds apart 1.26 and more


@dataclass(frozen=True, eq=False)
class JumpSystem:
    """Atoms that jump together, described for a propagator.

    Parameters
    ----------
    atoms : ndarray of int64, shape (N,)
        Their particles in the System.
    n_particles : int
        Particles of the System, virtual sites included.
    numbers, masses : Tensor, shape (N,)
        Atomic numbers; masses in amu, those of the elements for particles that OpenMM holds by a mass of zero.
    bonds : Tensor of int64, shape (M, 2)
        Of the topology and the System, indices into ``atoms``.
    constraints : Constraints
    periodic : bool
        Whether states carry the box.
    isolated : bool
        Whether they are all atoms of a System without a box.
    tree : ndarray or None
        How to put the molecule together, for isolated propagators in a periodic System.
    minimum_width : float
        Å; a narrower box is refused. Zero without a box.
    """

    atoms: np.ndarray
    n_particles: int
    numbers: Tensor
    masses: Tensor
    bonds: Tensor
    constraints: Constraints
    periodic: bool
    isolated: bool
    tree: np.ndarray | None
    minimum_width: float
    _last: list[State] = field(init=False, repr=False, default_factory=list)  # what was checked before

    @property
    def whole_system(self) -> bool:
        """Whether every particle jumps."""
        return len(self.atoms) == self.n_particles

    def to(self, device: torch.device) -> JumpSystem:
        """The same on another device."""
        if self.numbers.device == device:
            return self
        tensors = {name: getattr(self, name).to(device) for name in ("numbers", "masses", "bonds")}
        return replace(self, constraints=self.constraints.to(device), **tensors)

    def blank(self, system: openmm.System) -> State:
        """Who the jumping atoms are, all of them at rest in one place: for what needs no positions."""
        nowhere, cell = torch.zeros(len(self.numbers), 3, dtype=torch.float64), None
        if self.periodic:
            box = [[component._value for component in vector] for vector in system.getDefaultPeriodicBoxVectors()]
            cell = NM * torch.tensor(box, dtype=torch.float64)[None]
        return State(
            numbers=self.numbers, masses=self.masses, bonds=self.bonds, cell=cell, positions=nowhere, velocities=nowhere
        )

    def state(self, positions: Tensor, velocities: Tensor, forces: Tensor | None, box: Tensor | None) -> State:
        """State of the jumping atoms.

        Parameters
        ----------
        positions : Tensor of float64, shape (N, 3), nm
        velocities : Tensor of float64, shape (N, 3), nm/ps
            On-step.
        forces : Tensor of float64, shape (N, 3), kJ/mol/nm, optional
        box : Tensor of float64, shape (3, 3), nm, optional
            Of a periodic System.

        Raises
        ------
        CompatibilityError
            If the box is narrower than the propagator allows.
        StateError
            If a value is not finite.
        """
        if box is not None and self.tree is not None:
            positions = whole(positions, box, self.tree)
        cell = (box * NM)[None] if self.periodic and box is not None else None
        moving = {
            "positions": positions * NM,
            "velocities": velocities * NM,
            "forces": None if forces is None else forces * FORCE,
        }
        if self._last and (cell is None or torch.equal(cell, self._last[0].cell)):  # type: ignore[arg-type]
            return self._last[0].replace(**moving)  # who the atoms are was checked at the first jump
        if cell is not None:
            self._check_width(cell[0])
        state = State(numbers=self.numbers, masses=self.masses, cell=cell, bonds=self.bonds, **moving)  # type: ignore[arg-type]
        self._last[:] = [state]
        return state

    def _check_width(self, cell: Tensor) -> None:
        """Refuse a cell (Å) that has become narrower than twice the cutoff of the propagator."""
        if not self.minimum_width:
            return
        areas = torch.linalg.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]).norm(dim=1)
        width = float((torch.linalg.det(cell).abs() / areas).min())
        if width < self.minimum_width:
            raise CompatibilityError(
                f"the box is {width:.3f} Å wide, narrower than twice the cutoff of the propagator "
                f"({self.minimum_width:.3f} Å): an atom would see another one twice. Use a larger box; a barostat may "
                "have shrunk it"
            )


def read_system(
    system: openmm.System, topology: Topology, propagator: LearnedMap, atoms: Iterable[Any] | None = None
) -> JumpSystem:
    """Look whether a propagator fits a System, and describe the atoms that it moves.

    Parameters
    ----------
    system : openmm.System
    topology : openmm.app.Topology
        Elements, and bonds beside those of the System.
    propagator : LearnedMap
    atoms : iterable of int or of openmm.app.topology.Atom, optional
        Atoms that jump; the others stand still meanwhile. Default: all but virtual sites.

    Returns
    -------
    JumpSystem

    Raises
    ------
    CompatibilityError
        If topology and System differ in size; particles are Drude particles or have no element; masses, elements or
        boundaries are not those of the propagator; or a constraint ties a jumping atom to one that stays.
    """
    n = system.getNumParticles()
    listed = list(topology.atoms())
    if len(listed) != n:
        raise CompatibilityError(
            f"the topology has {len(listed)} atoms, the System {n} particles; give those of one system"
        )
    chosen = _choose(system, n, atoms)
    _refuse_extra_particles(system, listed, chosen)
    numbers = np.array([listed[i].element.atomic_number for i in chosen])
    own = np.array([system.getParticleMass(int(i))._value for i in chosen])
    element = np.array([listed[i].element.mass._value for i in chosen])
    masses = np.where(own > 0, own, element)  # a mass of zero holds the particle, the network sees the element's
    place = np.full(n, -1)
    place[chosen] = np.arange(len(chosen))
    everyone = np.array([0 if atom.element is None else atom.element.atomic_number for atom in listed])
    listed_bonds = np.array([(bond[0].index, bond[1].index) for bond in topology.bonds()], dtype=np.int64).reshape(
        -1, 2
    )
    bonds = place[join_bonds(listed_bonds, system_bonds(system, everyone))]
    bonds = bonds[(bonds >= 0).all(axis=1)]
    constraints = _constraints(system, place, masses, own == 0)
    periodic = system.usesPeriodicBoundaryConditions()
    tree = None
    if periodic and not propagator.periodic and atoms is not None:
        periodic, tree = False, spanning_tree(bonds, len(chosen))
        if len(tree) != len(chosen) - 1:
            raise CompatibilityError(
                "this propagator is for isolated molecules and the System is periodic: the atoms that jump must be one "
                f"molecule, connected by bonds of the topology; these {len(chosen)} atoms are "
                f"{len(chosen) - len(tree)} pieces"
            )
    part = JumpSystem(
        atoms=chosen,
        n_particles=n,
        numbers=torch.from_numpy(numbers),
        masses=torch.from_numpy(masses),
        bonds=torch.from_numpy(bonds),
        constraints=constraints,
        periodic=periodic,
        isolated=not system.usesPeriodicBoundaryConditions() and len(chosen) == len(_choose(system, n, None)),
        tree=tree,
        minimum_width=2 * propagator.config.cutoff if periodic else 0.0,
    )
    _check(part, propagator, system)
    return part


def system_bonds(system: openmm.System, numbers: np.ndarray) -> np.ndarray | None:
    """Bonds of a System: its harmonic bonds and constraints as short as bonds are.

    Urey-Bradley terms, fixed angles and distance restraints are written as bonds, too, and are longer. The H–H
    distances of rigid water are left out.

    Parameters
    ----------
    system : openmm.System
    numbers : ndarray of int, shape (N,)
        Atomic number of each particle.

    Returns
    -------
    ndarray of int64, shape (M, 2), or None
        Each pair once, the lower index first; None if there are none.
    """
    terms = [system.getConstraintParameters(i) for i in range(system.getNumConstraints())]
    for force in system.getForces():
        if type(force).__name__ == "HarmonicBondForce":
            terms += [force.getBondParameters(i)[:3] for i in range(force.getNumBonds())]
    if not terms:
        return None
    bonds = np.sort(np.array([term[:2] for term in terms], dtype=np.int64), axis=1)
    lengths = np.array([term[2]._value for term in terms]) * NM
    radii = np.array([COVALENT_RADII.get(int(z), np.inf) for z in numbers])  # of metals no length is too long
    longest = np.where((numbers[bonds] == 1).all(axis=1), 0.0, _LONGEST * radii[bonds].sum(axis=1))
    return np.unique(bonds[lengths <= longest], axis=0)


def _choose(system: openmm.System, n: int, atoms: Iterable[Any] | None) -> np.ndarray:
    sites = np.array([system.isVirtualSite(i) for i in range(n)])
    if atoms is None:
        return np.flatnonzero(~sites)
    chosen = np.array([int(getattr(atom, "index", atom)) for atom in atoms], dtype=np.int64)
    if not len(chosen):
        raise CompatibilityError("atoms is empty; give the atoms that jump, or None for all")
    if chosen.min() < 0 or chosen.max() >= n:
        raise CompatibilityError(f"atoms names particle {chosen.max()}; the System has the particles 0 to {n - 1}")
    if len(np.unique(chosen)) < len(chosen):
        raise CompatibilityError("atoms names a particle twice; give each once")
    if sites[chosen].any():
        raise CompatibilityError(
            f"particle {chosen[sites[chosen]][0]} is a virtual site, which follows its atoms by itself; leave it out"
        )
    return np.sort(chosen)


def _refuse_extra_particles(system: openmm.System, listed: list[Any], chosen: np.ndarray) -> None:
    jumping = set(chosen.tolist())
    for force in system.getForces():
        if type(force).__name__ != "DrudeForce":
            continue
        for k in range(force.getNumParticles()):
            drude, parent = force.getParticleParameters(k)[:2]
            if drude in jumping or parent in jumping:
                raise CompatibilityError(
                    f"particle {drude} is a Drude particle of particle {parent}: its motion is not that of an atom and "
                    "no propagator knows it; use a force field without Drude particles, or leave these atoms out"
                )
    for i in chosen:
        if listed[i].element is None:
            raise CompatibilityError(
                f"particle {i} ({listed[i].name}) has no element and is no virtual site; learned jumps are for atoms: "
                "leave it out of atoms, or use a force field without such particles"
            )


def _constraints(system: openmm.System, place: np.ndarray, masses: np.ndarray, frozen: np.ndarray) -> Constraints:
    pairs, lengths = [], []
    for k in range(system.getNumConstraints()):
        i, j, length = system.getConstraintParameters(k)
        if place[i] >= 0 and place[j] >= 0:
            pairs.append((place[i], place[j]))
            lengths.append(length._value * NM)
        elif place[i] >= 0 or place[j] >= 0:
            inside, outside = (i, j) if place[i] >= 0 else (j, i)
            raise CompatibilityError(
                f"particle {inside} jumps and particle {outside} stays, but a constraint holds their distance; give "
                "both or none of them in atoms"
            )
    return Constraints(
        masses=torch.from_numpy(masses),
        bonds=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        lengths=torch.tensor(lengths, dtype=torch.float64),
        frozen=torch.from_numpy(frozen),
    )


def _check(part: JumpSystem, propagator: LearnedMap, system: openmm.System) -> None:
    zeros = torch.zeros(len(part.atoms), 3, dtype=torch.float64)
    box = None
    if system.usesPeriodicBoundaryConditions():
        box = torch.tensor([[*vector._value] for vector in system.getDefaultPeriodicBoxVectors()], dtype=torch.float64)
    try:
        # Forces of zero stand for those of the first jump.
        propagator.check(replace(part, tree=None).state(zeros, zeros, zeros, box).replace(midpoint_forces=zeros))
    except CompatibilityError as error:
        if part.whole_system:
            raise
        raise CompatibilityError(f"{error} (atoms are counted among the {len(part.atoms)} that jump)") from error
