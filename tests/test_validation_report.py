"""From learned runs to verdicts: every check on systems whose answer is known, and what cannot be measured."""

from __future__ import annotations

import json
import re

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.errors import ConfigError, DataError
from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.units import BOLTZMANN
from fastegnn_md.validation import CHECKS, Case, Check, Report, Run, validate
from fastegnn_md.validation.checks import measure
from fastegnn_md.validation.rows import Finding

MASSES = {"H": 1.008, "C": 12.011, "O": 15.999, "Ar": 39.948}
SYMBOLS = ["C", "C", "O", "H"]
BONDS = [(0, 1), (1, 2), (2, 3)]


FLIGHT = FakePropagator(lambda state: (state.positions + 0.004 * state.velocities, state.velocities), 0.004)


def run_of(seed, *, frames=400, temperature=300.0, twist=0.0, stretch=1.0, hydrogen=1.0, moving=True, box=None):
    """A chain whose torsion flickers about 60° (plus a twist), with velocities of a temperature; O-H is rigid."""
    rng = np.random.default_rng(seed)
    torsion = np.deg2rad(60 + twist) + 0.3 * rng.standard_normal(frames)
    x = np.zeros((frames, 4, 3))
    x[:, 0] = [1.3, 0.0, -0.5]
    x[:, 2, 2] = 1.43 * stretch
    x[:, :3] += 0.04 * rng.standard_normal((frames, 3, 3))
    along = np.stack([0.9 * np.cos(torsion), 0.9 * np.sin(torsion), np.full(frames, 0.3)], axis=1)
    x[:, 3] = x[:, 2] + 0.96 * along / np.linalg.norm(along, axis=1, keepdims=True)
    masses = np.array([MASSES[symbol] for symbol in SYMBOLS])
    hot = np.where(np.array(SYMBOLS) == "H", hydrogen, 1.0) * temperature
    v = np.sqrt(BOLTZMANN * hot / masses)[:, None] * rng.standard_normal((frames, 4, 3))
    oh = x[:, 3] - x[:, 2]
    unit = oh / np.linalg.norm(oh, axis=1, keepdims=True)
    rate = ((v[:, 3] - v[:, 2]) * unit).sum(1, keepdims=True) * unit / (1 / masses[2] + 1 / masses[3])
    v[:, 3] -= rate / masses[3]
    v[:, 2] += rate / masses[2]
    universe = mda.Universe.empty(4, trajectory=True, velocities=moving)
    universe.add_TopologyAttr("elements", SYMBOLS)
    universe.add_TopologyAttr("names", SYMBOLS)
    universe.add_TopologyAttr("masses", masses)
    universe.add_TopologyAttr("bonds", BONDS)
    dimensions = None if box is None else np.tile([box, box, box, 90.0, 90.0, 90.0], (frames, 1))
    universe.load_new(x, velocities=v if moving else None, dimensions=dimensions, dt=0.004)
    return universe.atoms


def verdicts(report):
    return {row.name: row.verdict for row in report.rows}


REFERENCE, LEARNED = [1, 2, 3, 4], [11, 12, 13, 14, 15, 16]
SAMPLED = ["temperature", "equipartition", "h(r)", "vdos", "vdos-dx", "torsions"]


@pytest.fixture(scope="module")
def same():
    reference = [run_of(seed) for seed in REFERENCE]
    return validate(FLIGHT, reference, [run_of(seed) for seed in LEARNED], temperature=300.0, tica_lag=0.02)


def test_equal_ensembles_are_within_their_spread(require, same):
    for component in ("physical_validation", "deeptime"):
        require(component)
    found = verdicts(same)
    assert {name: found[name] for name in [*SAMPLED, "kinetic-energy", "tica", "constraints", "reversibility"]} == (
        dict.fromkeys([*SAMPLED, "kinetic-energy", "tica", "constraints", "reversibility"], "within")
    )


def test_every_check_has_its_row_and_what_is_not_measured_says_why(same):
    assert [row.name for row in same.rows] == [check.name for check in CHECKS]
    for row in same.rows:
        if row.verdict == "not measured":
            assert row.value is None
            assert row.note
        else:
            assert row.limit is not None
            assert row.interval is not None or row.name == "kinetic-energy"
    reasons = {row.name: row.note for row in same.rows if row.verdict == "not measured"}
    assert "--pairs" in reasons["one-step"]
    assert "isolated" in reasons["g(r)"]
    assert "isolated" in reasons["msd"]
    for name in ("drift", "ensemble", "fallback", "break-even"):
        assert "were given, not made here" in reasons[name]
    assert "φ and ψ" in reasons["torsions-joint"]


