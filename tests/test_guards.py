"""Guards, and the ranges of training they hold a jump against."""

from __future__ import annotations

import json
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from fastegnn_md.errors import (
    CheckpointError,
    ConfigError,
    ConstraintError,
    DataError,
    JumpError,
    NotFiniteError,
    StateError,
)
from fastegnn_md.integrators.guards import GuardReport, GuardSettings, check_finite, check_jump, report_of_error
from fastegnn_md.mechanics.constraints import UnreachableLengthError
from fastegnn_md.propagator.limits import JumpLimits, bond_vectors
from fastegnn_md.state import State

LIMITS = JumpLimits(displacement={1: 0.4, 8: 0.2}, bonds={(1, 8): (0.9, 1.1)}, speed={1: 50.0, 8: 20.0})
EXACT = GuardSettings(displacement_factor=1.0, bond_margin=0.0)


def water(cell: float | None = None, systems: int = 1) -> State:
    """H2O with O-H bonds of 1 Å, at rest."""
    one = State(
        positions=torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]).double(),
        velocities=torch.zeros(3, 3).double(),
        numbers=torch.tensor([8, 1, 1]),
        masses=torch.tensor([16.0, 1, 1]).double(),
        cell=None if cell is None else cell * torch.eye(3).double()[None],
        bonds=torch.tensor([[0, 1], [0, 2]]),
    )
    return one if systems == 1 else State.concatenate([one] * systems)


def moved(state: State, atom: int, by, speed: float = 0.0) -> State:
    positions, velocities = state.positions.clone(), state.velocities.clone()
    positions[atom] += torch.tensor(by).double()
    velocities[atom, 0] = speed
    return state.replace(positions=positions, velocities=velocities)


def test_a_jump_within_the_ranges_passes():
    state = water()
    report = check_jump(state, moved(state, 1, [0.05, 0.2, 0], speed=49.0), LIMITS, EXACT)
    assert report.ok
    assert report.guard == ""
    assert report.atom is None


@pytest.mark.parametrize(
    ("atom", "by", "speed", "guard", "words"),
    [
        (0, [0, 0, 0.21], 0, "displacement", "would move 0.21 Å, limit 0.2 Å"),
        (2, [0, 0, 0.41], 0, "displacement", "would move 0.41 Å, limit 0.4 Å"),
        (1, [0, 0, 0], 51.0, "speed", "would have the speed 51 Å/ps, limit 50 Å/ps"),
        (1, [0.15, 0, 0], 0, "bond", "its bond to atom 0 would be 1.150 Å long, limits 0.900 to 1.100 Å"),
        (2, [0, -0.15, 0], 0, "bond", "its bond to atom 0 would be 0.850 Å long, limits 0.900 to 1.100 Å"),
    ],
)
def test_each_guard_names_the_atom_the_value_and_the_limit(atom, by, speed, guard, words):
    state = water(systems=3)
    report = check_jump(state, moved(state, atom + 3, by, speed), LIMITS, EXACT)
    assert not report.ok
    assert report.guard == guard
    assert report.atom == atom + 3
    assert report.message == words.replace("atom 0", "atom 3")


def test_margins_widen_the_ranges():
    state = water()
    wide = GuardSettings(displacement_factor=2.0, bond_margin=0.2)
    assert check_jump(state, moved(state, 1, [0.21, 0, 0], 99), LIMITS, wide).ok
    assert check_jump(state, moved(state, 1, [0.33, 0, 0]), LIMITS, wide).guard == "bond"
    assert check_jump(state, moved(state, 1, [0, 0, 0.81]), LIMITS, wide).guard == "displacement"
    assert check_jump(state, moved(state, 1, [0, 0, 0.1], 101), LIMITS, wide).guard == "speed"


def test_the_atom_furthest_outside_is_named():
    state = water()
    report = check_jump(state, moved(moved(state, 0, [0, 0, 0.25]), 1, [0, 0, 1.2]), LIMITS, EXACT)
    assert report.atom == 1  # three times its limit, against 1.25 times


def test_unknown_elements_kinds_of_bond_and_absent_limits_are_not_checked():
    state = water()
    wild = moved(state, 1, [3.0, 0, 0], speed=1e4)
    assert check_jump(state, wild, JumpLimits({})).ok
    assert check_jump(state, wild, JumpLimits({8: 0.1, 6: 0.1}, {(6, 8): (1.2, 1.5), (1, 6): (1.0, 1.1)})).ok
    assert check_jump(state.replace(bonds=None), wild, JumpLimits({}, LIMITS.bonds)).ok


def test_an_element_that_never_moved_in_training_may_not_move():
    state = water()
    limits = JumpLimits({8: 0.0, 1: 0.4})
    assert check_jump(state, state, limits).ok
    assert check_jump(state, moved(state, 0, [0, 0, 1e-3]), limits).atom == 0


@pytest.mark.parametrize("image", [[5.0, 0, 0], [-10.0, 5.0, 15.0]])
def test_a_bond_across_the_border_is_measured_by_the_image_of_before(image):
    state = moved(water(cell=5.0), 1, image)
    torch.testing.assert_close(bond_vectors(state), bond_vectors(water()))
    only_bonds = JumpLimits({}, LIMITS.bonds)
    assert check_jump(state, moved(state, 1, [0.05, 0, 0]), only_bonds, EXACT).ok
    assert check_jump(state, moved(state, 1, [0.2, 0, 0]), only_bonds, EXACT).guard == "bond"
    # A hydrogen that flies by a whole cell has not kept its bond, although its nearest image has.
    assert check_jump(state, moved(state, 1, [5.0, 0, 0]), only_bonds, EXACT).guard == "bond"


