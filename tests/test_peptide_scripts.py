"""The scripts of the generative benchmark from data to judgement, on trajectories of a tenth of a nanosecond."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import MDAnalysis as mda
import numpy as np
import pytest

import fastegnn_md
from fastegnn_md.propagator.catalogue import find_model

ROOT = Path(__file__).parents[1]
NAMES = ("simulate", "data", "train", "rollout", "judge", "speed", "picture", "draws", "molecules")
PS, PARTS = 40, 3  # of a part, and parts of a run
pytestmark = [
    pytest.mark.slow,
    # MDAnalysis, of files without a box or charges, and of every DCD
    pytest.mark.filterwarnings("ignore:Found no information for attr:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unit cell dimensions not found:UserWarning"),
    pytest.mark.filterwarnings("ignore:No dimensions set for current frame:UserWarning"),
    pytest.mark.filterwarnings("ignore:1 A.3 CRYST1 record:UserWarning"),
    pytest.mark.filterwarnings("ignore:DCDReader currently makes independent timesteps:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def scripts(require):
    """Scripts by name, found as Python finds them when one is run, with small numbers."""
    for one in ("openmm", "lightning", "deeptime", "matplotlib"):
        require(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks" / "peptides")
        found = SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
        patch.setattr(found.simulate, "PART", PS)
        patch.setattr(found.simulate, "EQUILIBRATION", 1)
        patch.setattr(found.rollout, "PART", 6)
        # Samplers that must lose are held in tests/test_judging.py; of so few frames deeptime makes no model.
        patch.setattr(found.judge, "baselines", lambda *given: {})
        patch.setattr(found.speed, "ROUNDS", 1)
        patch.setattr(found.speed, "SOLVENTS", {"obc": None})
        yield found
        for name in (*NAMES, "shots"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(scripts, tmp_path_factory) -> Path:
    """Four runs of alanine dipeptide."""
    folder = tmp_path_factory.mktemp("peptides")
    for run in range(4):
        scripts.simulate.simulate(folder, "ala2", run, 1e-3 * PS * PARTS, 300)
    return folder / "ala2"


@pytest.fixture(scope="module")
def runs(scripts, data) -> Path:
    """Jumps of the model that is shipped, broken off and continued."""
    output, model = data.parent / "runs", find_model("ala2-obc-10ps")
    scripts.rollout.rollout(model, data, output, 3, 6, 300.0, mirror=False)
    before = (output / "replica-000" / "000.dcd").read_bytes()
    scripts.rollout.rollout(model, data, output, 3, 12, 300.0, mirror=False)
    assert (output / "replica-000" / "000.dcd").read_bytes() == before
    return output


def test_trajectories_are_made_in_parts_and_not_twice(scripts, data):
    files = scripts.data.parts(data, 3)
    assert [Path(file).name for file in files] == [f"{part:03d}.dcd" for part in range(PARTS)]
    universe = scripts.data.universe(data, files)
    assert len(universe.trajectory) == PS * PARTS
    assert universe.trajectory.dt == pytest.approx(1.0, rel=1e-3)
    assert len(universe.bonds) == 21
    before = [Path(file).stat().st_mtime_ns for file in files]
    scripts.simulate.simulate(data.parent, "ala2", 3, 1e-3 * PS * PARTS, 300)
    assert [Path(file).stat().st_mtime_ns for file in files] == before


def test_longer_peptides_are_built_with_all_bonds_and_one_hand(scripts, tmp_path):
    made = scripts.molecules.peptide("ala3")
    made.write(tmp_path / "ala3.pdb")
    universe = mda.Universe(str(tmp_path / "ala3.pdb"))
    assert (len(universe.atoms), len(universe.bonds)) == (42, 41)
    for residue in universe.select_atoms("resname ALA").residues:
        alpha, *others = (residue.atoms.select_atoms(f"name {name}").positions[0] for name in ("CA", "N", "C", "CB"))
        assert np.linalg.det([one - alpha for one in others]) > 1.0  # L


def test_training_takes_the_first_two_runs(scripts, data, capsys):
    output, few = data.parent / "model.safetensors", ["validate_every=2", "validation_pairs=8"]
    scripts.train.train(data, "1 ps", output, 2, few)
    model = fastegnn_md.load(output)
    assert (model.kind, model.timestep) == ("flow", pytest.approx(1.0))
    # two runs, both directions of time, the last part left out; no pair reaches from one file to the next
    pairs = 2 * 2 * (PARTS - 1) * (PS - 1)
    assert f"{pairs} pairs, 2 updates" in capsys.readouterr().out


def test_runs_are_judged_row_by_row(scripts, data, runs):
    record = json.loads((runs / "rollout.json").read_text())
    assert (record["jumps"], record["replicas"], len(record["parts"])) == (12, 3, 2)
    assert sum(part["tried"] for part in record["parts"]) == 36
    mirror = runs.with_name("mirror")
    for folder in sorted(runs.glob("replica-*")):
        frames = scripts.data.universe(data, [str(file) for file in sorted(folder.glob("*.dcd"))])
        (mirror / folder.name).mkdir(parents=True)
        with mda.Writer(str(mirror / folder.name / "000.dcd"), len(frames.atoms)) as writer:
            for _ in frames.trajectory:
                frames.atoms.positions *= (1, 1, -1)
                writer.write(frames.atoms)
    found = scripts.judge.judge(find_model("ala2-obc-10ps"), data, runs, mirror, 4, 300.0)
    rows = {row["name"]: row for row in found["rows"]}
    assert (found["replicas"], found["jumps"], found["lag_ps"]) == (3, 33, 10.0)
    assert found["reference_ns"] == found["training_ns"] == pytest.approx(2e-3 * PS * PARTS)
    assert (rows["flips"]["value"], rows["flips"]["verdict"]) == (0, "within")
    assert rows["bonds"]["verdict"] == rows["angles"]["verdict"] == "within"
    assert rows["energy"]["value"] < 15  # kJ/mol, of few frames
    assert (rows["mirror"]["value"], rows["mirror"]["verdict"]) == (0, "within")  # reflected twice
    assert "4 draws and 4 shots from each of 8 starts" in rows["shots"]["note"]
    assert rows["redraws"]["value"] <= 0.1
    json.dumps(found)


def test_draws_are_held_beside_the_data_residue_by_residue(scripts, data):
    output = data.parent / "draws.json"
    scripts.draws.draws(find_model("ala2-obc-10ps"), data, output, 70, 0)
    found = json.loads(output.read_text())
    assert (found["lag_ps"], found["draws"]) == (10.0, 70)
    assert found["stereocentre turned over"] == {"draws": [0.0], "data": [0.0]}
    assert found["a bond stretched by 0.25 Å"]["data"] == 0
    assert found["a bond stretched by 0.25 Å"]["draws"] < 0.1
    for one in found["psi turned"].values():
        assert 0.01 < one[0] < 0.6  # a quarter


def test_speed_and_picture(scripts, data, runs):
    speed = data.parent / "speed.json"
    scripts.speed.speed(find_model("ala2-obc-10ps"), data, speed, 2)
    obc = json.loads(speed.read_text())["solvents"]["obc"]
    assert obc["gain_of_one"] == pytest.approx(5000 * obc["classical_step_ms"] / obc["jump_ms"])
    assert obc["ns_per_minute_many"] == pytest.approx(600 / obc["jump_of_many_ms"])
    scripts.picture.draw(data, runs, speed, data.parent / "picture.png")
    assert (data.parent / "picture.png").stat().st_size > 10_000