@pytest.mark.parametrize(
    ("change", "outside"),
    [
        ({"twist": 40.0}, "torsions"),
        ({"stretch": 1.05}, "h(r)"),
        ({"temperature": 360.0}, "temperature"),
        ({"hydrogen": 1.5}, "equipartition"),
        ({"temperature": 360.0}, "kinetic-energy"),
    ],
)
def test_a_changed_ensemble_is_outside(require, change, outside):
    require("physical_validation")
    reference, learned = [run_of(seed) for seed in REFERENCE], [run_of(seed, **change) for seed in LEARNED]
    only = [check for check in CHECKS if check.name == outside]
    (row,) = validate(FLIGHT, reference, learned, temperature=300.0, checks=only).rows
    assert row.verdict == "outside"
    assert (row.value > row.limit) is (outside != "kinetic-energy")


def test_a_uniform_heating_is_no_matter_of_equipartition():
    reference, learned = [run_of(seed) for seed in REFERENCE], [run_of(seed, temperature=330.0) for seed in LEARNED]
    only = [check for check in CHECKS if check.name in ("temperature", "equipartition")]
    found = validate(FLIGHT, reference, learned, checks=only)
    assert verdicts(found) == {"temperature": "outside", "equipartition": "within"}
    assert found.row("temperature").value == pytest.approx(0.1, abs=0.06)


def test_without_velocities_in_the_reference_temperatures_are_held_against_the_thermostat():
    reference = [run_of(seed, moving=False) for seed in REFERENCE]
    only = [check for check in CHECKS if check.name in ("temperature", "vdos", "equipartition")]
    for temperature, verdict in ((300.0, "within"), (345.0, "outside")):
        learned = [run_of(seed, temperature=temperature) for seed in LEARNED]
        found = validate(FLIGHT, reference, learned, temperature=300.0, checks=only)
        assert verdicts(found) == {"temperature": verdict, "equipartition": "not measured", "vdos": "not measured"}
        assert found.row("temperature").spread == ()
    (row,) = validate(FLIGHT, reference, learned, checks=only[:1]).rows
    assert "--temperature" in row.note
    (row,) = validate(FLIGHT, reference, [run_of(9, moving=False)], temperature=300.0, checks=only[:1]).rows
    assert "learned trajectories have no velocities" in row.note


def test_a_single_reference_is_cut_into_pieces_and_the_report_says_so(same):
    report = validate(
        FLIGHT,
        [run_of(1, frames=1000)],
        [run_of(10)],
        checks=[check for check in CHECKS if check.name == "temperature"],
    )
    assert len(report.row("temperature").spread) == 5
    assert any("stand for independent runs" in remark for remark in report.remarks)
    assert not any("stand for independent runs" in remark for remark in same.remarks)
    assert any("shorter than one reference run" in remark for remark in report.remarks) is False
    short = validate(
        FLIGHT,
        [run_of(1), run_of(2)],
        [run_of(10, frames=100)],
        checks=[check for check in CHECKS if check.name == "temperature"],
    )
    assert any("shorter than one reference run" in remark for remark in short.remarks)


def argon(positions, box, dt):
    n, frames = positions.shape[1], len(positions)
    universe = mda.Universe.empty(n, n_residues=n, atom_resindex=np.arange(n), trajectory=True)
    universe.add_TopologyAttr("elements", ["Ar"] * n)
    universe.add_TopologyAttr("masses", [MASSES["Ar"]] * n)
    dimensions = np.tile([box, box, box, 90.0, 90.0, 90.0], (frames, 1))
    universe.load_new(positions % box, dimensions=dimensions, dt=dt)
    return universe.atoms


def gas(seed, diffusion=0.3):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, np.sqrt(2 * diffusion * 0.1), (300, 20, 3))
    return argon(rng.uniform(0, 12, (20, 3)) + np.cumsum(steps, axis=0), 12.0, 0.1)


def crystal(seed, width=0.3):
    """A simple cubic lattice whose atoms vibrate."""
    rng = np.random.default_rng(seed)
    sites = 4.0 * np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
    return argon(sites + width * rng.standard_normal((60, 27, 3)), 12.0, 0.1)


@pytest.mark.parametrize(("diffusion", "verdict"), [(0.3, "within"), (0.6, "outside")])
def test_a_liquid_is_judged_by_its_diffusion(require, diffusion, verdict):
    require("tidynamics")
    only = [check for check in CHECKS if check.name in ("msd", "h(r)", "vdos-dx", "torsions", "constraints")]
    learned = [gas(seed, diffusion) for seed in LEARNED]
    report = validate(FLIGHT, [gas(seed) for seed in REFERENCE], learned, checks=only)
    found = verdicts(report)
    assert found.pop("msd") == verdict
    assert set(found.values()) == {"not measured"}
    assert "periodic" in report.row("h(r)").note
    assert "0.1 ps apart" in report.row("vdos-dx").note


@pytest.mark.parametrize(("width", "verdict"), [(0.3, "within"), (0.35, "outside")])
def test_a_periodic_system_is_judged_by_its_radial_distribution(width, verdict):
    only = [check for check in CHECKS if check.name == "g(r)"]
    learned = [crystal(seed, width) for seed in LEARNED]
    (row,) = validate(FLIGHT, [crystal(seed) for seed in REFERENCE], learned, checks=only).rows
    assert row.verdict == verdict
    assert row.plots[0].y_label == "g(r) of Ar-Ar"
    assert row.plots[0].x[np.argmax(row.plots[0].lines["reference"])] == pytest.approx(
        32**0.5, abs=0.2
    )  # 12 neighbours