def test_what_is_not_finite_is_named():
    x = torch.zeros(4, 3)
    assert check_finite(x, x).ok
    broken = x.clone()
    broken[2, 1] = torch.inf
    assert check_finite(broken, x).atom == 2
    report = check_finite(x, broken * 0)
    assert (report.guard, report.atom, report.message) == ("finite", 2, "its predicted velocity is not finite")


def test_errors_of_a_prediction_become_reports():
    state = water()
    with pytest.raises(StateError) as caught:
        state.replace(velocities=torch.tensor([[0.0] * 3, [0.0] * 3, [torch.nan] * 3]).double())
    report = report_of_error(caught.value)
    assert (report.ok, report.guard, report.atom) == (False, "finite", 2)
    assert report.message == "its predicted velocities are not finite"
    assert report_of_error(StateError("something else")) == GuardReport(False, "finite", None, "something else")
    with pytest.raises(NotFiniteError) as caught:
        state.replace(cell=torch.full((1, 3, 3), torch.nan).double())
    assert report_of_error(caught.value).atom is None, "a cell is not of an atom"
    assert report_of_error(UnreachableLengthError("too far", (4, 5))).atom == 4
    assert report_of_error(ConstraintError("no")).guard == "constraints"


def test_a_report_does_not_hang_on_the_wording_of_an_error():
    report = report_of_error(NotFiniteError("whatever is written here", "positions", 3))
    assert (report.guard, report.atom, report.message) == ("finite", 3, "its predicted positions are not finite")
    wording = "positions has a NaN or infinite value at index 2; check the input of that atom"
    assert report_of_error(StateError(wording)).atom is None


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (NotFiniteError("no number", "velocities", 3), {"field": "velocities", "atom": 3}),
        (UnreachableLengthError("too far", (4, 5)), {"atoms": (4, 5)}),
        (JumpError("refused", 6), {"atom": 6}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_reach_other_processes_with_what_they_carry(error, attributes):
    sent = ForkingPickler.loads(bytes(ForkingPickler.dumps(error)))
    assert type(sent) is type(error)
    assert str(sent) == str(error)
    assert {name: getattr(sent, name) for name in attributes} == attributes


@pytest.mark.parametrize(("factor", "margin"), [(0.0, 0.1), (float("nan"), 0.1), (1.5, -0.1), (1.5, 1.0)])
def test_settings_out_of_range(factor, margin):
    with pytest.raises(ConfigError, match="expected"):
        GuardSettings(factor, margin)


class TestLimits:
    def test_are_measured_on_both_ends_of_training_pairs(self):
        start = water(systems=2)
        end = moved(moved(start, 1, [0.1, 0, 0], speed=3.0), 5, [0, -0.2, 0])
        start = moved(start, 3, [0, 0, 0], speed=-7.0)
        limits = JumpLimits.from_pairs(start, end)
        assert limits.displacement == pytest.approx({1: 0.2, 8: 0.0})
        assert limits.speed == pytest.approx({1: 3.0, 8: 7.0})
        assert limits.bonds[1, 8] == pytest.approx((0.8, 1.1))
        with pytest.raises(DataError, match="6 atoms and end has 3"):
            JumpLimits.from_pairs(start, water())

    def test_without_bonds_and_velocities(self):
        state = water().replace(bonds=None)
        limits = JumpLimits.from_pairs(state, moved(state, 0, [0.3, 0, 0]))
        assert limits.bonds == {}
        assert limits.speed == {}

    def test_survive_json_bit_for_bit(self):
        limits = JumpLimits({1: 0.1 + 0.2, 26: 1e-17}, {(1, 1): (0.7, 0.8), (1, 8): (1 / 3, 2 / 3)}, {1: 1e3})
        assert JumpLimits.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits
        assert JumpLimits.from_dict({"displacement": [], "bonds": []}) == JumpLimits({})

    @pytest.mark.parametrize(
        "plain",
        [
            {},
            [],
            {"displacement": [[1, "far"]], "bonds": []},
            {"displacement": [[1]], "bonds": []},
            {"displacement": [], "bonds": [[1, 8, 1.0]]},
            {"displacement": [], "bonds": [[8, 1, 1.0, 1.1]]},
            {"displacement": [[1, float("nan")]], "bonds": []},
            {"displacement": [], "bonds": [], "angles": []},
        ],
    )
    def test_damaged_ones_are_refused(self, plain):
        with pytest.raises(CheckpointError, match="limits of a jump"):
            JumpLimits.from_dict(plain)

    @pytest.mark.parametrize(
        ("displacement", "bonds"),
        [({1: -0.1}, {}), ({1: float("inf")}, {}), ({}, {(8, 1): (1.0, 1.1)}), ({}, {(1, 8): (1.1, 1.0)})],
    )
    def test_impossible_ones_are_refused(self, displacement, bonds):
        with pytest.raises(DataError, match="expected"):
            JumpLimits(displacement, bonds)
