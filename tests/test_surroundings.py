"""Surroundings of atoms, and how unlike those of training they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from scipy.spatial.transform import Rotation

import fastegnn_md
from fastegnn_md import State
from fastegnn_md.engines.ase import guess_bonds
from fastegnn_md.engines.ase.atoms import state_from_atoms
from fastegnn_md.graph import neighbour_list
from fastegnn_md.propagator.surroundings import Surroundings

LIMIT = 2.0  # that of the guard


def rattled(atoms, deviation, count, seed=0):
    """Frames of a crystal, every atom displaced by chance (Å): the atoms of a hot crystal, without their phonons."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(count):
        moved = atoms.copy()
        moved.positions += deviation * rng.normal(size=moved.positions.shape)
        frames.append(state_from_atoms(moved))
    return frames


def largest(surroundings, state, cutoff):
    return float(surroundings(state.numbers, neighbour_list(state, cutoff)).max())


@pytest.fixture(scope="module")
def silicon():
    crystal = bulk("Si", a=5.43, cubic=True) * (2, 2, 2)
    measured = Surroundings.measure(State.concatenate(rattled(crystal, 0.08, 80)), 4.5)
    return crystal, measured


@pytest.mark.parametrize(("deviation", "seed"), [(0.02, 1), (0.08, 2), (0.11, 3)])
def test_a_perfect_crystal_is_at_home_colder_and_hotter(silicon, deviation, seed):
    crystal, measured = silicon
    assert all(largest(measured, state, 4.5) < LIMIT for state in rattled(crystal, deviation, 20, seed))


def test_a_missing_neighbour_is_noticed(silicon):
    crystal, measured = silicon
    defect = crystal.copy()
    del defect[10]
    for state in rattled(defect, 0.08, 10, 4):
        distances = measured(state.numbers, neighbour_list(state, 4.5))
        assert int((distances > LIMIT).sum()) == 4  # the four that were bonded to it


@pytest.mark.parametrize("strain", [0.9, 1.1])
def test_another_density_is_noticed(silicon, strain):
    crystal, measured = silicon
    other = crystal.copy()
    other.set_cell(strain * other.cell, scale_atoms=True)
    assert all(largest(measured, state, 4.5) > 2 * LIMIT for state in rattled(other, 0.08, 5, 5))


class TestShipped:
    def test_copper_is_at_home_in_its_crystal_and_not_at_a_surface(self):
        propagator = fastegnn_md.load("copper-emt")
        crystal = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3)
        slab = fcc111("Cu", (4, 4, 4), a=3.61, vacuum=8)
        slab.pbc = True
        for deviation in (0.03, 0.1):
            assert all(
                float(propagator.predict(one).trust.unlike.max()) < LIMIT for one in rattled(crystal, deviation, 5)
            )
        for one in rattled(slab, 0.1, 5):
            unlike = propagator.predict(one).trust.unlike
            top_and_bottom = one.positions[:, 2].argsort()[[*range(12), *range(-12, 0)]]
            assert float(unlike[top_and_bottom].median()) > LIMIT

    def test_ethanol_knows_itself_and_no_other(self):
        propagator = fastegnn_md.load("ethanol-xtb")

        def worst(name):
            atoms = molecule(name)
            return float(propagator.predict(state_from_atoms(atoms, bonds=guess_bonds(atoms))).trust.unlike.max())

        assert worst("CH3CH2OH") < LIMIT
        for other in ("CH3OCH3", "CH3OH", "CH3CH2O"):
            assert worst(other) > LIMIT


def test_distances_turn_and_move_with_nothing(silicon):
    crystal, measured = silicon
    state = rattled(crystal, 0.08, 1, 6)[0]
    turn = torch.tensor(Rotation.random(rng=np.random.default_rng(1)).as_matrix())
    order = torch.randperm(state.n_atoms, generator=torch.Generator().manual_seed(0))
    moved = State(
        positions=(state.positions @ turn.T + 3.0)[order],
        velocities=torch.zeros_like(state.positions),
        numbers=state.numbers[order],
        masses=state.masses[order],
        cell=state.cell @ turn.T,
    )
    expected = measured(state.numbers, neighbour_list(state, 4.5))[order]
    found = measured(moved.numbers, neighbour_list(moved, 4.5))
    assert torch.allclose(found, expected, rtol=1e-5)


def test_densities_are_the_sums_they_say():
    atoms = molecule("CH3CH2OH")
    measured = Surroundings.measure(State.concatenate(rattled(atoms, 0.05, 60)), 3.5)
    state = state_from_atoms(atoms)
    found = measured.densities(state.numbers, neighbour_list(state, 3.5)).view(9, 3, -1)
    x, numbers = atoms.positions, atoms.numbers
    for i in range(9):
        for e, element in enumerate((1, 6, 8)):
            for k, centre in enumerate(np.arange(0.75, 3.5, 0.5)):
                total = 0.0
                for j in np.flatnonzero(numbers == element):
                    r = np.linalg.norm(x[i] - x[j])
                    if j != i and r < 3.5:
                        u = max(0.0, (r - 3.0) / 0.5)
                        total += np.exp(-0.5 * ((r - centre) / 0.5) ** 2) * (1 - 10 * u**3 + 15 * u**4 - 6 * u**5)
                assert float(found[i, e, k]) == pytest.approx(total, abs=1e-9)


def test_a_sample_that_knows_nothing_gives_none():
    assert Surroundings.measure(state_from_atoms(molecule("CH3CH2OH")), 3.5) is None


def test_files_keep_them(tmp_path):
    propagator, state = fastegnn_md.load("copper-emt"), rattled(bulk("Cu", cubic=True) * 3, 0.1, 1)[0]
    propagator.save(tmp_path / "model.safetensors")
    again = fastegnn_md.load(tmp_path / "model.safetensors")
    assert propagator.identity() == again.identity()
    assert torch.equal(again.predict(state).trust.unlike, propagator.predict(state).trust.unlike)
    assert again.provenance == propagator.provenance
    assert again.double().predict(state).trust.unlike.dtype == torch.float64


def test_they_are_no_part_of_the_weights():
    """A restart or a checkpoint of before they were measured goes on with the same map."""
    propagator = fastegnn_md.load("copper-emt")
    before = propagator.identity()
    propagator.surroundings = None
    assert propagator.identity() == before
