"""``fastegnn-md learn``: a run from a structure and an engine alone, continued with other settings."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from ase.build import bulk
from ase.io import read
from ase.md.velocitydistribution import thermalize_momenta
from browser import assert_looks_right

from fastegnn_md import load
from fastegnn_md.cli import main
from fastegnn_md.data import load_universe
from fastegnn_md.data.ase_files import UnfrozenFramesWarning
from fastegnn_md.integrators import LearningWarning

ROOT = Path(__file__).parents[1]
SMALL = ("--set", "hidden=8", "--set", "layers=1", "--set", "virtual_nodes=1", "--set", "cutoff=3.2")


# Models of seconds of training change the energy, and how often that is asked depends on the clock.
ROUGH = pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.AuditWarning")


@pytest.fixture
def start(tmp_path: Path) -> Path:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=0)
    atoms.write(tmp_path / "cu.traj")
    return tmp_path / "cu.traj"


def cli(capsys: pytest.CaptureFixture, *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def command(start: Path, output: Path, *more: Any) -> tuple[Any, ...]:
    bath = ("--temperature", 400, "--friction", "20/ps", "--timestep", "4 fs", "--lag", "16 fs")
    return ("learn", start, "--calculator", "emt", *bath, *SMALL, "-o", output, *more)


def test_a_run_that_never_jumped_says_what_to_change(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    code, out, _ = cli(capsys, *command(start, tmp_path / "run.traj", "--time", "0.5 ps", "--target", 0.001))
    assert code == 0
    assert "no jump yet" in out
    assert "a shorter --lag, or a larger --target" in out


@ROUGH
@pytest.mark.slow
def test_the_page_of_a_run_in_a_browser(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, _, _ = cli(capsys, *command(start, tmp_path / "run.traj", "--time", "0.8 ps", "--target", 20))
    assert code == 0
    assert_looks_right(tmp_path / "run.traj.html", tmp_path / "page")


def test_a_run_writes_its_frames_with_their_phase_a_model_and_a_page(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run.traj"
    more = ("--time", "0.8 ps", "--target", 20, "--updates", 15, "--freeze-after", "64 fs")
    code, out, err = cli(capsys, *command(start, output, *more))
    assert code == 0
    assert "frozen" in out
    assert "calls made" in out
    assert "learn: 50 of 50 steps, 100 %" in err
    frames = read(output, ":")
    phases = [frame.info["phase"] for frame in frames]
    assert len(phases) == 51
    assert phases[0] == "learning"
    assert phases[-1] == "frozen"
    assert load(tmp_path / "run.traj.safetensors").timestep == pytest.approx(0.016)
    assert "A run that learned" in (tmp_path / "run.traj.html").read_text(encoding="utf-8")
    early = sum(phase != "frozen" for phase in phases)
    with pytest.warns(UnfrozenFramesWarning, match=f"{early} of 51 frames"):
        load_universe(output)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnfrozenFramesWarning)
        late = tmp_path / "late.extxyz"
        from ase.io import write

        write(late, frames[early:])
        load_universe(late)


def test_a_run_goes_on_with_other_settings_and_says_which(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run.extxyz"
    code, *_ = cli(capsys, *command(start, output, "--time", "0.4 ps", "--target", 0.01, "--updates", 1))
    assert code == 0
    restart = tmp_path / "run.extxyz.restart"
    again = command(start, output, "--time", "0.6 ps", "--target", 0.02, "--updates", 3, "--restart", restart)
    code, _, err = cli(capsys, *again)
    assert code == 0
    assert "changed: target was 0.01, is now 0.02" in err
    assert "changed: updates was 1, is now 3" in err
    assert "thermostat" not in err
    frames = read(output, ":")
    assert len(frames) == 39  # every 16 fs from 0 to 0.608 ps
    times = np.array([frame.info["time_ps"] for frame in frames])
    np.testing.assert_allclose(np.diff(times), 0.016)
    code, _, err = cli(capsys, *again[:7], "--lag", "8 fs", *again[9:])
    assert code == 2


@pytest.mark.filterwarnings("always::fastegnn_md.integrators.LearningWarning")  # which the command prints
def test_another_engine_is_told_of_and_taken(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "run.traj"
    code, *_ = cli(capsys, *command(start, output, "--time", "0.08 ps", "--updates", 1))
    assert code == 0
    again = command(start, output, "--time", "0.16 ps", "--updates", 1, "--restart", f"{output}.restart")
    other = ["lj" if one == "emt" else one for one in again]
    code, _, err = cli(capsys, *other)
    assert code == 0
    assert "engine was EMT, is now LennardJones: the model would learn from pairs of both" in " ".join(err.split())
    assert "changed: --calculator was 'emt', is 'lj' now: the model learns from both" in err
    assert len(read(output, ":")) == 11


@pytest.mark.parametrize(("nve", "told"), [((), True), (("--nve",), False)])
def test_velocities_of_the_start_without_a_thermostat_are_told(
    nve: tuple[str, ...], told: bool, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    atoms = read(start)
    thermalize_momenta(atoms, 400, rng=np.random.default_rng(0))
    atoms.write(start)
    few = ("--calculator", "emt", "--lag", "16 fs", "--timestep", "4 fs", *SMALL, "--time", "0.032 ps")
    code, _, err = cli(capsys, "learn", start, *few, *nve, "-o", tmp_path / "run.traj")
    assert (code, "no thermostat (NVE), from the velocities of START" in err) == (0, told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--time", "1 ps"), "needs an engine"),
        (("--calculator", "emt", "--time", "1 ps"), 'give --lag "20 fs"'),
        (("--calculator", "emt", "--lag", "10 fs", "--time", "1 fs"), "shorter than a step"),
        (("--calculator", "emt", "--lag", "10 fs", "--time", "1 ps", "--nve", "--friction", "1/ps"), "--nve"),
        (("--calculator", "emt", "--lag", "10 fs", "--time", "1 ps", "--kind", "flow", "--temperature", 300), "flow"),
        (("--calculator", "emt", "--lag", "10 fs", "--time", "1 ps", "--model", "copper-emt", "--kind", "x"), "--kind"),
        (("--calculator", "emt", "--lag", "10 fs", "--time", "1 ps", "--timestep", "3 fs"), "do not add up"),
        (("--calculator", "emt", "--lag", "10 fs", "--time", "1 ps", "--temperature", 300, "--target", 0), "target"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: tuple[Any, ...], words: str
) -> None:
    if "3 fs" in change:
        change = (*change, "--temperature", 300)
    code, _, err = cli(capsys, "learn", start, "-o", tmp_path / "run.traj", *change)
    assert code == 2
    assert words in err
    assert not (tmp_path / "run.traj").exists()


def test_what_the_page_needs_is_missed_before_the_run(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, err = cli(capsys, *command(start, tmp_path / "run.traj", "--time", "0.4 ps"))
    assert code == 2
    assert "fastegnn-md[report]" in err
    assert not (tmp_path / "run.traj").exists()


def test_a_model_of_the_catalogue_may_jump_after_a_few_exams(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.08, seed=1)
    atoms.write(tmp_path / "cu.traj")
    arguments = ("--calculator", "emt", "--model", "copper-emt", "--timestep", "4 fs", "--temperature", 600)
    output = tmp_path / "run.xtc"
    code, out, _ = cli(
        capsys, "learn", tmp_path / "cu.traj", *arguments, "--updates", 0, "--time", "1.2 ps", "-o", output
    )
    assert code == 0
    assert "jumping" in out
    assert json.loads(json.dumps(load(tmp_path / "run.xtc.safetensors").metrics))["learned"]["pairs"] < 30


@ROUGH
def test_atoms_get_the_masses_of_a_model_that_knows_only_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = load("copper-emt")
    model.domain = dataclasses.replace(model.domain, masses={29: (80.0, 80.0)})
    model.save(tmp_path / "heavy.safetensors")
    (bulk("Cu", cubic=True) * (3, 3, 3)).write(tmp_path / "cu.extxyz")
    arguments = ("--calculator", "emt", "--model", tmp_path / "heavy.safetensors", "--temperature", 600)
    code, _, err = cli(
        capsys, "learn", tmp_path / "cu.extxyz", *arguments, "--time", "0.08 ps", "-o", tmp_path / "run.traj"
    )
    assert (code, "masses that the model was trained with (Cu 80 u)" in err) == (0, True)
    assert set(read(tmp_path / "run.traj").get_masses()) == {80.0}


@ROUGH
def test_the_page_runs_as_it_is_written_with_less_learning(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, start: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    smaller = (
        (r"\* \(3, 3, 3\)", "* (2, 2, 2)"),
        (r"Learning\(target=3.0\)", "Learning(target=3.0, first=4, updates=1)"),
        (r"run\(200\)", "run(20)"),
        (r"run\(500\)", "run(2)"),
        (r'"100 ps"', '"0.4 ps"'),
        (r"-o run.traj", "--updates 1 --set layers=1 -o run.traj --overwrite"),
        (r"start.traj", "cu.traj"),
    )
    code, again = pages.blocks(ROOT / "docs/learning.md", "python", smaller)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LearningWarning)
        known: dict[str, Any] = {}
        exec(code, known)
    assert "calls made" in capsys.readouterr().out
    assert load(tmp_path / "copper.safetensors").timestep == pytest.approx(0.04)
    assert "A run that learned" in (tmp_path / "run.html").read_text(encoding="utf-8")
    exec(again, known)
    assert "target was 3.0, is now 2.0" in capsys.readouterr().out
    (command_line,) = pages.blocks(ROOT / "docs/learning.md", "console", smaller)
    _, *arguments = shlex.split(command_line.replace("\\\n", " "))
    code_of, *_ = cli(capsys, *arguments)
    assert code_of == 0
