"""What a run was like: temperatures per element, refusals, audits, and the exit code of ``run``."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111
from typer.testing import CliRunner

from fastegnn_md import State
from fastegnn_md.cli import app
from fastegnn_md.integrators import JumpStatistics
from fastegnn_md.integrators.audits import Audits
from fastegnn_md.integrators.verdict import RunVerdict, RunWatch, degrees_of_elements
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.thermal import thermal_velocities

HYDROGEN, OXYGEN = 1.008, 15.999


def gas(count=8, held=True, momentum=False):
    """Molecules OH, far from each other; bonds held or free; and what is left of their motion."""
    numbers, masses = torch.tensor([8, 1] * count), torch.tensor([OXYGEN, HYDROGEN] * count, dtype=torch.float64)
    positions = torch.zeros(2 * count, 3, dtype=torch.float64)
    positions[:, 0] = torch.arange(2 * count) // 2 * 10.0
    positions[1::2, 1] = 0.97
    bonds = torch.arange(2 * count).view(-1, 2) if held else torch.empty(0, 2, dtype=torch.int64)
    constraints = Constraints(masses, bonds, torch.full((len(bonds),), 0.97), torch.zeros(2 * count, dtype=torch.bool))
    state = State(positions=positions, velocities=torch.zeros_like(positions), numbers=numbers, masses=masses)
    return state, Freedom(constraints, momentum=momentum)


def test_a_bond_takes_a_degree_from_its_atoms_by_their_masses():
    state, freedom = gas()
    found = degrees_of_elements(state, freedom)
    share = OXYGEN / (OXYGEN + HYDROGEN)  # μ / m of the hydrogen
    assert found[1] == pytest.approx(8 * (3 - share), rel=0.01)
    assert found[8] == pytest.approx(8 * (3 - (1 - share)), rel=0.01)
    assert sum(found.values()) == pytest.approx(freedom.degrees(state))


def test_a_momentum_takes_degrees_by_mass():
    state, freedom = gas(held=False, momentum=True)
    found, total = degrees_of_elements(state, freedom), 8 * (OXYGEN + HYDROGEN)
    assert found[8] == pytest.approx(24 - 3 * 8 * OXYGEN / total, rel=0.01)
    assert sum(found.values()) == pytest.approx(45)


def watched(temperatures, frames=400, held=True, target=300.0, seed=0):
    """A run whose elements have these temperatures, in both halves."""
    state, freedom = gas(held=held)
    watch, rng = RunWatch(state, freedom, target), np.random.default_rng(seed)
    for frame in range(frames):
        velocities = torch.zeros_like(state.positions)
        half = temperatures[0] if frame < frames // 2 else temperatures[-1]
        for number, kelvin in half.items():
            thermal = freedom.project(state, thermal_velocities(state.masses, kelvin, rng))
            velocities[state.numbers == number] = thermal[state.numbers == number]
        watch.record(velocities)
    return watch


def test_a_thermal_run_is_well():
    verdict = watched([{1: 300.0, 8: 300.0}]).verdict(JumpStatistics(400, 400))
    assert verdict.warnings == []
    for half in (verdict.first, verdict.second):
        for name in ("H", "O", "all"):
            assert half[name][0] == pytest.approx(300, rel=0.06)
    assert "temperature in the first half: H " in verdict.lines[0]


@pytest.mark.parametrize(
    ("temperatures", "target", "words"),
    [
        ([{1: 240.0, 8: 360.0}], 300.0, r"elements are apart in the second half: O 3\d\d K, H 2\d\d K"),
        ([{1: 300.0, 8: 300.0}, {1: 600.0, 8: 600.0}], 300.0, r"the second half is \d+ K, 300 K asked for"),
        ([{1: 300.0, 8: 300.0}, {1: 600.0, 8: 600.0}], None, r"the second half is \d+ K, \d+ K in the first half"),
    ],
)
def test_runaway_and_elements_apart_are_told(temperatures, target, words):
    found = watched(temperatures, target=target).verdict(JumpStatistics(400, 400)).warnings
    assert any(re.search(words, one) for one in found), found


def test_a_few_frames_tell_no_temperature():
    assert watched([{1: 1200.0, 8: 10.0}], frames=20).verdict(JumpStatistics(20, 20)).warnings == []


@pytest.mark.parametrize("frames", [1, 2, 5, 20])
def test_a_few_frames_tell_a_temperature_that_is_far_too_high(frames):
    found = watched([{1: 6786.0, 8: 6786.0}], frames=frames).verdict(JumpStatistics(9, 9)).warnings
    assert len(found) == 1
    assert re.fullmatch(r"the temperature of the second half is \d+ K, 300 K asked for", found[0])


def test_a_few_cold_frames_say_nothing_as_motion_may_have_begun_in_a_minimum():
    assert watched([{1: 14.0, 8: 14.0}], frames=5).verdict(JumpStatistics(9, 9)).warnings == []


def test_without_a_thermostat_a_few_frames_tell_a_runaway_between_the_halves():
    def warnings(frames, *halves):
        return watched([{1: t, 8: t} for t in halves], frames, target=None).verdict(JumpStatistics(9, 9)).warnings

    assert re.search(r"second half is \d+ K, \d+ K in the first half", warnings(10, 300.0, 9000.0)[0])
    assert warnings(10, 300.0, 450.0) == []
    assert warnings(1, 300.0) == warnings(0, 300.0) == []


def test_a_small_molecule_may_be_hot_in_a_frame():
    value = {"all": (1800.0, math.inf)}
    assert RunVerdict(value, value, JumpStatistics(), 300.0, frames=5, degrees=3).warnings == []
    assert RunVerdict(value, value, JumpStatistics(), 300.0, frames=5, degrees=60).warnings


@pytest.mark.parametrize(
    ("tried", "redrawn", "words"),
    [
        (10, 10, r"10 redraws in 10 jumps \(100.0%; 10 by the bond guard\): more than 1% is a failure of the model"),
        (10, 3, None),  # one jump that was drawn four times
        (10, 5, "5 redraws in 10 jumps"),
        (100, 7, None),
        (100, 10, "10 redraws in 100 jumps"),
        (200, 3, r"3 redraws in 200 jumps \(1.5%"),
        (200, 2, None),
    ],
)
def test_redraws_that_are_no_chance_are_told_in_short_runs(tried, redrawn, words):
    statistics = JumpStatistics(tried, tried, redrawn={"bond": redrawn})
    found = watched([{1: 300.0, 8: 300.0}], frames=10).verdict(statistics).warnings
    assert (found == []) if words is None else re.match(words, found[0])


def test_refusals_and_audits_are_told():
    statistics, audits = JumpStatistics(100, 85, {"bond": 5, "surroundings": 10}), Audits(0.2, strikes=2)
    statistics.record_audit(1.0)
    statistics.record_audit(3.0)
    verdict = watched([{1: 300.0, 8: 300.0}]).verdict(statistics, audits)
    assert verdict.lines[1] == "audits: 2 jumps, total energy changed by 2 ± 1 kT per jump"
    assert any("15 of 100 jumps were refused, most by the surroundings guard" in one for one in verdict.warnings)
    assert any("audits were out of bounds 2 times" in one for one in verdict.warnings)


def test_heating_by_jumps_is_told_long_before_temperatures_tell_it():
    statistics = JumpStatistics(300, 300)
    for _ in range(15):
        statistics.record_audit(0.2, per_kt=0.5)
        statistics.record_audit(0.4, per_kt=0.5)
    verdict = watched([{1: 300.0, 8: 300.0}]).verdict(statistics)
    assert verdict.lines[1].endswith("per jump, which with this thermostat makes +15.0 ± 0.9 % of its temperature")
    assert any("jumps keep the system 15 % hotter than its thermostat" in one for one in verdict.warnings)
    statistics = JumpStatistics(300, 300)
    for change in (-3.0, 3.2) * 15:  # as much on average, and nothing is sure
        statistics.record_audit(change, per_kt=0.5)
    assert watched([{1: 300.0, 8: 300.0}]).verdict(statistics).warnings == []


def test_statistics_of_audits_survive_a_restart_header():
    statistics = JumpStatistics()
    assert all(math.isnan(one) for one in statistics.energy_change)
    for change in (1.0, 2.0, 6.0):
        statistics.record_audit(change)
    again = JumpStatistics(**vars(statistics))
    assert again.energy_change == (pytest.approx(3.0), pytest.approx(np.std([1, 2, 6], ddof=1) / math.sqrt(3)))


def test_not_a_number_is_no_temperature():
    value = {"all": (math.nan, math.nan)}
    assert "nan" in RunVerdict(value, value, JumpStatistics(), 300.0, frames=100).warnings[0]


@pytest.mark.filterwarnings("ignore:the box has")
@pytest.mark.parametrize(("surface", "code"), [(False, 0), (True, 3)])
def test_the_command_ends_with_its_verdict(surface, code, tmp_path):
    atoms = bulk("Cu", a=3.61, cubic=True) * 3
    if surface:
        atoms = fcc111("Cu", (3, 3, 4), a=3.61, vacuum=8)
        atoms.pbc = True
        atoms.info.clear()
    atoms.write(tmp_path / "start.extxyz")
    command = ["run", "copper-emt", str(tmp_path / "start.extxyz"), "--steps", "3", "--calculator", "emt"]
    command += ["--temperature", "600", "-o", str(tmp_path / "out.xtc")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == code, done.output
    assert "temperature in the first half: Cu " in done.output
    assert (tmp_path / "out.xtc").stat().st_size > 0
    if surface:
        assert "warning: 3 of 3 jumps were refused, most by the surroundings guard" in done.output
        assert "should not be trusted (exit code 3)" in done.output


def test_statistics_of_replicas_add_up():
    first, second = JumpStatistics(3, 2, {"bond": 1}, {"bond": 2}, 5), JumpStatistics(4, 3, {"bond": 1, "speed": 2})
    first.volume_moves, second.volume_accepted = 7, 2
    for statistics, changes in ((first, (1.0, 2.0)), (second, (6.0,))):
        for change in changes:
            statistics.record_audit(change, 0.01)
    both, alone = first + second + JumpStatistics(), JumpStatistics()
    for change in (1.0, 2.0, 6.0):
        alone.record_audit(change, 0.01)
    assert (both.tried, both.accepted, both.fallback_steps) == (7, 5, 5)
    assert (both.rejected, both.redrawn) == ({"bond": 2, "speed": 2}, {"bond": 2})
    assert (both.volume_moves, both.volume_accepted) == (7, 2)
    assert both.energy_change == alone.energy_change
    assert both.heating == alone.heating
    assert first.rejected == {"bond": 1}


def test_temperatures_of_replicas_are_those_of_the_mean():
    state, freedom = gas()
    together, (hot, cold) = RunWatch(state, freedom, 300.0), (RunWatch(state, freedom, 300.0) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(20):
        velocities = [freedom.project(state, thermal_velocities(state.masses, kelvin, rng)) for kelvin in (400, 200)]
        for watch, one in zip((hot, cold), velocities, strict=True):
            watch.record(one)
        together.record(torch.stack(velocities))
    audits = Audits(0.2, strikes=2), None, Audits(0.2, strikes=1)
    found, *parts = (watch.verdict(JumpStatistics(), *audits) for watch in (together, hot, cold))
    for name in ("H", "O", "all"):
        assert found.second[name][0] == pytest.approx(np.mean([one.second[name][0] for one in parts]))
    assert found.strikes == 3
