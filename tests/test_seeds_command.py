"""``fastegnn-md seeds`` on alanine dipeptide, its page, and its mistakes in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import assert_looks_right
from turning import turner

from fastegnn_md.cli import main

ROOT = Path(__file__).parents[1]
ALA2 = ROOT / "fastegnn_md" / "assets" / "ala2.pdb"
ENGINE = ["--forcefield", "amber99sbildn.xml", "--forcefield", "amber99_obc.xml", "--constraints", "HBonds"]
SHORT = ["--jumps", "10", "--replicas", "4", "--starts", "20", "--burst", "10 ps", "--interval", "0.5 ps"]
SHORT += ["--burn-in", "1 ps", "--lag", "1 ps", "--timestep", "4 fs", "--temperature", "300", "--platform", "Reference"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(require, capfd, monkeypatch) -> Cli:
    for one in ("openmm", "deeptime", "jinja2", "matplotlib"):
        require(one)
    monkeypatch.setattr("fastegnn_md.commands.seeds.open_model", lambda path: turner())

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["seeds", "flow.safetensors", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


@pytest.mark.slow
def test_a_structure_becomes_bursts_numbers_and_a_page(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    code, out, err = cli(ALA2, *ENGINE, *SHORT, "-o", folder)
    assert code == 0, err
    assert "20 bursts, 0.2 ns; populations" in out
    found = json.loads((folder / "results.json").read_text())
    shares = [one["value"] for one in found["populations"]["bursts"]]
    assert sum(shares) == pytest.approx(1.0)
    assert all(one["low"] <= one["value"] <= one["high"] for one in found["populations"]["bursts"])
    assert sum(found["populations"]["flow"]) == pytest.approx(1.0)
    assert all("φ of ALA 2" in name or "ψ of ALA 2" in name for name in found["states"])
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for words in ("The jumps do not enter these numbers", "clusters", "ns of bursts"):
        assert words in page
    made = {path: path.stat().st_mtime_ns for path in (folder / "bursts").glob("*.dcd")}
    reference = sorted(made)[0]
    code, out, err = cli(ALA2, *ENGINE, *SHORT, "--lag", "2 ps", "--reference", reference, "-o", folder)
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in (folder / "bursts").glob("*.dcd")} == made
    assert json.loads((folder / "results.json").read_text())["populations"]["reference"] is not None
    assert "reference (95 %)" in (folder / "report.html").read_text()
    assert_looks_right(folder / "report.html", tmp_path / "page")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --temperature"),
        (["--temperature", 300], "give --forcefield, --system or --calculator"),
        (["--temperature", 300, *ENGINE, "--calculator", "emt"], "exclude each other"),
        (["--temperature", 300, *ENGINE, "--starts", 3], "3 bursts are too few"),
        (["--temperature", 300, *ENGINE, "--burst", "5 ps"], "leaves 1 frames after a burn-in"),
        (["--temperature", 300, *ENGINE, "-o", ALA2], "is the same file as the input"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(cli: Cli, tmp_path: Path, monkeypatch, arguments, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(ALA2, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