def test_frames_of_different_spacing_are_brought_into_step():
    finer = run_of(10, frames=800)
    positions = finer.universe.trajectory.timeseries(order="fac")
    finer.universe.load_new(positions, dt=0.002)
    case = Case(FLIGHT, [Run.whole(run_of(1)), Run.whole(run_of(2))], [Run.whole(finer)])
    spacing, reference, learned = case.in_step()
    assert spacing == pytest.approx(0.004)
    assert [run.n_frames for run in (*reference, *learned)] == [400, 400, 400]
    finer.universe.load_new(positions, dt=0.003)
    case = Case(FLIGHT, [Run.whole(run_of(1)), Run.whole(run_of(2))], [Run.whole(finer)])
    with pytest.raises(DataError, match="multiple"):
        case.in_step()


def test_the_report_is_one_json_and_one_page_that_needs_nothing_else(require, same, tmp_path):
    for component in ("jinja2", "matplotlib"):
        require(component)
    data, page = same.write(tmp_path / "new folder")
    found = json.loads(data.read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rows"]] == [check.name for check in CHECKS]
    by_name = {row["name"]: row for row in found["rows"]}
    assert by_name["temperature"]["verdict"] == "within"
    assert by_name["temperature"]["interval"][0] <= by_name["temperature"]["value"]
    assert len(by_name["temperature"]["spread"]) == 4
    assert by_name["torsions"]["plots"][0]["lines"].keys() == {"reference", "learned"}
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == []
    for name, row in by_name.items():
        assert (f"<td>{name}</td>" if row["verdict"] == "not measured" else f">{name}</h2>") in text
    assert text.count("data:image/png;base64,") == sum(len(row["plots"]) for row in found["rows"])


def test_the_same_seed_gives_the_same_report(same):
    reference = [run_of(seed) for seed in REFERENCE]
    again = validate(FLIGHT, reference, [run_of(seed) for seed in LEARNED], temperature=300.0, tica_lag=0.02)
    assert again.to_dict() == same.to_dict()


def test_required_rows_fail_when_outside_or_not_measured(same):
    assert same.failed(["temperature", "torsions"]) == []
    assert [row.name for row in same.failed(["temperature", "drift"])] == ["drift"]
    with pytest.raises(ConfigError, match="expected one of one-step"):
        same.failed(["speed"])


def test_a_check_of_ones_own_is_a_function_in_a_list():
    def far(case):
        return Finding(float(len(case.learned)), 0.5, "limit: stated")

    def broken(case):
        raise DataError("no\n reason")

    case = Case(FLIGHT, [Run.whole(run_of(1)), Run.whole(run_of(2))], [Run.whole(run_of(3))])
    assert measure(case, Check("far", "Number of runs", far)).verdict == "outside"
    row = measure(case, Check("broken", "Nothing", broken))
    assert (row.verdict, row.note) == ("not measured", "no reason")


def test_a_figure_whose_interval_reaches_the_limit_says_that_it_is_not_sure():
    assert "longer learned runs" in Finding(1.2, 1.0, "limit: stated", interval=(0.9, 1.5)).row("x", "X").note
    assert Finding(1.2, 1.0, "limit: stated", interval=(1.1, 1.3)).row("x", "X").note == "limit: stated"


def test_a_value_that_is_not_finite_is_outside_and_null_in_json(tmp_path):
    row = Finding(float("nan"), 1.0, "limit: stated").row("x", "X")
    assert row.verdict == "outside"
    assert row.to_dict()["value"] is None
    json.dumps(Report("t", [row]).to_dict(), allow_nan=False)


def test_runs_of_other_atoms_and_nothing_at_all_are_refused():
    with pytest.raises(ConfigError, match="no reference"):
        validate(FLIGHT, [], [run_of(1)])
    with pytest.raises(ConfigError, match="no learned run"):
        validate(FLIGHT, [run_of(1)], [])
    with pytest.raises(ConfigError, match=r"\[3, 4\] atoms"):
        validate(FLIGHT, [run_of(1), run_of(2)], [run_of(3)[:3]])
    with pytest.raises(ConfigError, match="spread factor"):
        validate(FLIGHT, [run_of(1)], [run_of(3)], factor=0.0)
    with pytest.raises(DataError, match="give 10 or more"):
        validate(FLIGHT, [run_of(1, frames=4)], [run_of(3)])


def test_a_frame_that_is_not_finite_is_refused_by_its_number():
    damaged = run_of(1)
    damaged.universe.trajectory[7].positions[2] = np.nan
    with pytest.raises(DataError, match="frame 7"):
        validate(FLIGHT, [damaged, run_of(2)], [run_of(3)])
