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
