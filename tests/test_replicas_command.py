"""fastegnn-md run --replicas in ASE: what it says of all of them together, and runs that would be one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md.cli import main


@pytest.fixture
def cli(capsys: pytest.CaptureFixture) -> Any:
    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["run", "copper-emt", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def copper(folder: Path, a: float = 3.61, moving: bool = False) -> Path:
    atoms = bulk("Cu", a=a, cubic=True) * 3
    if moving:
        thermalize_momenta(atoms, 600.0, rng=np.random.default_rng(0))
    atoms.write(folder / "copper.extxyz")
    return folder / "copper.extxyz"


def test_temperatures_audits_and_volumes_of_all_replicas_are_told(cli, tmp_path):
    bath = ("--temperature", 600, "--calculator", "emt", "--pressure", "1 bar")
    code, out, err = cli(
        copper(tmp_path, moving=True), *bath, "--steps", 26, "--replicas", 2, "-o", tmp_path / "o.traj"
    )
    assert code == 0, err
    assert "2 replicas: 52 jumps, 0 refused; saved" in out
    assert "\n2 changes of the volume tried, " in out  # one of each, after 25 jumps
    assert "temperature in the first half: Cu " in out
    assert "\naudits: " in out
    first, second = (read(tmp_path / f"o-0{k}.traj", ":") for k in range(2))
    assert (first[0].get_momenta() == second[0].get_momenta()).all()
    assert np.abs(first[-1].positions - second[-1].positions).max() > 0.1


def test_replicas_are_continued_as_if_they_had_not_been_stopped(cli, tmp_path):
    start, whole, parts = copper(tmp_path), tmp_path / "whole.xtc", tmp_path / "parts.xtc"
    command = (start, "--temperature", 300, "--seed", 3, "--every", 2, "--replicas", 2)
    assert cli(*command, "--steps", 9, "-o", whole)[0] == 0
    code, out, _ = cli(*command, "--steps", 5, "-o", parts)
    assert code == 0
    assert f"saved {tmp_path / 'parts-00.xtc'} to parts-01.xtc and parts.xtc.restart" in out
    with (tmp_path / "parts-01.xtc").open("ab") as file:  # what a killed run wrote after its restart file
        file.write(b"half a frame")
    restart = ("--restart", f"{parts}.restart")
    code, out, err = cli(*command, "--steps", 9, "-o", parts, *restart)
    assert code == 0, err
    assert out.startswith("2 replicas: 18 jumps, 0 refused")
    assert "\njumps and audits are those of all 9 steps; temperatures, volumes and speed those of steps 6 to 9, " in out
    assert "run: 9 of 9 steps, 100 %" in err
    for k in range(2):
        assert (tmp_path / f"parts-0{k}.xtc").read_bytes() == (tmp_path / f"whole-0{k}.xtc").read_bytes()


def test_replicas_that_fail_early_leave_the_restart_file_of_their_start(cli, tmp_path, monkeypatch):
    from fastegnn_md.integrators import LearnedEnsemble

    whole, parts, run = tmp_path / "whole.xtc", tmp_path / "parts.xtc", LearnedEnsemble.run
    command = (copper(tmp_path), "--temperature", 300, "--replicas", 2, "--steps", 5)
    calls = []

    def fails(self, steps):
        calls.append(steps)
        if len(calls) == 3:
            raise OSError("no licence")
        return run(self, steps)

    with monkeypatch.context() as patch:
        patch.setattr(LearnedEnsemble, "run", fails)
        code, _, err = cli(*command, "-o", parts)
    assert (code, "no licence" in err) == (2, True)
    assert cli(*command, "-o", parts, "--restart", f"{parts}.restart")[0] == 0
    assert cli(*command, "-o", whole)[0] == 0
    for k in range(2):
        assert (tmp_path / f"parts-0{k}.xtc").read_bytes() == (tmp_path / f"whole-0{k}.xtc").read_bytes()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (("--replicas", 2), ("--replicas", 3), "--replicas was 2 when"),
        (("--replicas", 2), (), "--replicas was 2 when"),
        ((), ("--replicas", 2), "--replicas was not given when"),
    ],
)
def test_another_number_of_replicas_is_no_continuation(before, after, words, cli, tmp_path):
    command = (copper(tmp_path), "--temperature", 300, "-o", tmp_path / "o.xtc")
    assert cli(*command, "--steps", 1, *before)[0] == 0
    written = {path: path.read_bytes() for path in tmp_path.glob("o*")}
    code, _, err = cli(*command, "--steps", 2, *after, "--restart", tmp_path / "o.xtc.restart")
    assert code == 2
    assert words in " ".join(err.split())
    assert {path: path.read_bytes() for path in tmp_path.glob("o*")} == written


def test_a_restart_file_of_replicas_says_what_it_is_to_who_asks_for_one(cli, tmp_path):
    from fastegnn_md import Propagator
    from fastegnn_md.errors import CheckpointError
    from fastegnn_md.integrators import LearnedDynamics
    from fastegnn_md.integrators.restart_file import load_replicas, load_restart, save_restart

    start = copper(tmp_path)
    assert cli(start, "--temperature", 300, "-o", tmp_path / "o.xtc", "--steps", 1, "--replicas", 2)[0] == 0
    path = tmp_path / "o.xtc.restart"
    with pytest.raises(CheckpointError, match="lacks 'nsteps'"):
        LearnedDynamics.restart(path, read(start), Propagator.load("copper-emt"))
    with pytest.raises(CheckpointError, match="has 2 replicas; expected 3"):
        load_replicas(path, 3)
    arrays, header = load_restart(path)
    save_restart(path, arrays | {"7/positions": np.zeros(3)}, header)
    with pytest.raises(CheckpointError, match="of no replica"):
        load_replicas(path, 2)


@pytest.mark.filterwarnings("ignore:the box has:fastegnn_md.integrators.home.UnlikeTrainingWarning")
def test_replicas_that_should_not_be_trusted_end_with_exit_code_3(cli, tmp_path):
    wide = copper(tmp_path, a=4.1)
    bath = ("--temperature", 600, "--calculator", "emt")
    code, _, err = cli(wide, *bath, "--steps", 1, "--replicas", 2, "-o", tmp_path / "o.traj")
    assert code == 3
    assert "2 of 2 jumps were refused" in err
    assert (tmp_path / "o-01.traj").exists()


@pytest.mark.parametrize("bath", [("--nve",), ("--nve", "--temperature", 600), ()])
def test_replicas_that_would_be_one_run_are_refused(bath, cli, tmp_path):
    code, _, err = cli(copper(tmp_path, moving=True), *bath, "--steps", 2, "--replicas", 2, "-o", tmp_path / "o.traj")
    assert code == 2
    assert "one run several times" in err
    assert not list(tmp_path.glob("o*"))


def test_replicas_without_a_thermostat_may_draw_their_velocities(cli, tmp_path):
    drawn = ("--nve", "--temperature", 600, "--steps", 1, "--replicas", 2, "-o", tmp_path / "o.traj")
    assert cli(copper(tmp_path), *drawn)[0] == 0
    first, second = (read(tmp_path / f"o-0{k}.traj", "0") for k in range(2))
    assert np.abs(first.get_momenta() - second.get_momenta()).max() > 1


def test_velocities_of_the_start_without_a_thermostat_are_told(cli, tmp_path):
    start, few = copper(tmp_path, moving=True), ("--steps", 1, "-o", tmp_path / "o.traj", "--overwrite")
    said = "no thermostat (NVE), from the velocities of START: --temperature brings one"
    assert said in cli(start, *few)[2]
    for more in (("--nve",), ("--temperature", 600)):
        assert said not in cli(start, *few, *more)[2]
