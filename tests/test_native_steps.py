"""What the C++ library does around a jump is what torch does, on inputs drawn afresh."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.integrators import GuardSettings, Langevin
from fastegnn_md.integrators import guards as guards_module
from fastegnn_md.integrators.guards import check_jump
from fastegnn_md.mechanics import motion
from fastegnn_md.mechanics.conservation import conserve_angular_momentum, conserve_momentum
from fastegnn_md.nn.native import functions
from fastegnn_md.propagator.limits import JumpLimits


@pytest.fixture
def without(cxx, monkeypatch):
    """Calls a function without the library, which is there otherwise."""
    assert functions.library() is not None

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(functions, "library", lambda: None)
            return function()

    return call


def alike(one, other, bound=1e-12):
    scale = max(1.0, float(other.abs().max()))
    torch.testing.assert_close(one, other, rtol=0, atol=bound * scale)


def batch_of(*sizes, seed=None):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    return State(
        positions=torch.from_numpy(3 * rng.normal(size=(n, 3)) + 20.0),
        velocities=torch.from_numpy(5 * rng.normal(size=(n, 3))),
        numbers=torch.full((n,), 6),
        masses=torch.from_numpy(rng.uniform(1, 16, n)),
        batch=torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
    )


STATES = {"one": [22], "many": [3, 9, 1, 2, 22, 5], "a single atom": [1]}


@pytest.mark.parametrize("sizes", STATES.values(), ids=STATES)
class TestMotion:
    def test_means(self, without, sizes):
        state = batch_of(*sizes)
        alike(
            motion.centre_of_mass(state.velocities, state),
            without(lambda: motion.centre_of_mass(state.velocities, state)),
        )

    def test_angular_momenta(self, without, sizes):
        state = batch_of(*sizes)
        alike(motion.angular_momentum(state), without(lambda: motion.angular_momentum(state)))

    def test_principal_moments_and_their_axes(self, without, sizes):
        state = batch_of(*sizes)
        moments, axes = motion.principal_moments(state)
        expected, _ = without(lambda: motion.principal_moments(state))
        alike(moments, expected)
        assert torch.equal(moments == 0, expected == 0)
        alike(axes.mT @ axes, torch.eye(3, dtype=torch.float64).expand_as(axes))
        tensor = axes @ torch.diag_embed(moments) @ axes.mT
        _, others = without(lambda: motion.principal_moments(state))
        alike(tensor, others @ torch.diag_embed(expected) @ others.mT)

    def test_rotations(self, without, sizes):
        state = batch_of(*sizes)
        angular = motion.angular_momentum(state)
        alike(
            motion.rigid_rotation(state, angular),
            without(lambda: motion.rigid_rotation(state, angular)),
        )

    def test_conservation(self, without, sizes):
        before, after = batch_of(*sizes), batch_of(*sizes)

        def conserved():
            return conserve_angular_momentum(before, conserve_momentum(before, after, 0.02))

        found, expected = conserved(), without(conserved)
        alike(found.positions, expected.positions)
        alike(found.velocities, expected.velocities, 1e-11)


@pytest.mark.parametrize("places", ["straight", "straight and tilted", "symmetric", "flat"])
def test_moments_that_vanish_or_coincide(without, places):
    x = torch.zeros(4, 3, dtype=torch.float64)
    x[:, 0] = torch.tensor([0.0, 1.1, 2.3, 3.1])
    if places == "straight and tilted":
        x = x[:, :1] * torch.tensor([[0.3, -0.8, 0.52]], dtype=torch.float64) + 7.0
    elif places == "symmetric":  # a tetrahedron
        x = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    elif places == "flat":
        x[:, 1] = torch.tensor([0.0, 1.0, -1.0, 0.5])
    state = batch_of(4).replace(positions=x)
    if places == "symmetric":
        state = State(positions=x, velocities=state.velocities, numbers=state.numbers, masses=torch.ones(4).double())
    moments, _ = motion.principal_moments(state)
    expected, _ = without(lambda: motion.principal_moments(state))
    alike(moments, expected)
    assert int((moments > 0).sum()) == int((expected > 0).sum()) == (2 if "straight" in places else 3)
    angular = motion.angular_momentum(state)
    alike(motion.rigid_rotation(state, angular), without(lambda: motion.rigid_rotation(state, angular)), 1e-10)


def test_rows_that_lie_apart_are_left_to_torch(without):
    state = batch_of(4, 7)
    apart = State(
        positions=state.positions.repeat(1, 2)[:, 3:],
        velocities=state.velocities.T.contiguous().T,
        numbers=state.numbers,
        masses=state.masses.repeat_interleave(2)[::2],
        batch=state.batch.repeat_interleave(3)[::3],
    )
    assert not any(x.is_contiguous() for x in (apart.positions, apart.velocities, apart.masses, apart.batch))
    alike(motion.angular_momentum(apart), motion.angular_momentum(state))
    alike(motion.centre_of_mass(state.velocities, apart), motion.centre_of_mass(state.velocities, state))
    together = State(
        **{n: getattr(state, n) for n in ("positions", "velocities", "numbers", "masses")}, batch=apart.batch
    )
    alike(motion.angular_momentum(together), motion.angular_momentum(state))


def test_float32_is_left_to_torch(without):
    state = batch_of(5, 4).to(dtype=torch.float32)
    found = motion.angular_momentum(state)
    assert torch.equal(found, without(lambda: motion.angular_momentum(state)))


@pytest.mark.parametrize("temperature", [0.0, 300.0])
def test_langevin_draws_the_same_numbers(without, temperature):
    state, thermostat = batch_of(22), Langevin(temperature, "10/ps")
    seed = int(np.random.default_rng().integers(2**31))

    def kicked():
        rng = np.random.default_rng(seed)
        return thermostat.refresh(state.velocities, state.masses, 0.01, rng), rng.standard_normal()

    (found, next_found), (expected, next_expected) = kicked(), without(kicked)
    alike(found, expected)
    assert next_found == next_expected
    assert not torch.equal(found, state.velocities)


def test_langevin_moves_atoms_without_mass_without_bounds_in_both(without):
    velocities, masses = torch.ones(2, 3).double(), torch.tensor([1.0, 0.0]).double()

    def kicked():
        return Langevin(300, "10/ps").refresh(velocities, masses, 0.01, np.random.default_rng(1))

    assert bool(torch.isinf(kicked()[1]).all())
    assert bool(torch.isinf(without(kicked)[1]).all())


class Counted:
    """The function of a library, and what it answered."""

    def __init__(self, function):
        self.function, self.answers = function, []

    def get(self):
        found = self.function.get()

        def call(*arguments):
            self.answers.append(bool(found(*arguments)))
            return self.answers[-1]

        return None if found is None else call


LIMITS = JumpLimits(displacement={1: 1.0, 6: 0.5}, bonds={(1, 6): (0.9, 1.3)}, speed={1: 60.0, 6: 20.0})


def jump(displaced=0.1, faster=0.0, stretched=0.0):
    numbers = torch.tensor([6, 1, 8])
    x = torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [4.0, 0, 0]]).double()
    before = State(
        positions=x,
        velocities=torch.ones(3, 3).double(),
        numbers=numbers,
        masses=torch.tensor([12.0, 1.0, 16.0]).double(),
        bonds=torch.tensor([[0, 1], [1, 2]]),
    )
    moved, v = x.clone(), torch.ones(3, 3).double()
    moved[0, 1] += displaced
    moved[1, 1] += displaced
    moved[1, 0] += stretched
    moved[2] += 50.0  # oxygen has no limits
    v[0, 2] += faster
    return before, before.replace(positions=moved, velocities=v)


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ({}, ""),
        ({"displaced": 0.76}, "displacement"),
        ({"faster": 31.0}, "speed"),
        ({"stretched": 0.45}, "bond"),
        ({"stretched": -0.4}, "bond"),
        ({"displaced": 0.76, "faster": 31.0, "stretched": 0.45}, "displacement"),
    ],
)
def test_guards_say_the_same(without, monkeypatch, change, guard):
    counted = {name: Counted(getattr(guards_module, name)) for name in ("_motion_within", "_bonds_within")}
    for name, function in counted.items():
        monkeypatch.setattr(guards_module, name, function)
    before, after = jump(**change)
    report = check_jump(before, after, LIMITS, GuardSettings())
    assert report == without(lambda: check_jump(before, after, LIMITS, GuardSettings()))
    assert report.guard == guard
    assert counted["_motion_within"].answers == [guard in ("", "bond")]
    assert counted["_bonds_within"].answers == ([not guard] if guard in ("", "bond") else [])


def test_bonds_in_columns(without):
    before, after = jump(stretched=0.45)
    columns = before.bonds.T.contiguous().T
    assert not columns.is_contiguous()
    before = dataclasses.replace(before, bonds=columns)
    report = check_jump(before, after, LIMITS)
    assert report == without(lambda: check_jump(before, after, LIMITS))
    assert report.guard == "bond"
    assert check_jump(before, before, LIMITS).ok


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("atom", [0, 2])  # with limits, and without
def test_a_state_that_was_broken_after_it_was_checked_is_refused(without, bad, atom):
    before, after = jump()
    after.positions[atom, 1] = bad
    for report in (check_jump(before, after, LIMITS), without(lambda: check_jump(before, after, LIMITS))):
        assert (report.guard, report.atom) == ("finite", atom)
