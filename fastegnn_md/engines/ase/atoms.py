"""The border to ASE: ``Atoms`` in, :class:`~fastegnn_md.State` out, and back.

ASE has Å, eV, amu and the time unit Å √(amu/eV); inside there are Å, ps and amu. Factors come from ``ase.units``, so
that a simulation here and one by ASE's own dynamics obey the same equation of motion to the last digit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..._extras import naming_extras
from ...errors import ConstraintError, Remedy, StateError
from ...mechanics.constraints import Constraints
from ...state import State
from .calculated import forces_of

with naming_extras(__name__):
    from ase import Atoms, units
    from ase.constraints import FixAtoms, FixBondLengths, FixCom
    from ase.neighborlist import natural_cutoffs, neighbor_list

PICOSECOND = 1000.0 * units.fs  # in ASE time units
# 1 eV/Å in amu Å/ps². ASE's units of energy, length and mass are 1, so only the time counts.
FORCE = PICOSECOND**2

_SUPPORTED = (FixAtoms, FixCom, FixBondLengths)


def state_from_atoms(
    atoms: Atoms,
    *,
    bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
    types: Sequence[int] | np.ndarray | None = None,
    forces: bool | np.ndarray = False,
    dtype: torch.dtype = torch.float64,
) -> State:
    """Copy an ``Atoms`` object into a state.

    Parameters
    ----------
    atoms : ase.Atoms
        Positions may be wrapped or not. Initial charges are taken if any is not zero.
    bonds : array of int, shape (M, 2), optional
        Bonded pairs; :func:`guess_bonds` finds them from distances.
    types : array of int, shape (N,), optional
        Topology types.
    forces : bool or ndarray, shape (N, 3), eV/Å
        True asks the calculator (one call, forces of constraints not included); an array is taken as it is.
    dtype : torch.dtype
        Floating-point type of the state.

    Returns
    -------
    State
        On the CPU. The cell is None where no direction is periodic.

    Raises
    ------
    StateError
        If a value is not finite, a mass is zero, a periodic direction has no cell vector, or forces are asked for and
        no calculator is attached.
    EngineError
        If forces are asked for and the calculator fails.
    """
    if not isinstance(atoms, Atoms):
        raise StateError(f"a {type(atoms).__name__} was given where ase.Atoms are expected")
    masses = atoms.get_masses()
    if not np.all(masses > 0):
        atom = int(np.flatnonzero(~(masses > 0))[0])
        raise StateError(f"atom {atom} ({atoms.symbols[atom]}) has mass {masses[atom]} amu; give every atom a mass > 0")
    if forces is True:
        forces = forces_of(atoms)

    def tensor(values: np.ndarray, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.tensor(np.asarray(values), dtype=kind)

    charges = atoms.arrays.get("initial_charges")
    return State(
        positions=tensor(atoms.positions),
        velocities=tensor(atoms.get_velocities() * PICOSECOND),
        numbers=tensor(atoms.numbers, torch.int64),
        masses=tensor(masses),
        forces=None if forces is False else tensor(np.asarray(forces) * FORCE),
        cell=tensor(_cell(atoms))[None] if atoms.pbc.any() else None,
        pbc=tensor(atoms.pbc, torch.bool)[None],
        charges=tensor(charges) if charges is not None and charges.any() else None,
        types=None if types is None else tensor(np.asarray(types), torch.int64),
        bonds=None if bonds is None else tensor(bond_array(bonds), torch.int64),
    )


def forces_at(atoms: Atoms, positions: torch.Tensor) -> torch.Tensor:
    """What the calculator says of these atoms at other positions (N, 3) in Å; amu Å/ps², without constraint forces.

    Raises
    ------
    StateError
        If no calculator is attached.
    """
    elsewhere = atoms.copy()
    elsewhere.calc = atoms.calc
    elsewhere.set_positions(positions.numpy(), apply_constraint=False)
    return torch.tensor(forces_of(elsewhere) * FORCE)


@contextmanager
def unchanged_on_error(atoms: Atoms) -> Iterator[None]:
    """Put positions, momenta and cell back where what is done inside raises, whatever it raises."""
    positions, cell = atoms.positions.copy(), np.array(atoms.cell)
    momenta = atoms.get_momenta() if atoms.has("momenta") else None
    try:
        yield
    except BaseException:
        atoms.positions[:] = positions
        atoms.cell[:] = cell
        if momenta is None:
            atoms.arrays.pop("momenta", None)
        else:
            atoms.set_momenta(momenta, apply_constraint=False)
        raise


def update_atoms(atoms: Atoms, state: State) -> None:
    """Write positions and velocities of a state into the ``Atoms`` it came from, honouring their constraints.

    Bond lengths are restored about the geometry of ``state``
    (:class:`~fastegnn_md.mechanics.constraints.Constraints`), not along the bonds as they were: ASE's own projection
    fails once a bond has turned by 80°. Either everything is written or nothing.

    Parameters
    ----------
    atoms : ase.Atoms
        Still as they were before the jump.
    state : State
        One system, the same atoms.

    Raises
    ------
    StateError
        If numbers of atoms or elements differ.
    ConstraintError
        If a constraint is not supported or cannot be satisfied near the geometry of ``state``.
    """
    constraints = read_constraints(atoms)
    after = state.to("cpu", torch.float64)
    _check_same(atoms, after)
    if constraints:
        after = constraints.project(state_from_atoms(atoms), after)
    write_state(atoms, after)


def write_state(atoms: Atoms, state: State) -> None:
    """Write positions and velocities as they are, without looking at constraints; arguments of :func:`update_atoms`."""
    _check_same(atoms, state)
    positions = state.positions.double().cpu().numpy()
    momenta = state.velocities.double().cpu().numpy() * (atoms.get_masses()[:, None] / PICOSECOND)
    atoms.set_positions(positions, apply_constraint=False)
    atoms.set_momenta(momenta, apply_constraint=False)


def read_constraints(atoms: Atoms) -> Constraints:
    """Constraints of an ``Atoms`` object on tensors.

    A ``FixBondLengths`` that has no lengths yet gets those of the present geometry, as ASE does on first use.

    Raises
    ------
    ConstraintError
        If one is not FixAtoms, FixCom or FixBondLengths (subclasses mean something else and are refused too), or if
        they exclude each other.
    """
    n = len(atoms)
    frozen = np.zeros(n, dtype=bool)
    pairs, lengths, fixed_com = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)], False
    for constraint in atoms.constraints:
        if type(constraint) not in _SUPPORTED:
            known = ", ".join(kind.__name__ for kind in _SUPPORTED)
            raise ConstraintError(
                f"{type(constraint).__name__} cannot be combined with learned jumps; supported are {known}"
            )
        if isinstance(constraint, FixAtoms):
            frozen[constraint.index] = True
        elif isinstance(constraint, FixBondLengths):
            if constraint.bondlengths is None:
                constraint.bondlengths = constraint.initialize_bond_lengths(atoms)
            pairs.append(np.asarray(constraint.pairs).reshape(-1, 2) % n)
            lengths.append(np.asarray(constraint.bondlengths, dtype=float))
        else:
            fixed_com = True
    return Constraints(
        masses=torch.tensor(atoms.get_masses()),
        bonds=torch.tensor(np.concatenate(pairs)),
        lengths=torch.tensor(np.concatenate(lengths)),
        frozen=torch.tensor(frozen),
        fixed_com=fixed_com,
    )


def bond_array(bonds: Any) -> np.ndarray:
    """Pairs of atoms as an array of int64, shape (M, 2); a StateError if they are none."""
    try:
        found = np.array(bonds)
    except ValueError as error:  # rows of several lengths
        raise StateError("bonds are rows of several lengths; expected pairs of atoms, shape (M, 2)") from error
    if found.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 2 or found.shape[1] != 2:
        said = repr(bonds) if isinstance(bonds, str) else f"an array of {found.dtype}, shape {found.shape}"
        raise StateError(
            f"bonds is {said}; expected pairs of atoms, whole numbers of shape (M, 2). "
            "fastegnn_md.engines.ase.guess_bonds(atoms) finds them from distances"
        )
    return found.astype(np.int64)


def guess_bonds(atoms: Atoms, scale: float = 1.15) -> np.ndarray:
    """Bonded pairs, from distances and covalent radii.

    Right for molecules near equilibrium; take the bonds of a topology where there is one.

    Parameters
    ----------
    atoms : ase.Atoms
    scale : float
        Two atoms are bonded if they are closer than ``scale`` times the sum of their covalent radii.

    Returns
    -------
    ndarray of int64, shape (M, 2)
        Each pair once, the lower index first.
    """
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=scale))
    pairs = np.stack([i, j], axis=1)[i < j]
    return np.unique(pairs, axis=0).astype(np.int64).reshape(-1, 2)


def _cell(atoms: Atoms) -> np.ndarray:
    lengths = atoms.cell.lengths()
    for axis in np.flatnonzero(atoms.pbc):
        if not lengths[axis] > 0:
            raise StateError(
                Remedy(
                    f"the atoms are periodic along cell vector {axis}, which is zero; give a cell, or ",
                    "pbc=False there",
                    "a file in which they are not periodic there",
                )
            )
    return np.asarray(atoms.cell.complete())


def _check_same(atoms: Atoms, state: State) -> None:
    if state.n_atoms != len(atoms) or state.n_systems != 1:
        raise StateError(
            f"the state has {state.n_atoms} atoms in {state.n_systems} systems, the Atoms object {len(atoms)}; "
            "give one system with the same atoms"
        )
    different = np.flatnonzero(state.numbers.cpu().numpy() != atoms.numbers)
    if len(different):
        raise StateError(f"atom {different[0]} is another element in the state than in the Atoms object")
