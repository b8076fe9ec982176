"""Degrees of freedom, rigid motion and angular momentum against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from fastegnn_md.engines.ase.stepper import state_from_atoms
from fastegnn_md.mechanics.conservation import conserve_angular_momentum, conserve_momentum
from fastegnn_md.mechanics.constraints import Constraints, no_constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import angular_momentum, kinetic_energy, rigid_rotation
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN


def moving(atoms: Atoms, seed: int = 0, dtype: torch.dtype = torch.float64) -> State:
    """The state of atoms with random velocities of some Å/ps, far from the origin."""
    atoms = atoms.copy()
    atoms.positions += [30.0, -20.0, 10.0]
    state = state_from_atoms(atoms)
    velocities = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(atoms), 3)))
    return state.replace(velocities=5 * velocities).to(dtype=dtype)


def constraints_of(state: State, bonds=(), frozen=(), fixed_com: bool = False) -> Constraints:
    bonds = torch.tensor(list(bonds), dtype=torch.int64).reshape(-1, 2)
    held = torch.zeros(state.n_atoms, dtype=torch.bool)
    held[list(frozen)] = True
    lengths = (state.positions[bonds[:, 0]] - state.positions[bonds[:, 1]]).norm(dim=1)
    return Constraints(state.masses, bonds, lengths, held, fixed_com)


def jumped(before: State, seed: int = 1) -> State:
    """A state after a map that conserves nothing."""
    rng = np.random.default_rng(seed)
    return before.replace(
        positions=before.positions + torch.from_numpy(0.2 * rng.normal(size=(before.n_atoms, 3))).to(before.dtype),
        velocities=before.velocities + torch.from_numpy(rng.normal(size=(before.n_atoms, 3))).to(before.dtype),
    )


def atoms_of(state: State) -> Atoms:
    atoms = Atoms(state.numbers.numpy(), positions=state.positions.numpy(), masses=state.masses.numpy())
    atoms.set_velocities(state.velocities.numpy())
    return atoms


# Angular momentum --------------------------------------------------------------------------------------------------


def test_angular_momentum_is_that_of_ase():
    state = moving(molecule("CH3CH2OH"))
    np.testing.assert_allclose(angular_momentum(state)[0], atoms_of(state).get_angular_momentum(), rtol=1e-10)


@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "H2O"])
def test_a_jump_gets_the_angular_momentum_from_before_and_keeps_the_linear_one(name):
    before = moving(molecule(name))
    after = jumped(before)
    kept = conserve_angular_momentum(before, after)
    wanted = atoms_of(before).get_angular_momentum()
    assert np.abs(atoms_of(after).get_angular_momentum() - wanted).max() > 1
    np.testing.assert_allclose(atoms_of(kept).get_angular_momentum(), wanted, atol=1e-11)
    np.testing.assert_allclose(atoms_of(kept).get_momenta().sum(0), atoms_of(after).get_momenta().sum(0), atol=1e-11)
    assert torch.equal(kept.positions, after.positions)
    # A rotation and nothing else: no distance between two atoms changes faster or slower than the jump said.
    added = kept.velocities - after.velocities
    apart = kept.positions[:, None] - kept.positions[None]
    assert float((apart * (added[:, None] - added[None])).sum(2).abs().max()) < 1e-12
    # Of all corrections the smallest: orthogonal to every motion without angular momentum.
    still = after.velocities - rigid_rotation(after, angular_momentum(after))
    assert abs(float((before.masses[:, None] * added * still).sum())) < 1e-10


def test_fixed_bonds_and_the_order_of_conservation_laws_do_not_matter_to_it():
    before = moving(molecule("CH3OH"))
    constraints = constraints_of(before, [(0, 2), (1, 3)])
    before = before.replace(velocities=constraints.project_velocities(before, before.velocities))
    after = constraints.project(before, conserve_momentum(before, jumped(before), 0.01))
    kept = conserve_angular_momentum(before, after)
    np.testing.assert_allclose(
        atoms_of(kept).get_angular_momentum(), atoms_of(before).get_angular_momentum(), atol=1e-11
    )
    np.testing.assert_allclose(atoms_of(kept).get_momenta().sum(0), atoms_of(before).get_momenta().sum(0), atol=1e-11)
    torch.testing.assert_close(constraints.project_velocities(kept, kept.velocities), kept.velocities)


def test_it_turns_with_the_molecule():
    before, turn = moving(molecule("CH3OH")), torch.linalg.qr(moving(molecule("H2O")).velocities)[0]
    after = jumped(before)

    def turned(state: State) -> State:
        return state.replace(positions=state.positions @ turn.T, velocities=state.velocities @ turn.T)

    expected = turned(conserve_angular_momentum(before, after)).velocities
    found = conserve_angular_momentum(turned(before), turned(after)).velocities
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["CO2", "N2", "HCN"])
def test_straight_molecules_turn_about_two_axes(name):
    before = moving(molecule(name))
    along = torch.tensor([[0.03], [-0.05], [0.08]])[: before.n_atoms] * torch.tensor([0.0, 0.0, 1.0])
    after = before.replace(positions=before.positions + along, velocities=-0.3 * before.velocities)
    kept = conserve_angular_momentum(before, after)
    wanted = atoms_of(before).get_angular_momentum()
    assert abs(wanted[2]) < 1e-10  # ASE's molecules lie on z
    np.testing.assert_allclose(atoms_of(kept).get_angular_momentum(), wanted, atol=1e-11)
    assert float(kept.velocities.abs().max()) < 50


def test_what_a_straight_molecule_cannot_have_is_left_out():
    """Bent before, straight after: the component along the axis is lost, the others are kept, and all is finite."""
    bent = molecule("CO2")
    bent.positions[0, 0] += 0.2
    before = moving(bent)
    after = moving(molecule("CO2"), seed=2)
    kept = conserve_angular_momentum(before, after)
    wanted = atoms_of(before).get_angular_momentum()
    assert abs(wanted[2]) > 0.1
    np.testing.assert_allclose(atoms_of(kept).get_angular_momentum(), [*wanted[:2], 0], atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_atom_has_none(dtype):
    before = moving(Atoms("Ar"), dtype=dtype)
    after = jumped(before)
    assert torch.equal(conserve_angular_momentum(before, after).velocities, after.velocities)


def test_systems_of_a_batch_do_not_see_each_other():
    alone = [moving(molecule(name), seed=k) for k, name in enumerate(("CH3OH", "CO2", "H2O", "H"))]
    after = [jumped(one, seed=k) for k, one in enumerate(alone)]
    together = conserve_angular_momentum(State.concatenate(alone), State.concatenate(after))
    for found, one, end in zip(together.split(), alone, after, strict=True):
        expected = conserve_angular_momentum(one, end).velocities
        torch.testing.assert_close(found.velocities, expected, rtol=0, atol=1e-11)


# Degrees of freedom ------------------------------------------------------------------------------------------------


def by_rank(state: State, freedom: Freedom) -> int:
    """3 N minus the rank of all linear conditions on velocities, one row each."""
    n, x, m = state.n_atoms, state.positions.numpy(), state.masses.numpy()
    rows = []
    for a, b in freedom.constraints.bonds.tolist():
        row = np.zeros((n, 3))
        row[a], row[b] = x[a] - x[b], x[b] - x[a]
        rows.append(row)
    for atom in np.flatnonzero(freedom.constraints.frozen):
        for axis in range(3):
            row = np.zeros((n, 3))
            row[atom, axis] = 1
            rows.append(row)
    axes = np.eye(3)
    if freedom.momentum or freedom.constraints.fixed_com:
        rows += [m[:, None] * axis for axis in axes]
    if freedom.angular_momentum:
        arms = x - np.average(x, axis=0, weights=m)
        rows += [m[:, None] * np.cross(axis, arms) for axis in axes]
    return 3 * n - (int(np.linalg.matrix_rank(np.array(rows).reshape(len(rows), -1), tol=1e-8)) if rows else 0)


BENT = Atoms("OCO", positions=[[1.16, 0, 0.1], [0, 0, 0], [-1.16, 0, 0.1]])
WATER = [(0, 1), (0, 2), (1, 2)]
NONE, ALL = {}, {"momentum": True, "angular_momentum": True}


@pytest.mark.parametrize(
    ("atoms", "held", "conserved", "expected"),
    [
        (molecule("CH3OH"), {}, NONE, 18),
        (molecule("CH3OH"), {}, {"momentum": True}, 15),
        (molecule("CH3OH"), {}, ALL, 12),
        (molecule("H2O"), {"bonds": WATER}, NONE, 6),
        (molecule("H2O"), {"bonds": WATER}, {"momentum": True}, 3),
        (molecule("H2O"), {"bonds": WATER}, ALL, 0),
        (molecule("CO2"), {}, ALL, 4),  # straight: 3 N - 5
        (BENT, {}, ALL, 3),  # as soon as it has bent: 3 N - 6
        (molecule("CO2"), {"bonds": [(0, 1), (0, 2)]}, ALL, 2),
        (molecule("N2"), {"bonds": [(0, 1)]}, ALL, 0),
        (molecule("N2"), {}, ALL, 1),
        (Atoms("Ar"), {}, NONE, 3),
        (Atoms("Ar"), {}, ALL, 0),
        (molecule("CH3OH"), {"frozen": [0, 1]}, NONE, 12),
        (
            molecule("CH3OH"),
            {"frozen": [0, 1], "bonds": [(0, 1), (0, 2)]},
            NONE,
            11,
        ),  # one of the bonds is frozen
        (molecule("CH3OH"), {"fixed_com": True}, NONE, 15),
        (molecule("CH3OH"), {"fixed_com": True}, ALL, 12),
        # All ten distances of five atoms, of which nine hold them, and one bond given twice.
        (molecule("CH4"), {"bonds": [(i, j) for i in range(5) for j in range(i)] + [(0, 1)]}, ALL, 0),
    ],
)
def test_they_are_those_of_the_rank_of_all_conditions(atoms, held, conserved, expected):
    state = moving(atoms)
    freedom = Freedom(constraints_of(state, **held), **conserved)
    assert freedom.degrees(state) == by_rank(state, freedom) == expected


def test_alanine_dipeptide_with_fixed_hydrogen_bonds_and_a_box_of_rigid_water(require):
    require("openmm")
    import openmm_cases as cases

    from fastegnn_md.engines.openmm.system import read_system

    topology, system, positions = cases.peptide()
    part = read_system(system, topology, cases.StandIn())
    velocities = cases.velocities_for(system)
    state = part.state(torch.tensor(positions), torch.tensor(velocities), None, None)
    freedom = Freedom(part.constraints, **ALL)
    assert freedom.degrees(state) == by_rank(state, freedom) == 3 * 22 - 12 - 6
    topology, system, positions = cases.water(3)
    part = read_system(system, topology, cases.StandIn(periodic=True))
    box = torch.tensor(np.array([[*v._value] for v in system.getDefaultPeriodicBoxVectors()]))
    state = part.state(torch.tensor(positions), torch.tensor(cases.velocities_for(system)), None, box)
    assert Freedom(part.constraints, momentum=True).degrees(state) == 27 * 6 - 3


@pytest.mark.parametrize("conserved", [NONE, {"momentum": True}, ALL], ids=["none", "linear", "both"])
def test_thermal_motion_has_half_a_kt_for_each(conserved):
    """2 K / kT of Gaussian velocities, without what is held or conserved, is f on average; within 3 σ."""
    shape = molecule("CH3OH")
    state = moving(shape)
    freedom = Freedom(constraints_of(state, [(0, 2), (1, 3)]), **conserved)
    degrees, samples, rng = freedom.degrees(state), 400, np.random.default_rng(3)
    spread = (BOLTZMANN * 300 / state.masses).sqrt()[:, None]
    found = []
    for _ in range(samples):
        drawn = state.replace(velocities=spread * torch.from_numpy(rng.normal(size=(state.n_atoms, 3))))
        drawn = drawn.replace(velocities=freedom.project(drawn, drawn.velocities))
        found.append(freedom.temperature(drawn) / 300)
    assert abs(np.mean(found) - 1) < 3 * math.sqrt(2 / (degrees * samples))


def test_the_motion_that_is_conserved_has_the_momenta_and_adds_its_energy():
    state = moving(molecule("CH3OH"))
    freedom = Freedom(no_constraints(state.masses), **ALL)
    rigid = state.replace(velocities=freedom.conserved(state))
    rest = state.replace(velocities=state.velocities - rigid.velocities)
    for one, wanted in ((rigid, atoms_of(state)), (rest, None)):
        for name in ("get_angular_momentum", "get_momenta"):
            found = np.atleast_2d(getattr(atoms_of(one), name)()).sum(0)
            expected = 0 if wanted is None else np.atleast_2d(getattr(wanted, name)()).sum(0)
            np.testing.assert_allclose(found, expected, atol=1e-11)
    parts = [kinetic_energy(one.velocities, one.masses) for one in (rigid, rest)]
    assert sum(parts) == pytest.approx(kinetic_energy(state.velocities, state.masses), rel=1e-12)
    assert Freedom(no_constraints(state.masses)).conserved(state) is None


def test_without_freedom_there_is_no_temperature():
    state = moving(Atoms("Ar"))
    assert math.isnan(Freedom(no_constraints(state.masses), **ALL).temperature(state))
