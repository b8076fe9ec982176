"""Atoms read again and again are what one reading of them is, whoever changes them in between."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLengths, Hookean

from fastegnn_md import State
from fastegnn_md.engines.ase.atoms import state_from_atoms
from fastegnn_md.engines.ase.same_atoms import SameAtoms
from fastegnn_md.errors import ConstraintError, StateError

BONDS = np.array([[0, 1], [0, 2]])


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.set_momenta(np.random.default_rng().normal(size=(3, 3)))
    return atoms


def assert_equal(one: State, other: State) -> None:
    for field in dataclasses.fields(State):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is None) == (b is None), field.name
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), field.name


def test_what_moves_is_read_anew_to_the_last_bit():
    atoms, rng = water(), np.random.default_rng()
    same = SameAtoms(atoms, BONDS)
    first = same.read()
    kept = first.positions.clone()
    atoms.positions += rng.normal(size=(3, 3))
    atoms.set_momenta(rng.normal(size=(3, 3)))
    second, forces = same.read(), rng.normal(size=(3, 3))
    assert_equal(second, state_from_atoms(atoms, bonds=BONDS))
    assert_equal(same.read(forces), state_from_atoms(atoms, bonds=BONDS, forces=forces))
    assert same.read().forces is None
    assert torch.equal(first.positions, kept)  # it is a copy
    assert second.numbers is first.numbers  # nobody needs to look at the elements again


CHANGES = {
    "an element": lambda atoms: atoms.numbers.__setitem__(1, 9),
    "a mass": lambda atoms: atoms.set_masses([15.0, 2.0, 2.0]),
    "a mass of the table": lambda atoms: atoms.set_masses("defaults"),
    "a charge": lambda atoms: atoms.set_initial_charges([0.1, 0.0, -0.1]),
    "a box": lambda atoms: (atoms.set_cell([9.0, 9, 9]), atoms.set_pbc(True)),
    "an order": lambda atoms: atoms.arrays.update({k: v[::-1].copy() for k, v in atoms.arrays.items()}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_somebody_changes_is_seen(change):
    atoms = water()
    atoms.set_masses([16.0, 1.0, 1.0])
    same = SameAtoms(atoms, BONDS)
    same.read()
    change(atoms)
    assert_equal(same.read(), state_from_atoms(atoms, bonds=BONDS))
    assert_equal(same.read(), state_from_atoms(atoms, bonds=BONDS))


def test_a_cell_that_changes_shape_and_one_that_collapses():
    atoms = bulk("Cu", cubic=True)
    same = SameAtoms(atoms)
    same.read()
    atoms.set_cell(atoms.cell * 1.01, scale_atoms=True)
    assert_equal(same.read(), state_from_atoms(atoms))
    atoms.cell[2] = 0.0
    with pytest.raises(StateError, match="periodic along cell vector 2"):
        same.read()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["positions", "momenta"])
def test_numbers_that_are_not_finite_are_named(bad, where):
    atoms = water()
    same = SameAtoms(atoms)
    same.read()
    atoms.arrays[where][1, 2] = bad
    name = "positions" if where == "positions" else "velocities"
    with pytest.raises(StateError, match=f"{name} has a NaN or infinite value at index 1"):
        same.read()


def test_atoms_without_momenta_rest():
    atoms = molecule("H2O")
    same = SameAtoms(atoms)
    same.read()
    assert not same.read().velocities.any()


def test_constraints_are_made_anew_where_they_or_masses_are_others():
    atoms = water()
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    same = SameAtoms(atoms)
    first = same.constraints()
    assert same.constraints() is first
    atoms.set_masses([16.0, 2.0, 2.0])
    second = same.constraints()
    assert second is not first
    assert second.masses.tolist() == [16.0, 2.0, 2.0]
    atoms.set_constraint([*atoms.constraints, FixAtoms([2])])
    assert same.constraints().frozen.tolist() == [False, False, True]
    atoms.set_constraint()
    assert not same.constraints()
    atoms.set_constraint(Hookean(0, 1, k=5.0, rt=1.2))
    with pytest.raises(ConstraintError, match="Hookean"):
        same.constraints()


def test_what_is_written_is_what_one_writes_alone():
    atoms = water()
    other = atoms.copy()
    same = SameAtoms(atoms)
    state = same.read()
    ended = state.replace(positions=state.positions + 1.0, velocities=1.5 * state.velocities)
    same.write(ended)
    from fastegnn_md.engines.ase.atoms import write_state

    write_state(other, ended)
    np.testing.assert_array_equal(atoms.positions, other.positions)
    np.testing.assert_array_equal(atoms.get_momenta(), other.get_momenta())
    atoms.positions += 1.0  # no part of the state
    assert torch.equal(ended.positions, torch.from_numpy(other.positions))


def test_a_state_of_other_atoms_is_not_written():
    atoms = water()
    same = SameAtoms(atoms)
    same.read()
    before = atoms.copy()
    with pytest.raises(StateError, match="another element"):
        same.write(state_from_atoms(Atoms("OHF", positions=np.eye(3))))
    with pytest.raises(StateError, match="4 atoms in 1 systems"):
        same.write(state_from_atoms(molecule("NH3")))
    np.testing.assert_array_equal(atoms.positions, before.positions)
