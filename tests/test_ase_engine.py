"""Atoms to State and back: units, constraints about the predicted geometry, and the calculator-style stepper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCom,
    FixedPlane,
    FixInternals,
    FixSubsetCom,
    Hookean,
    MirrorForce,
)

from fastegnn_md.engines.ase.stepper import (
    LearnedStepper,
    guess_bonds,
    read_constraints,
    state_from_atoms,
    update_atoms,
)
from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, StateError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.propagator.fake import FakePropagator

PS = 1000 * units.fs


class StandIn(FakePropagator):
    def __init__(self, move, timestep: float = 0.01, **options):
        super().__init__(move, timestep, **options)


def free_flight(timestep: float):
    return lambda state, *_: state.replace(positions=state.positions + timestep * state.velocities, forces=None)


def rotation(axis, degrees: float) -> np.ndarray:
    axis = np.array(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def water_box(n: int = 3, seed: int = 0) -> Atoms:
    """Whole water molecules on a lattice, some of them across the border of the box, with thermal momenta."""
    rng = np.random.default_rng(seed)
    one = molecule("H2O")
    atoms = Atoms(cell=[3.2 * n] * 3, pbc=True)
    for cell in np.ndindex(n, n, n):
        copy = one.copy()
        copy.positions = copy.positions @ rotation(rng.normal(size=3), 360 * rng.random()).T + 3.2 * np.array(cell)
        atoms += copy
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(0.025 * atoms.get_masses())[:, None])
    return atoms


def rigid_water(atoms: Atoms) -> FixBondLengths:
    first = np.arange(0, len(atoms), 3)[:, None, None]
    return FixBondLengths((first + np.array([[0, 1], [0, 2], [1, 2]])).reshape(-1, 2))


class TestUnits:
    def test_a_moving_atom_covers_its_velocity_in_one_picosecond(self):
        atoms = Atoms("H", velocities=[[1.0 / units.fs, 0, 0]])  # 1 Å/fs is 1000 Å/ps
        torch.testing.assert_close(state_from_atoms(atoms).velocities, torch.tensor([[1000.0, 0, 0]]).double())

    def test_kinetic_energy_and_temperature_are_the_same_quantity(self):
        from fastegnn_md.units import BOLTZMANN, EV

        atoms = water_box(1)
        state = state_from_atoms(atoms)
        kinetic = 0.5 * (state.masses[:, None] * state.velocities**2).sum()
        # ase.units has the constants of 2014, units.py those of 2018.
        assert float(kinetic) / EV == pytest.approx(atoms.get_kinetic_energy(), rel=1e-7)
        assert 2 * float(kinetic) / (9 * BOLTZMANN) == pytest.approx(atoms.get_temperature(), rel=1e-5)

    def test_force_times_time_is_momentum_in_both(self):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=0)
        atoms.calc = EMT()
        state = state_from_atoms(atoms, forces=True)
        kick = state.forces / state.masses[:, None] * 1e-3  # Å/ps in one fs
        expected = atoms.get_forces() / atoms.get_masses()[:, None] * units.fs * PS
        np.testing.assert_allclose(kick.numpy(), expected, rtol=1e-12)
        given = state_from_atoms(atoms, forces=atoms.get_forces())
        torch.testing.assert_close(given.forces, state.forces, rtol=0, atol=0)

    def test_everything_else_is_taken_along(self):
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.set_initial_charges([1, -1])
        atoms.set_masses([30.0, 35.0])
        state = state_from_atoms(atoms, bonds=[[0, 1]], types=[4, 2], dtype=torch.float32)
        assert state.dtype == torch.float32
        assert state.numbers.tolist() == [11, 17]
        assert state.masses.tolist() == [30.0, 35.0]
        assert state.charges.tolist() == [1, -1]
        assert state.types.tolist() == [4, 2]
        assert state.bonds.tolist() == [[0, 1]]
        np.testing.assert_allclose(state.cell[0], atoms.cell, rtol=1e-6)
        assert state.pbc.all()

    def test_isolated_atoms_have_no_cell_and_zero_charges_are_none(self):
        state = state_from_atoms(molecule("CH4", vacuum=5.0))
        assert state.cell is None
        assert state.charges is None
        assert state.forces is None

    def test_a_slab_gets_a_vector_where_it_has_none(self):
        atoms = Atoms("Cu", cell=[3, 4, 0], pbc=(True, True, False))
        assert float(torch.linalg.det(state_from_atoms(atoms).cell[0])) > 0

    def test_back_and_forth_changes_nothing(self):
        atoms = water_box(2)
        before = atoms.copy()
        update_atoms(atoms, state_from_atoms(atoms))
        np.testing.assert_array_equal(atoms.positions, before.positions)
        np.testing.assert_allclose(atoms.get_momenta(), before.get_momenta(), rtol=1e-14)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a.positions.__setitem__((1, 0), np.nan), "positions .* index 1"),
            (lambda a: a.set_momenta(np.full((3, 3), np.inf)), "velocities .* index 0"),
            (lambda a: a.set_masses([16, 1, 0]), r"atom 2 \(H\) has mass 0"),
            (lambda a: a.set_pbc((False, True, False)), "periodic along cell vector 1"),
            (lambda a: (a.set_cell([[5, 0, 0], [5, 0, 0], [0, 0, 5]]), a.set_pbc(True)), "no volume"),
        ],
        ids=["nan", "inf", "massless", "no cell", "flat cell"],
    )
    def test_bad_atoms_are_refused(self, change, message):
        atoms = molecule("H2O")
        change(atoms)
        with pytest.raises(StateError, match=message):
            state_from_atoms(atoms)

    def test_forces_without_calculator_are_refused(self):
        with pytest.raises(StateError, match=r"atoms\.calc"):
            state_from_atoms(molecule("H2O"), forces=True)

    def test_other_atoms_are_refused(self):
        state = state_from_atoms(molecule("H2O"))
        with pytest.raises(StateError, match="3 atoms in 1 systems, the Atoms object 5"):
            update_atoms(molecule("CH4"), state)
        with pytest.raises(StateError, match="atom 0 is another element"):
            update_atoms(Atoms("SH2", positions=molecule("H2O").positions), state)


class TestConstraints:
    @pytest.mark.parametrize("degrees", [30, 90, 150, 180])
    def test_a_rigid_bond_is_projected_about_the_predicted_geometry(self, degrees):
        """The prediction turns the bond, stretches it by 7 %, and moves its centre."""
        atoms = Atoms("CO", positions=[[0, 0, 0], [1.1, 0.2, -0.3]])
        atoms.set_constraint(FixBondLengths([[0, 1]]))
        length = atoms.get_distance(0, 1)
        turn = rotation([1, -2, 0.5], degrees)
        predicted = 1.07 * atoms.positions @ turn.T + [0.4, 0.1, 2.0]
        velocities = np.random.default_rng(1).normal(size=(2, 3)) * 20
        state = state_from_atoms(atoms)
        update_atoms(atoms, state.replace(positions=torch.tensor(predicted), velocities=torch.tensor(velocities)))
        masses = atoms.get_masses()
        bond = atoms.positions[1] - atoms.positions[0]
        assert np.linalg.norm(bond) == pytest.approx(length, abs=1e-12)
        np.testing.assert_allclose(np.cross(bond, predicted[1] - predicted[0]), 0, atol=1e-12)
        np.testing.assert_allclose(masses @ atoms.positions, masses @ predicted, atol=1e-10)
        np.testing.assert_allclose(atoms.get_momenta().sum(0) * PS, masses @ velocities, atol=1e-10)
        assert abs(np.dot(atoms.get_velocities()[1] - atoms.get_velocities()[0], bond)) < 1e-12
        # Across the bond the velocity is the predicted one, not a finite difference.
        across = np.cross(bond, velocities[1] - velocities[0])
        np.testing.assert_allclose(np.cross(bond, np.diff(atoms.get_velocities(), axis=0)[0]) * PS, across, atol=1e-9)

    def test_rigid_water_across_the_border_of_a_box(self):
        atoms = water_box(3)
        atoms.wrap()
        atoms.set_constraint(rigid_water(atoms))
        pairs = atoms.constraints[0].pairs
        lengths = np.array([atoms.get_distance(a, b, mic=True) for a, b in pairs])
        assert np.any([atoms.get_distance(a, b) > 4 for a, b in pairs])  # some are across
        rng = np.random.default_rng(2)
        state = state_from_atoms(atoms)
        predicted = atoms.positions + 0.1 * rng.normal(size=(len(atoms), 3))
        momentum, centre = atoms.get_momenta().sum(0), atoms.get_masses() @ predicted
        update_atoms(atoms, state.replace(positions=torch.tensor(predicted)))
        after = np.array([atoms.get_distance(a, b, mic=True) for a, b in pairs])
        np.testing.assert_allclose(after, lengths, atol=1e-10)
        np.testing.assert_allclose(atoms.get_masses() @ atoms.positions, centre, rtol=1e-12)
        np.testing.assert_allclose(atoms.get_momenta().sum(0), momentum, atol=1e-11)
        assert np.abs(atoms.positions - predicted).max() < 0.5
        v = atoms.get_velocities()
        for a, b in pairs:
            bond = atoms.get_distance(a, b, mic=True, vector=True)
            assert abs(bond @ (v[b] - v[a])) < 1e-12

    def test_the_projection_is_that_of_least_constraint(self):
        """Against the solution of the dense linear problem with all bonds at once."""
        atoms = molecule("CH3CH2OH")
        atoms.set_constraint(FixBondLengths(guess_bonds(atoms)))
        constraints = read_constraints(atoms)
        v = torch.tensor(np.random.default_rng(3).normal(size=(9, 3)))
        held = constraints.project_velocities(state_from_atoms(atoms), v)
        jacobian = np.zeros((8, 27))
        for k, (a, b) in enumerate(constraints.bonds.tolist()):
            bond = atoms.positions[a] - atoms.positions[b]
            jacobian[k, 3 * a : 3 * a + 3], jacobian[k, 3 * b : 3 * b + 3] = bond, -bond
        root = np.repeat(atoms.get_masses() ** 0.5, 3)
        space = np.linalg.svd(jacobian / root)[2][8:]
        expected = (space.T @ (space @ (root * v.numpy().ravel()))) / root
        np.testing.assert_allclose(held.numpy().ravel(), expected, atol=1e-12)

    def test_a_bond_to_a_frozen_atom_and_a_bond_given_twice(self):
        atoms = molecule("H2O")
        atoms.set_constraint([FixAtoms([0]), FixBondLengths([[0, 1], [1, 0], [0, 2], [-3, -1]])])
        lengths = atoms.get_distances(0, [1, 2])
        before = atoms.copy()
        state = state_from_atoms(atoms)
        noise = torch.tensor(np.random.default_rng(4).normal(size=(3, 3)))
        update_atoms(atoms, state.replace(positions=state.positions + 0.2 * noise, velocities=noise))
        np.testing.assert_array_equal(atoms.positions[0], before.positions[0])
        np.testing.assert_array_equal(atoms.get_momenta()[0], 0)
        np.testing.assert_allclose(atoms.get_distances(0, [1, 2]), lengths, atol=1e-12)
        assert np.abs(atoms.positions[1:] - before.positions[1:]).max() > 0.05

    def test_a_fixed_centre_of_mass_with_rigid_bonds(self):
        atoms = molecule("CH3OH")
        atoms.set_constraint([FixCom(), FixBondLengths([[0, 2], [0, 4]])])
        lengths = atoms.get_distance(0, 2), atoms.get_distance(0, 4)
        centre = atoms.get_center_of_mass()
        state = state_from_atoms(atoms)
        noise = torch.tensor(np.random.default_rng(5).normal(size=(6, 3)))
        update_atoms(atoms, state.replace(positions=state.positions + 0.1 * noise + 3.0, velocities=noise + 2.0))
        np.testing.assert_allclose(atoms.get_center_of_mass(), centre, atol=1e-12)
        np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-12)
        assert atoms.get_distance(0, 2) == pytest.approx(lengths[0], abs=1e-12)
        assert atoms.get_distance(0, 4) == pytest.approx(lengths[1], abs=1e-12)

    def test_given_lengths_are_kept_not_those_of_the_geometry(self):
        atoms = molecule("H2")
        atoms.set_constraint(FixBondLengths([[0, 1]], bondlengths=[0.80]))
        update_atoms(atoms, state_from_atoms(atoms))
        assert atoms.get_distance(0, 1) == pytest.approx(0.80, abs=1e-12)

    @pytest.mark.parametrize(
        "constraint",
        [
            Hookean(0, 1, k=5.0, rt=1.2),
            MirrorForce(0, 1),
            FixInternals(bonds=[[1.0, [0, 1]]]),
            FixedPlane(0, [0, 0, 1]),
            FixSubsetCom([0, 1]),
        ],
        ids=lambda c: type(c).__name__,
    )
    def test_others_are_refused_by_name(self, constraint):
        atoms = molecule("H2O")
        state = state_from_atoms(atoms)
        atoms.set_constraint([FixAtoms([2]), constraint])
        before = atoms.copy()
        with pytest.raises(
            ConstraintError, match=f"{type(constraint).__name__} cannot.*FixAtoms, FixCom, FixBondLengths"
        ):
            update_atoms(atoms, state.replace(positions=state.positions + 1))
        np.testing.assert_array_equal(atoms.positions, before.positions)

    def test_frozen_atoms_exclude_a_fixed_centre(self):
        atoms = molecule("H2O")
        atoms.set_constraint([FixAtoms([0]), FixCom()])
        with pytest.raises(ConstraintError, match="centre of mass"):
            read_constraints(atoms)

    def test_a_length_out_of_reach_leaves_the_atoms_alone(self):
        atoms = Atoms("H3", positions=[[0, 0, 0], [1, 0, 0], [2, 0, 0]])
        atoms.set_constraint(FixBondLengths([[0, 1], [1, 2], [0, 2]], bondlengths=[1.0, 1.0, 5.0]))
        before, state = atoms.copy(), state_from_atoms(atoms)
        with pytest.raises(ConstraintError, match=r"atoms \d and \d cannot be brought .* contradict"):
            update_atoms(atoms, state.replace(velocities=state.velocities + 1))
        np.testing.assert_array_equal(atoms.positions, before.positions)
        np.testing.assert_array_equal(atoms.get_momenta(), before.get_momenta())

    def test_wrong_shapes_and_lengths(self):
        none = torch.zeros(2, dtype=torch.bool)
        with pytest.raises(ConstraintError, match="do not fit"):
            Constraints(torch.ones(2), torch.tensor([[0, 1]]), torch.ones(2), none)
        with pytest.raises(ConstraintError, match=r"distance of 0\.0 Å"):
            Constraints(torch.ones(2), torch.tensor([[0, 1]]), torch.zeros(1), none)


def test_bonds_are_guessed_from_covalent_radii_also_across_a_border():
    ethanol = molecule("CH3CH2OH")
    bonds = guess_bonds(ethanol)
    assert bonds.shape == (8, 2)
    assert np.bincount(bonds.ravel()).tolist() == [4, 4, 2, 1, 1, 1, 1, 1, 1]  # C, C, O, H ...
    split = Atoms("H2", positions=[[0.1, 5, 5], [9.6, 5, 5]], cell=[10] * 3, pbc=True)
    assert guess_bonds(split).tolist() == [[0, 1]]
    assert guess_bonds(Atoms("Ar2", positions=[[0, 0, 0], [3.8, 0, 0]])).shape == (0, 2)


class CountingForces(Calculator):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms)
        self.calls += 1
        self.results = {"energy": 0.0, "forces": np.ones((len(atoms), 3))}


class TestLearnedStepper:
    def moving_water(self) -> Atoms:
        atoms = molecule("H2O")
        atoms.set_velocities(np.arange(9).reshape(3, 3) / PS)
        return atoms

    def test_properties_are_in_ase_units(self):
        atoms = self.moving_water()
        stepper = LearnedStepper(StandIn(free_flight(0.01)))
        expected = 0.01 * np.arange(9).reshape(3, 3)
        np.testing.assert_allclose(stepper.get_property("displacements", atoms), expected, atol=1e-15)
        np.testing.assert_allclose(stepper.get_property("new_positions", atoms), atoms.positions + expected)
        np.testing.assert_allclose(stepper.get_property("new_velocities", atoms), atoms.get_velocities())
        assert set(stepper.results) == set(stepper.implemented_properties)
        assert stepper.timestep == pytest.approx(10 * units.fs)

    @pytest.mark.parametrize("change", ["positions", "momenta", "masses", "cell", "pbc", "constraint"])
    def test_the_cache_sees_every_change(self, change):
        atoms = self.moving_water()
        atoms.set_cell([9, 9, 9])
        atoms.set_constraint(FixAtoms([0]))
        propagator = StandIn(free_flight(0.01))
        stepper = LearnedStepper(propagator)
        for name in stepper.implemented_properties:
            stepper.get_property(name, atoms)
        assert propagator.calls == 1
        assert stepper.get_property("displacements") is not stepper.results["displacements"]
        if change == "positions":
            atoms.positions[0, 0] += 1e-12
        elif change == "momenta":
            atoms.arrays["momenta"][2, 2] += 1e-12
        elif change == "masses":
            atoms.set_masses([16, 1, 2])
        elif change == "cell":
            atoms.set_cell([9, 9, 9.5])
        elif change == "pbc":
            atoms.set_pbc(True)
        else:
            atoms.set_constraint(FixAtoms([1]))
        assert stepper.calculation_required(atoms, ["displacements"])
        assert stepper.get_property("displacements", atoms, allow_calculation=False) is None
        stepper.get_property("displacements", atoms)
        assert propagator.calls == 2

    def test_step_moves_the_atoms_and_uses_the_prediction_at_hand(self):
        atoms = self.moving_water()
        atoms.set_constraint(FixBondLengths([[0, 1]]))
        propagator = StandIn(free_flight(0.01))
        stepper = LearnedStepper(propagator)
        wanted = stepper.get_property("new_positions", atoms)
        stepper.step(atoms)
        assert propagator.calls == 1
        np.testing.assert_array_equal(atoms.positions, wanted)
        stepper.step(atoms)
        assert propagator.calls == 2

    def test_what_it_does_not_know(self):
        stepper = LearnedStepper(StandIn(free_flight(0.01)))
        with pytest.raises(PropertyNotImplementedError, match="energy is not a property of a learned step"):
            stepper.get_property("energy", molecule("H2O"))
        with pytest.raises(PropertyNotImplementedError, match="give the atoms"):
            stepper.get_property("displacements")

    def test_a_prediction_that_is_not_finite_is_not_written(self):
        atoms = self.moving_water()
        before = atoms.copy()
        stepper = LearnedStepper(StandIn(lambda s, *_: s.replace(positions=s.positions * torch.nan)))
        with pytest.raises(StateError, match="index 0"):
            stepper.step(atoms)
        np.testing.assert_array_equal(atoms.positions, before.positions)

    def test_force_informed_takes_one_call_of_the_calculator(self):
        def kick(state, *_):
            return state.replace(velocities=state.velocities + 0.01 * state.forces / state.masses[:, None], forces=None)

        atoms = self.moving_water()
        stepper = LearnedStepper(StandIn(kick, kind="force-start"))
        with pytest.raises(StateError, match=r"atoms\.calc"):
            stepper.step(atoms)
        atoms.calc = CountingForces()
        before = atoms.get_momenta()
        stepper.step(atoms)
        assert atoms.calc.calls == 1
        np.testing.assert_allclose(atoms.get_momenta() - before, 10 * units.fs, rtol=1e-12)

    def test_redrawn_velocities_need_a_temperature_and_repeat_with_the_seed(self):
        propagator = StandIn(free_flight(0.01), kind="position")
        with pytest.raises(CompatibilityError, match="temperature_K"):
            LearnedStepper(propagator)
        with pytest.raises(ConfigError, match="rng is 'seven'"):
            LearnedStepper(propagator, temperature_K=300, rng="seven")
        first = LearnedStepper(propagator, temperature_K=300)
        again = LearnedStepper(propagator, temperature_K=300, rng=first.seed)
        atoms = self.moving_water()
        np.testing.assert_array_equal(
            first.get_property("new_velocities", atoms), again.get_property("new_velocities", atoms)
        )
        assert first.todict()["seed"] == first.seed
