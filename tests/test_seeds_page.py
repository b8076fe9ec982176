"""The page on seeds: its command and code run as written, with smaller numbers and a stand-in for the model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from pages import blocks
from turning import turner

from fastegnn_md.cli import main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "seeds.md"
SMALLER = (
    (r"(jumps[ =])\d+", r"\g<1>10"),
    (r"(replicas[ =])\d+", r"\g<1>4"),
    (r"(starts[ =])\d+", r"\g<1>20"),
    (r'(burst[ =])"[^"]*"', r'\g<1>"10 ps"'),
    (r'(burn[-_]in[ =])"[^"]*"', r'\g<1>"1 ps"'),
    (r'(lag[ =])"[^"]*"', r'\g<1>"2 ps"'),
)


def block(language: str) -> str:
    (found,) = blocks(PAGE, language)
    for pattern, smaller in SMALLER:
        found, count = re.subn(pattern, smaller, found)
        assert count, pattern
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", ["command", "code"])
def test_the_page_is_right(way: str, require, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("openmm", "deeptime", "jinja2", "matplotlib"):
        require(one)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastegnn_md.commands.seeds.open_model", lambda path: turner())
    monkeypatch.setattr("fastegnn_md.harvest.seeding.load", lambda path: turner())
    shutil.copy(ROOT / "fastegnn_md" / "assets" / "ala2.pdb", "start.pdb")
    if way == "command":
        program, *arguments = shlex.split(block("console").replace("\\\n", " "))
        assert program == "fastegnn-md"
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    else:
        exec(compile(block("python"), str(PAGE), "exec"), {"__name__": "page"})
    folder = tmp_path / ("seeds" if way == "command" else "from-python")
    for name in ("topology.pdb", "visited.dcd", "starts.dcd", "bursts/00000.dcd", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert json.loads((folder / "results.json").read_text())["bursts"] == 20
