"""``validate`` of a stochastic map: what it samples and how fast, and what it cannot be asked."""

from __future__ import annotations

import json

import MDAnalysis as mda
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
    picture = rows["time-scales"]["plots"][0]
    assert picture["points"][:3] == [TAU, 2 * TAU, 3 * TAU]
    for label in ("reference", "learned"):
        (low, high), line = picture["bands"][label], picture["lines"][label]
        assert all(a < b < c for a, b, c in zip(low, line, high, strict=True))
        assert line[0] == pytest.approx(well.timescale(), rel=0.35)
    assert "time scale 1 / ps against lag / ps: reference, learned" in html


def test_independent_draws_and_a_mirrored_frame_are_outside(well, require):
    require("deeptime")
    report = judged(well, well.draw((8, 701), np.random.default_rng(6)), mirrored=True)
    verdicts = {name: report.row(name).verdict for name in SAMPLED}
    assert verdicts["time-scales"] == verdicts["transitions"] == verdicts["chirality"] == "outside"
    assert verdicts["bonds"] == "within"
    assert report.row("chirality").value == 1


def turning_chain(x: np.ndarray) -> mda.Universe:
    """Four carbons of which the torsion follows the place in a double well: about -90 and 90 degrees."""
    angle = np.radians(90 * x)
    ends = np.stack([1.5 * np.sin(angle), 0.5 + 0 * x, 1.5 * np.cos(angle)], axis=-1)
    frames = np.zeros((len(x), 4, 3))
    frames[:, 0], frames[:, 2] = (0.0, -0.5, 1.5), (0.0, 1.5, 0.0)
    frames[:, 3] = ends + np.array([0.0, 1.5, 0.0])
    universe = mda.Universe.empty(4, trajectory=True)
    for key, value in (("elements", "C"), ("types", "C"), ("names", "C"), ("masses", 12.011)):
        universe.add_TopologyAttr(key, [value] * 4)
    universe.add_TopologyAttr("bonds", [(0, 1), (1, 2), (2, 3)])
    universe.load_new(frames.astype(np.float32), dt=TAU)
    return universe


def test_a_molecule_without_a_backbone_is_judged_by_basins_of_its_own(well, require):
    require("deeptime")
    names = ("populations", "map", "transitions", "time-scales", "detailed-balance")
    chosen = [check for check in CHECKS if check.name in names]
    never = FakePropagator(lambda state: state, TAU, kind="flow")
    reference = [turning_chain(one).atoms for one in well.x[well.trajectories(8, 700, TAU, np.random.default_rng(5))]]
    again = well.trajectories(8, 700, TAU, np.random.default_rng(6))
    report = validate(never, reference, [turning_chain(one).atoms for one in well.x[again]], checks=chosen)
    for name in ("populations", "transitions", "time-scales", "detailed-balance"):
        assert report.row(name).verdict == "within", report.to_text()
    assert "see the row torsions" in report.row("map").note
    table = report.row("populations").tables[0].rows
    left = well.p[well.x < 0].sum()
    assert [row[0] for row in table] == ["torsions set 1", "torsions set 2"]
    assert table[0][3] == pytest.approx(max(left, 1 - left), abs=4 * table[0][4])
    drawn = well.draw((8, 701), np.random.default_rng(6))
    report = validate(never, reference, [turning_chain(one).atoms for one in well.x[drawn]], checks=chosen)
    assert report.row("transitions").verdict == report.row("time-scales").verdict == "outside"
    assert report.row("populations").verdict == "within"


def test_energies_of_drawn_frames_are_held_against_those_of_the_reference(well, require):
    require("ase")
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    class Springs(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=None, system_changes=None):
            super().calculate(atoms, properties, system_changes)
            self.results = {"energy": 0.02 * float((atoms.positions**2).sum()), "forces": -0.04 * atoms.positions}

    runs = [
        [turning_chain(one) for one in well.x[well.trajectories(4, 150, TAU, rng)]]
        for rng in map(np.random.default_rng, (5, 6))
    ]
    atoms, chosen = Atoms("C4", calculator=Springs()), [check for check in CHECKS if check.name == "energy"]

    def judged_energy(kind: str, engine: Atoms | None):
        never = FakePropagator(lambda state: state, TAU, kind=kind)
        reference, learned = ([one.atoms for one in some] for some in runs)
        return validate(never, reference, learned, atoms=engine, checks=chosen).row("energy")

    row = judged_energy("flow", atoms)
    assert row.verdict == "within"
    assert row.value < 0.1
    assert "no engine" in judged_energy("flow", None).note
    assert "a row for draws" in judged_energy("force-free", atoms).note
    for one in runs[1]:
        one.trajectory.coordinate_array[...] *= 1.3
    row = judged_energy("flow", atoms)
    squares = [np.mean([(one.trajectory.coordinate_array**2).sum() / 151 for one in some]) for some in runs]
    assert row.value == pytest.approx(96.485 * 0.02 * (squares[1] - squares[0]), rel=1e-3)
    assert row.verdict == "outside"
