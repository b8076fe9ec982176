"""The same ``Atoms`` read and written again and again: what does not move is looked at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..._extras import naming_extras
from ...mechanics.constraints import Constraints
from ...state import State
from .atoms import FORCE, PICOSECOND, read_constraints, state_from_atoms, write_state

with naming_extras(__name__):
    from ase import Atoms


class SameAtoms:
    """States of an ``Atoms`` object, equal to those of :func:`state_from_atoms` to the last bit.

    Elements, masses, cell, boundaries and charges are compared with those of the last time. While they stay what they
    were all states share their tensors, by which others see that nothing has changed.

    Parameters
    ----------
    atoms : ase.Atoms
    bonds : array of int, shape (M, 2), optional
    """

    atoms: Atoms
    bonds: np.ndarray | None

    def __init__(self, atoms: Atoms, bonds: np.ndarray | None = None):
        self.atoms, self.bonds = atoms, bonds
        self._identity: tuple[bytes | None, ...] = ()
        self._state: State | None = None
        self._masses = self._to_momenta = np.zeros((0, 1))
        self._held: tuple[list[Any], bytes, Constraints] | None = None

    def read(self, forces: np.ndarray | None = None) -> State:
        """The atoms as they are now, with forces (N, 3) in eV/Å if these are given; errors of the function."""
        identity = self._who()
        if self._state is None or identity != self._identity:
            state = state_from_atoms(self.atoms, bonds=self.bonds, forces=False if forces is None else forces)
            self._identity, self._masses = identity, self.atoms.get_masses()[:, None]
            self._to_momenta = self._masses / PICOSECOND
            self._state = state.replace(forces=None)
            return state
        return self._state.replace(
            positions=torch.from_numpy(np.array(self.atoms.positions, dtype=np.float64)),
            velocities=torch.from_numpy(self.atoms.get_momenta() / self._masses * PICOSECOND),
            forces=None if forces is None else torch.from_numpy(np.asarray(forces, dtype=np.float64) * FORCE),
        )

    def constraints(self) -> Constraints:
        """Their constraints, made anew where they or the masses are others; errors of :func:`read_constraints`."""
        # Grouping bonds into blocks costs more than a jump of a small molecule.
        present, masses = list(self.atoms.constraints), self.atoms.get_masses().tobytes()
        if self._held is not None:
            known, of_masses, constraints = self._held
            same = len(known) == len(present) and all(a is b for a, b in zip(known, present, strict=True))
            if same and masses == of_masses:
                return constraints
        constraints = read_constraints(self.atoms)
        self._held = present, masses, constraints
        return constraints

    def write(self, state: State) -> None:
        """Write positions and velocities of a state that was made from one of these; see :func:`write_state`."""
        if self._state is None or state.numbers is not self._state.numbers or state.dtype is not torch.float64:
            write_state(self.atoms, state)
            return
        self.atoms.set_positions(state.positions.numpy(), apply_constraint=False)
        self.atoms.set_momenta(state.velocities.numpy() * self._to_momenta, apply_constraint=False)

    def _who(self) -> tuple[bytes | None, ...]:
        """What tells these atoms and their box from others."""
        arrays = self.atoms.arrays
        masses, charges = arrays.get("masses"), arrays.get("initial_charges")
        return (
            arrays["numbers"].tobytes(),
            None if masses is None else masses.tobytes(),
            None if charges is None else charges.tobytes(),
            self.atoms.pbc.tobytes(),
            self.atoms.cell.array.tobytes(),
        )
