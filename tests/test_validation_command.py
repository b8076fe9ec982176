"""``fastegnn-md validate`` from files to exit codes, on carbon monoxide with the potential of EMT."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastegnn_md.cli import main
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.training.start import untrained_propagator

Cli = Callable[..., tuple[int, str, str]]
ENGINE = ["--calculator", "emt"]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], require: Any) -> Cli:
    for component in ("ase", "deeptime", "tidynamics", "jinja2", "matplotlib", "physical_validation"):
        require(component)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


def write_molecule(path: Path, length: float, seed: int) -> Path:
    """Carbon monoxide in many orientations."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(60):
        axis = rng.standard_normal(3)
        axis *= rng.normal(length, 0.02) / np.linalg.norm(axis) / 2
        rows = ("{} {:.6f} {:.6f} {:.6f}".format(name, *place) for name, place in (("C", axis), ("O", -axis)))
        lines += ["2", "carbon monoxide", *rows]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(require: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three reference runs, pairs, a propagator without training and one that is force-informed."""
    require("ase")
    from ase.calculators.emt import EMT

    path = tmp_path_factory.mktemp("co")
    for k in range(3):
        write_molecule(path / f"ref{k}.xyz", 1.15, k)
    store = path / "bursts.h5md"
    universe = load_universe(path / "ref0.xyz")
    harvest(
        universe, EMT, store=store, burst="6 fs", interval="3 fs", timestep="0.25 fs", temperature=300, progress=False
    )
    pairs = TrajectoryPairs(store, lag="3 fs", progress=False)
    for name, kind in (("model", "force-free"), ("informed", "force-start")):
        config = PropagatorConfig(kind=kind, hidden=8, layers=1)
        untrained_propagator(pairs, config).save(path / f"{name}.safetensors")
    return path


def reference(folder: Path) -> list[object]:
    return ["--reference", folder / "ref0.xyz", *(folder / f"ref{k}.xyz" for k in range(3)), "--dt", "1 fs"]


def rows(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((path / "report.json").read_text(encoding="utf-8"))["rows"]}


@pytest.fixture(scope="module")
def judged(folder: Path, tmp_path_factory: pytest.TempPathFactory, require: Any) -> Path:
    """Output of a run that makes its roll-outs."""
    for component in ("ase", "deeptime", "tidynamics", "jinja2", "matplotlib", "physical_validation"):
        require(component)
    output = tmp_path_factory.mktemp("judged")
    arguments = [folder / "model.safetensors", *reference(folder), *ENGINE, "--temperature", 300, "--runs", 2]
    options = ["--steps", 60, "--second-temperature", 360, "--pairs", folder / "bursts.h5md", "--no-progress"]
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in ["validate", *arguments, *options, "-o", output]])
    assert caught.value.code == 0
    return output


def test_a_run_leaves_a_report_and_trajectories_with_velocities(folder: Path, judged: Path) -> None:
    assert (judged / "report.html").stat().st_size > 0
    for name in ("learned-0", "learned-1", "learned-nve", "learned-360K"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MDAnalysis, on offsets it makes anew
            written = load_universe(folder / "ref0.xyz", judged / f"{name}.trr")
            assert len(written.trajectory) == 61
            assert written.trajectory[60].has_velocities
            assert written.trajectory[60].time == pytest.approx(0.18, rel=1e-4)


def test_a_report_says_that_velocities_were_scaled(cli: Cli, folder: Path, judged: Path, tmp_path: Path) -> None:
    call = [folder / "model.safetensors", *reference(folder), *ENGINE, "--temperature", 300, "--runs", 2]
    options = ["--steps", 60, "--conserve-energy", "--no-progress"]
    code, _, err = cli("validate", *call, *options, "-o", tmp_path)
    assert code == 0, err
    assert rows(tmp_path)["drift"]["value"] != rows(judged)["drift"]["value"]
    remarks = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["remarks"]
    assert any("Velocities were scaled" in remark for remark in remarks)


def test_every_row_is_measured_or_says_why(judged: Path) -> None:
    found = rows(judged)
    measured = {name for name, row in found.items() if row["verdict"] != "not measured"}
    assert measured >= {"one-step", "temperature", "kinetic-energy", "drift", "h(r)", "reversibility", "fallback"}
    assert "break-even" in measured
    assert all(row["note"] for name, row in found.items() if name not in measured)
    assert "no bond between heavy atoms" in found["torsions"]["note"]
    assert "--tica" in found["tica"]["note"]
    assert "velocities" in found["vdos"]["note"]
    table = found["one-step"]["tables"][0]
    assert [row[0] for row in table["rows"]] == ["learned", "zero motion", "free flight", "best linear"]
    assert found["one-step"]["interval"][0] <= found["one-step"]["value"] <= found["one-step"]["interval"][1]
    assert "pairs of its training" in found["one-step"]["note"]
    runs = [row[0] for row in found["fallback"]["tables"][0]["rows"]]
    assert runs == ["learned-0.trr", "learned-1.trr", "learned-nve.trr", "learned-360K.trr"]
    prices = [row[1] for row in found["break-even"]["tables"][0]["rows"]]
    assert prices[2] == pytest.approx(3 * prices[1])
    assert prices[3] == pytest.approx(prices[0] / prices[2]) == found["break-even"]["value"]


def test_the_same_seed_gives_the_same_dynamics(cli: Cli, folder: Path, judged: Path, tmp_path: Path) -> None:
    arguments = [folder / "model.safetensors", *reference(folder), *ENGINE, "--temperature", 300, "--runs", 1]
    code, _, err = cli("validate", *arguments, "--steps", 60, "--nve-steps", 0, "--no-progress", "-o", tmp_path)
    assert code == 0, err
    assert (tmp_path / "learned-0.trr").read_bytes() == (judged / "learned-0.trr").read_bytes()
    assert "no NVE roll-out was asked for" in rows(tmp_path)["drift"]["note"]


@pytest.mark.parametrize(
    ("length", "names", "code"),
    [
        (1.15, "h(r)", 0),
        (1.25, "h(r)", 1),
        (1.15, "h(r),torsions", 1),
    ],
    ids=["within", "outside", "not measured"],
)
def test_required_rows_make_the_exit_code(
    cli: Cli, folder: Path, tmp_path: Path, length: float, names: str, code: int
) -> None:
    learned = [part for k in (7, 8) for part in ("--learned", write_molecule(tmp_path / f"{k}.xyz", length, k))]
    arguments = [folder / "model.safetensors", *reference(folder), *learned, "--no-progress", "-o", tmp_path / "out"]
    assert cli("validate", *arguments)[0] == 0
    given, out, err = cli("validate", *arguments, "--overwrite", "--require", names)
    assert given == code
    assert ("required and not within" in err) is (code == 1)
    assert "h(r)" in out
    assert "given, not made here" in rows(tmp_path / "out")["fallback"]["note"]


def test_without_an_engine_what_needs_one_is_not_measured(cli: Cli, folder: Path, tmp_path: Path) -> None:
    arguments = [folder / "model.safetensors", *reference(folder), "--temperature", 300, "--runs", 1, "--steps", 20]
    code, _, err = cli("validate", *arguments, "--no-progress", "-o", tmp_path, "--require", "drift")
    assert code == 1
    assert "drift" in err
    found = rows(tmp_path)
    for name in ("drift", "break-even"):
        assert "--calculator" in found[name]["note"]
    assert found["one-step"]["verdict"] == "not measured"  # the reference has no velocities to start from


def test_mistakes_end_with_one_line(cli: Cli, folder: Path, judged: Path, tmp_path: Path) -> None:
    def message(*arguments: object) -> str:
        code, _, err = cli("validate", *arguments, "--no-progress", "-o", tmp_path / "out")
        assert code == 2, err
        (line,) = (line for line in err.splitlines() if "has no bonds" not in line)
        return line.removeprefix("fastegnn-md: error: ")

    model = folder / "model.safetensors"
    assert "force-informed" in message(folder / "informed.safetensors", *reference(folder), "--temperature", 300)
    assert "expected some of one-step" in message(model, *reference(folder), "--require", "speed")
    assert "no velocities" in message(model, *reference(folder))
    assert "absent.xyz" in message(model, "--reference", folder / "ref0.xyz", folder / "absent.xyz")
    assert "--reference" in message(model)
    assert "no unit" in message(model, *reference(folder), "--timestep", "2")
    learned = ["--learned", folder / "ref1.xyz"]
    for given in ([], [*ENGINE, *learned]):
        assert "--conserve-energy is of roll-outs" in message(model, *reference(folder), "--conserve-energy", *given)
    truncated = tmp_path / "truncated.xyz"
    text = (folder / "ref0.xyz").read_text().splitlines()
    text[4 * 30 + 2] = "C nan nan nan"
    truncated.write_text("\n".join(text) + "\n")
    damaged = ["--reference", folder / "ref0.xyz", truncated, folder / "ref1.xyz", "--dt", "1 fs"]
    for given in (learned, ["--temperature", 300]):
        assert "frame 30: positions of atom 0" in message(model, *damaged, *given)
    assert not (tmp_path / "out").exists()
    cut = tmp_path / "cut.trr"
    cut.write_bytes((judged / "learned-0.trr").read_bytes()[:-40])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDAnalysis, on offsets it makes anew
        assert "damaged" in message(model, "--reference", folder / "ref0.xyz", cut, *learned)


def test_a_committee_is_held_against_its_spread(cli: Cli, folder: Path, judged: Path, tmp_path: Path) -> None:
    assert "--committee" in rows(judged)["calibration"]["note"]
    pairs = TrajectoryPairs(folder / "bursts.h5md", lag="3 fs", progress=False)
    other = untrained_propagator(pairs, PropagatorConfig(hidden=8, layers=1), seed=1)
    other.save(tmp_path / "other.safetensors")
    arguments = [folder / "model.safetensors", *reference(folder), *ENGINE, "--temperature", 300, "--runs", 1]
    options = ["--committee", tmp_path / "other.safetensors", "--pairs", folder / "bursts.h5md", "--steps", 20]
    code, _, err = cli("validate", *arguments, *options, "--nve-steps", 0, "--no-progress", "-o", tmp_path)
    assert code == 0, err
    row = rows(tmp_path)["calibration"]
    table = {line[0]: line[1:] for line in row["tables"][0]["rows"]}
    assert row["value"] == pytest.approx(max(table["x"][0], table["v"][0]))
    assert row["verdict"] == ("within" if row["value"] <= 2 else "outside")
