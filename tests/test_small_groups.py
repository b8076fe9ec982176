"""Bond lengths held by the C++ library are those that torch holds, on inputs drawn afresh."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.errors import ConstraintError
from fastegnn_md.mechanics import constraints as module
from fastegnn_md.mechanics import small_groups
from fastegnn_md.mechanics.constraints import Constraints, UnreachableLengthError
from fastegnn_md.nn.native import functions

HYDROGENS = [[0, 1], [0, 2], [0, 3], [4, 5], [6, 7], [6, 8], [9, 10], [9, 11], [9, 12], [9, 13]]  # 3, 1, 2 and 4
WATER = [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]
CHAIN = [[k, k + 1] for k in range(12)]
SYSTEMS = {
    "hydrogens": (14, HYDROGENS, []),
    "rigid water": (6, WATER, []),
    "a chain": (13, CHAIN, []),
    "bonds to frozen atoms": (14, HYDROGENS, [0, 7, 10]),
    "frozen atoms without bonds": (14, HYDROGENS[:4], [12, 13]),
}


@pytest.fixture
def library(cxx, monkeypatch):
    """Counts how often the library is asked; ``stop()`` takes it away."""

    class Switch:
        asked = 0

        def stop(self):
            monkeypatch.setattr(functions, "library", lambda: None)

    class Counted:
        def __init__(self, function):
            self.function = function

        def get(self):
            found = self.function.get()
            return None if found is None else lambda *arguments: self.call(found, *arguments)

        def call(self, found, *arguments):
            switch.asked += 1
            return found(*arguments)

    switch = Switch()
    for name in ("_hold_positions", "_hold_velocities", "_hold_both"):
        monkeypatch.setattr(small_groups, name, Counted(getattr(small_groups, name)))
    return switch


def system(name, *, periodic=False, fixed_com=False, seed=None):
    """Constraints, a state that obeys them (across the border of its box), and where a jump has led."""
    n, bonds, frozen = SYSTEMS[name]
    rng = np.random.default_rng(seed)  # afresh
    drawn = 5.0 * np.arange(n)[:, None] * [0.3, 0.5, 0.7] + rng.normal(size=(n, 3))
    for k, (a, b) in enumerate(bonds):  # of 0.9 to 1.4 Å, none along another: any draw can be repaired after a jump
        if not (bonds is WATER and a % 3):  # the distance of its hydrogens follows
            direction = np.eye(3)[(b - a) % 3] * (-1) ** k + 0.2 * rng.normal(size=3)
            drawn[b] = drawn[a] + rng.uniform(0.9, 1.4) * direction / np.linalg.norm(direction)
    place, pairs = torch.from_numpy(drawn), torch.tensor(bonds)
    lengths = (place[pairs[:, 0]] - place[pairs[:, 1]]).norm(dim=1)
    masses = torch.from_numpy(rng.uniform(1, 16, n))
    held = torch.zeros(n, dtype=torch.bool)
    held[frozen] = True
    cell = 14.0 * torch.eye(3, dtype=torch.float64)[None] if periodic else None
    before = State(
        positions=place % 14.0 if periodic else place,
        velocities=torch.from_numpy(5 * rng.normal(size=(n, 3))),
        numbers=torch.full((n,), 6),
        masses=masses,
        cell=cell,
    )
    after = before.replace(
        positions=before.positions + torch.from_numpy(0.05 * rng.normal(size=(n, 3))),
        velocities=torch.from_numpy(5 * rng.normal(size=(n, 3))),
    )
    return Constraints(masses, pairs, lengths, held, fixed_com), before, after


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("name", SYSTEMS)
def test_both_give_the_same_numbers(library, name, periodic):
    held, before, after = system(name, periodic=periodic)
    shifts = held.image_shifts(before)

    def held_alone():
        x = held.hold_positions(before.positions, after.positions, shifts, reference=before.positions)
        return x, held.hold_velocities(before.positions, after.velocities, shifts)

    found, alone = held.project(before, after), held_alone()
    assert library.asked == 3
    library.stop()
    expected = held.project(before, after)
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.velocities, expected.velocities, rtol=0, atol=1e-11)
    for one, other in zip(alone, held_alone(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert library.asked == 3
    assert not torch.equal(found.positions, after.positions)


def test_lengths_hold_velocities_do_not_stretch_and_frozen_atoms_rest(library):
    held, before, after = system("bonds to frozen atoms")
    found = held.project(before, after)
    vectors = found.positions[held.bonds[:, 0]] - found.positions[held.bonds[:, 1]]
    rates = found.velocities[held.bonds[:, 0]] - found.velocities[held.bonds[:, 1]]
    torch.testing.assert_close(vectors.norm(dim=1), held.lengths, rtol=0, atol=1e-12)
    assert float((vectors * rates).sum(dim=1).abs().max()) < 1e-11
    assert torch.equal(found.positions[held.frozen], before.positions[held.frozen])
    assert not found.velocities[held.frozen].any()


def test_a_centre_of_mass_that_rests(library):
    held, before, after = system("hydrogens", fixed_com=True)
    found = held.project(before, after)
    library.stop()
    other = held.project(before, after)
    torch.testing.assert_close(found.positions, other.positions, rtol=0, atol=1e-12)
    torch.testing.assert_close(before.masses @ found.positions, before.masses @ before.positions, rtol=1e-12, atol=0)


def test_float32_states_are_held_in_float64(library):
    held, before, after = system("hydrogens")
    before, after = before.to(dtype=torch.float32), after.to(dtype=torch.float32)
    found = held.project(before, after)
    assert (found.dtype, library.asked) == (torch.float32, 1)
    library.stop()
    torch.testing.assert_close(found.positions, held.project(before, after).positions, rtol=0, atol=1e-5)


def test_a_length_out_of_reach_is_the_same_error(library):
    _, before, after = system("rigid water", seed=3)
    lengths = torch.tensor([1.0, 1.0, 1.6, 1.0, 1.0, 5.0])
    held = Constraints(before.masses, torch.tensor(WATER), lengths, torch.zeros(6, dtype=torch.bool))
    with pytest.raises(UnreachableLengthError) as native:
        held.project(before, after)
    assert library.asked == 2  # for both, then for positions alone
    library.stop()
    with pytest.raises(ConstraintError) as plain:
        held.project(before, after)
    assert str(native.value) == str(plain.value)
    assert native.value.atoms == plain.value.atoms


def test_atoms_at_one_place_are_the_same_as_by_torch(library):
    """The directions of their bond vanish: no velocity along it can be told, and no length restored."""
    held, before, _ = system("hydrogens")
    positions = before.positions.clone()
    positions[5] = positions[4]
    with pytest.raises(UnreachableLengthError, match="atoms 4 and 5"):
        held.project(before, before.replace(positions=positions))


@pytest.mark.parametrize(
    ("n", "bonds"),
    [(3, [[0, 1], [0, 1], [0, 2]]), (4, [[a, b] for a in range(4) for b in range(a)] + [[0, 1]]), (40, None)],
    ids=["given twice", "more than free coordinates", "more than 32"],
)
def test_other_groups_are_left_to_torch(library, n, bonds):
    pairs = torch.tensor([[k, k + 1] for k in range(n - 1)] if bonds is None else bonds)
    place = torch.from_numpy(np.cumsum(np.random.default_rng(0).normal(size=(n, 3)), axis=0))
    lengths = (place[pairs[:, 0]] - place[pairs[:, 1]]).norm(dim=1)
    held = Constraints(torch.ones(n), pairs, lengths, torch.zeros(n, dtype=torch.bool))
    after = place + 0.01 * torch.from_numpy(np.random.default_rng(1).normal(size=(n, 3)))
    found = held.hold_positions(place, after, torch.zeros(len(pairs), 3, dtype=torch.float64))
    assert library.asked == 0
    ends = held.bonds.unbind(1)
    torch.testing.assert_close((found[ends[0]] - found[ends[1]]).norm(dim=1), held.lengths, rtol=0, atol=1e-11)


def test_rows_that_lie_apart_and_gradients(library):
    held, before, after = system("hydrogens")
    shifts, expected = held.image_shifts(before), held.project(before, after).positions
    apart = after.positions.repeat(1, 2)[:, :3]
    torch.testing.assert_close(held.hold_positions(before.positions, apart, shifts), expected, rtol=0, atol=1e-12)
    leaf = after.positions.clone().requires_grad_()
    held.hold_positions(before.positions, leaf, shifts).sum().backward()
    assert leaf.grad is not None
    assert bool(torch.isfinite(leaf.grad).all())


def test_too_few_atoms_are_refused_and_not_read_past_their_end(library):
    held, before, after = system("hydrogens")
    asked = library.asked
    with pytest.raises((RuntimeError, IndexError)):
        held.hold_positions(before.positions[:5], after.positions[:5], held.image_shifts(before))
    assert library.asked == asked


def test_copies_of_constraints_have_addresses_of_their_own(library):
    held, before, after = system("bonds to frozen atoms")
    expected = held.project(before, after).positions
    copies = [copy.deepcopy(held), copy.copy(held)]
    del held
    for one in copies:
        torch.testing.assert_close(one.project(before, after).positions, expected, rtol=0, atol=0)
    assert library.asked == 3


def test_iterations_end_as_soon_as_lengths_are_right(library, monkeypatch):
    """With one iteration allowed a state that obeys is found right, another one is not."""
    held, before, after = system("hydrogens")
    monkeypatch.setattr(module, "_ITERATIONS", 1)
    shifts = held.image_shifts(before)
    assert torch.equal(held.hold_positions(before.positions, before.positions, shifts), before.positions)
    with pytest.raises(UnreachableLengthError):
        held.hold_positions(before.positions, after.positions, shifts)
