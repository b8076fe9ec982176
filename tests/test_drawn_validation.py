"""``validate`` of a stochastic map: what it samples and how fast, and what it cannot be asked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from known_processes import DoubleWell
from turning_peptide import TAU, of_well

from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.validation import CHECKS, Report, validate
from fastegnn_md.validation.drawn_rows import SENSELESS

SAMPLED = ("populations", "map", "transitions", "time-scales", "detailed-balance", "chirality", "bonds")


@pytest.fixture(scope="module")
def well() -> DoubleWell:
    return DoubleWell()


def judged(well: DoubleWell, points: np.ndarray, mirrored: bool = False) -> Report:
    """A report of chains of grid points beside exact ones, of a map that says it is one of kind "flow"."""
    reference = [of_well(one).atoms for one in well.x[well.trajectories(8, 700, TAU, np.random.default_rng(5))]]
    learned = [of_well(one).atoms for one in well.x[points]]
    if mirrored:
        learned[0].universe.trajectory.coordinate_array[300:, :, 0] *= -1
    chosen = [check for check in CHECKS if check.name in (*SAMPLED, *SENSELESS)]
    never = FakePropagator(lambda state: state, TAU, kind="flow")
    return validate(never, reference, learned, temperature=300, checks=chosen)


def test_the_same_process_is_within_and_what_makes_no_sense_is_left_out_with_a_word(well, require, tmp_path):
    for component in ("deeptime", "jinja2", "matplotlib"):
        require(component)
    report = judged(well, well.trajectories(8, 700, TAU, np.random.default_rng(6)))
    for name in SAMPLED:
        assert report.row(name).verdict == "within", report.to_text()
    for name, reason in SENSELESS.items():
        assert report.row(name).verdict == "not measured"
        assert report.row(name).note == reason
    data, page = report.write(tmp_path)
    html = page.read_text(encoding="utf-8")
    assert "free energy, kT, ψ, degrees and φ of ALA 2, degrees: reference, learned" in html
    rows = {row["name"]: row for row in json.loads(data.read_text(encoding="utf-8"))["rows"]}
    matrix = np.array(rows["transitions"]["plots"][0]["panels"]["learned"], dtype=float)
    np.testing.assert_allclose(np.nansum(matrix, axis=1)[~np.isnan(matrix).all(axis=1)], 1, atol=1e-3)
    assert "(" in rows["time-scales"]["tables"][0]["rows"][0][2]  # an interval


def test_independent_draws_and_a_mirrored_frame_are_outside(well, require):
    require("deeptime")
    report = judged(well, well.draw((8, 701), np.random.default_rng(6)), mirrored=True)
    verdicts = {name: report.row(name).verdict for name in SAMPLED}
    assert verdicts["time-scales"] == verdicts["transitions"] == verdicts["chirality"] == "outside"
    assert verdicts["bonds"] == "within"
    assert report.row("chirality").value == 1
