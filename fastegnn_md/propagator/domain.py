"""What a propagator has seen in training, and the refusal of systems it has not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..errors import CompatibilityError, Remedy
from ..graph import neighbour_list
from ..mechanics.motion import centre_of_mass
from ..state import State
from .alignment import aligned
from .config import PropagatorConfig
from .limits import JumpLimits
from .modes import Covariances, covariances
from .molecules import Molecules
from .provenance import symbol_of

# Masses within this share of one seen in training count as the same (tables of atomic masses differ by less).
MASS_TOLERANCE = 0.01
# A map is taken to conserve momentum if its training pairs do, to this share of the thermal velocity.
_MOMENTUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Domain:
    """Range of the training data.

    Attributes
    ----------
    masses : dict of int to (float, float)
        Atomic number → lightest and heaviest mass, amu.
    limits : JumpLimits
        Largest displacements and range of bond lengths.
    periodic : bool
        Periodic in three directions, or isolated.
    bonds : bool
        Whether bonds are an input.
    conserves_momentum : bool
        Whether total momentum is conserved in the training pairs: the map then commutes with a uniform motion.
    neighbours : float
        Average number of neighbours within the cutoff.
    velocity_scale, force_scale : float
        RMS of velocities (Å/ps) and of √(f²/m) (amu^½ Å/ps²), the units the network sees them in.
    environments : dict of int to float
        Of kind "flow": key of the surroundings of an atom (:class:`~fastegnn_md.propagator.molecules.Molecules`) →
        RMS displacement over the lag of one component, without drift and rotation, Å.
    covariances : dict of (int, int, int) to float
        With collective noise of kind "flow": how atoms move together
        (:data:`~fastegnn_md.propagator.modes.Covariances`), Å².
    """

    masses: dict[int, tuple[float, float]]
    limits: JumpLimits
    periodic: bool
    bonds: bool
    conserves_momentum: bool
    neighbours: float
    velocity_scale: float
    force_scale: float
    environments: dict[int, float] = field(default_factory=dict)
    covariances: Covariances = field(default_factory=dict)

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers, ascending."""
        return tuple(sorted(self.masses))

    @classmethod
    def from_pairs(cls, start: State, end: State, config: PropagatorConfig) -> Domain:
        """Measure the domain of a batch of training pairs."""
        masses = {}
        for number in start.numbers.unique().tolist():
            of_element = start.masses[start.numbers == number]
            masses[number] = (float(of_element.min()), float(of_element.max()))
        thermal = max(_rms(start.velocities), 1e-30)
        gained = _rms(centre_of_mass(end.velocities - start.velocities, start))
        force_scale = 1.0
        forces = start.midpoint_forces if config.wants_forces == "midpoint" else start.forces
        if forces is not None:
            force_scale = max(_rms(forces / start.masses.sqrt()[:, None]), 1e-30)
        environments: dict[int, float] = {}
        together: Covariances = {}
        neighbours = None
        if config.stochastic:
            molecules = Molecules.of(start, bonds=config.use_bonds)
            end, neighbours = aligned(start, end, molecules.rotors), molecules.neighbours
            environments = molecules.spreads(start, end)
            if config.collective:
                together = covariances(start, end, bonds=config.use_bonds)
        return cls(
            masses=masses,
            limits=JumpLimits.from_pairs(start, end, torsions=config.stochastic),
            periodic=start.periodic,
            bonds=config.use_bonds and start.bonds is not None and start.bonds.numel() > 0,
            conserves_momentum=config.predicts_velocities and gained < _MOMENTUM_TOLERANCE * thermal,
            neighbours=_average_neighbours(start, config.cutoff) if neighbours is None else neighbours,
            velocity_scale=thermal,
            force_scale=force_scale,
            environments=environments,
            covariances=together,
        )

    @cached_property
    def _mass_range(self) -> Tensor:
        """Lightest and heaviest allowed mass by atomic number; (0, 0) where the element is unknown."""
        table = torch.zeros(
            max(self.masses) + 2, 2, dtype=torch.float64
        )  # the last row stands for all heavier elements
        for number, (lightest, heaviest) in self.masses.items():
            table[number] = torch.tensor([lightest * (1 - MASS_TOLERANCE), heaviest * (1 + MASS_TOLERANCE)])
        return table

    def knows(self, numbers: Tensor, masses: Tensor) -> Tensor:
        """Whether training had atoms of such an element and mass (amu), shape (N,), bool, on the CPU."""
        table, masses = self._mass_range, masses.cpu()
        limits = table.index_select(0, numbers.cpu().clamp(0, len(table) - 1))
        return (masses >= limits[:, 0]) & (masses <= limits[:, 1]) & (limits[:, 1] != 0)

    def masses_of(self, numbers: Iterable[int]) -> Tensor:
        """Masses that atoms had in training, shape (N,), amu: those to set where training was with heavier hydrogens.

        Parameters
        ----------
        numbers : iterable of int, shape (N,)
            Atomic numbers.

        Raises
        ------
        CompatibilityError
            If training had none of an element, or several masses of it.
        """
        found = []
        for atom, number in enumerate(map(int, numbers)):
            lightest, heaviest = self.masses.get(number, (math.nan, math.nan))
            if math.isnan(lightest):
                raise self._unknown(atom, number)
            if heaviest > lightest * (1 + MASS_TOLERANCE):
                raise CompatibilityError(
                    f"atom {atom} has atomic number {number}, of which training had masses from {lightest:.4f} to "
                    f"{heaviest:.4f} amu; set masses as the training data had them, atom by atom"
                )
            found.append((lightest + heaviest) / 2)
        return torch.tensor(found, dtype=torch.float64)

    def check(self, state: State) -> None:
        """Refuse a system unlike those of the training data; see :meth:`fastegnn_md.Propagator.check`."""
        known = self.knows(state.numbers, state.masses)
        if not bool(known.all()):
            raise self._unseen(state, int((~known).nonzero()[0]))
        assert state.pbc is not None  # set by State
        if state.periodic and not bool(state.pbc.all()):
            raise CompatibilityError(
                "pbc is mixed; a propagator takes systems periodic in all directions or in none: of a slab, give the "
                "cell some vacuum and make it periodic in all three"
            )
        if state.periodic != self.periodic:
            here, there = ("periodic", "isolated") if state.periodic else ("isolated", "periodic")
            model = "or take a model of isolated systems"
            box, other = "where the box only was the file's ", "else take a model of periodic systems"
            cells = (
                f"set atoms.cell and atoms.pbc = True, {model}",
                f"give a file that has its cell (.extxyz, .traj, .cif; .xyz has none), {model}",
            )
            ways = (f"{box}set atoms.pbc = False, {other}", f"{box}give a file without it, {other}")
            raise CompatibilityError(
                Remedy(
                    f"the system is {here} but this propagator was trained on {there} systems: ",
                    *(ways if state.periodic else cells),
                )
            )
        if self.bonds and state.bonds is None:
            raise CompatibilityError(
                Remedy(
                    "this propagator was trained with bonds, the system has none: ",
                    "give them; fastegnn_md.engines.ase.guess_bonds(atoms) finds them from distances",
                    "give a topology that has them, or take them from distances, --bonds guess",
                )
            )

    def _unseen(self, state: State, atom: int) -> CompatibilityError:
        number, mass = int(state.numbers[atom]), float(state.masses[atom])
        if number not in self.masses:
            return self._unknown(atom, number)
        lightest, heaviest = self.masses[number]
        return CompatibilityError(
            Remedy(
                f"atom {atom} (atomic number {number}) has mass {mass:.4f} amu; training had {lightest:.4f} to "
                f"{heaviest:.4f}: ",
                "use these masses, atoms.set_masses(propagator.domain.masses_of(atoms.numbers)), or train with others",
                "give a structure with these masses (.traj has some; 'run --calculator' sets them in place of natural "
                "ones), or train with others",
            )
        )

    def _unknown(self, atom: int, number: int) -> CompatibilityError:
        known = ", ".join(map(symbol_of, self.species))
        return CompatibilityError(
            f"atom {atom} has atomic number {number} ({symbol_of(number)}); this propagator was trained on {known}: "
            "take a model that knows it ('fastegnn-md models' lists those of the package), or train one on bursts of "
            "systems that have it ('fastegnn-md harvest', then 'train')"
        )


def _average_neighbours(state: State, cutoff: float) -> float:
    """Neighbours per atom within the cutoff over some tens of thousands of atoms; at least one."""
    pairs = atoms = 0
    for system in state.split():
        pairs += neighbour_list(system, cutoff).edge_index.shape[1]
        atoms += system.n_atoms
        if atoms > 20_000:
            break
    return max(1.0, pairs / atoms)


def _rms(values: Tensor) -> float:
    return math.sqrt(float(values.double().square().mean()))
