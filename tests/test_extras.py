"""What a user without an extra is told: one line with the command that brings it, by every way that needs it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fastegnn_md._extras import _BRINGS, EXTRA_OF

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]

HIDDEN = """
import sys

sys.modules.update(dict.fromkeys({components!r}))
from fastegnn_md.cli import main
sys.argv = ["fastegnn-md", *{arguments!r}]
main()
"""
CRYSTAL = "start.xyz"
# What is not installed -> a command that needs it.
COMMANDS = {
    "ase": ["run", "copper-emt", "--steps", "5", "-o", "x.xyz"],
    "openmm": ["run", "ala2-vacuum", "--forcefield", "amber14-all.xml", "--steps", "5", "-o", "x.xtc"],
    "tblite": ["run", "organic-xtb-4fs", CRYSTAL, "--calculator", "tblite", "--steps", "5", "-o", "x.xyz"],
    "lightning": ["train", CRYSTAL, "--lag", "8 fs", "-o", "x.safetensors"],
    "jinja2": ["validate", "copper-emt", "--reference", CRYSTAL, CRYSTAL],
    "deeptime": ["validate", "copper-emt", "--reference", CRYSTAL, CRYSTAL],
    "physical_validation": ["validate", "copper-emt", "--reference", CRYSTAL, CRYSTAL],
    "tidynamics": ["validate", "copper-emt", "--reference", CRYSTAL, CRYSTAL],
    "distributed": ["harvest", CRYSTAL, "--calculator", "emt", "--burst", "8 fs", "--interval", "8 fs", "--temperature",
                    "300", "--scheduler", "tcp://127.0.0.1:1", "-o", "x.h5md"],
}  # fmt: skip
# Commands that need several: what is not installed, the extras that bring it.
EMT = ["--calculator", "emt", "--temperature", "300"]
OF_SEVERAL = {
    "run with OpenMM": (["run", "ala2-vacuum", "--engine", "openmm", "--system", "x.xml", "--steps", "5",
                         "-o", "x.xtc"],
                        ["ase", "openmm"], "openmm"),
    "run with tblite": (["run", "organic-xtb-4fs", CRYSTAL, "--calculator", "tblite", "--steps", "5", "-o", "x.xyz"],
                        ["ase", "tblite"], "xtb"),
    "train on a file of ASE": (["train", "frames.traj", "--lag", "8 fs", "-o", "x.safetensors"],
                               ["ase", "lightning"], "ase,train"),
    "harvest": (["harvest", CRYSTAL, *EMT, "--scheduler", "tcp://127.0.0.1:1", "-o", "x.h5md"],
                ["ase", "distributed"], "ase,cluster"),
    "adapt": (["adapt", "organic-xtb-4fs", CRYSTAL, "--calculator", "tblite"], ["ase", "tblite"], "xtb"),
    "learn": (["learn", CRYSTAL, "--calculator", "tblite", "--time", "1 ps", "-o", "x.xyz"],
              ["ase", "jinja2", "matplotlib", "tblite"], "report,xtb"),
    "seeds": (["seeds", "copper-emt", CRYSTAL, *EMT, "-o", "x"], ["ase", "deeptime"], "ase,kinetics"),
    "validate": (["validate", "copper-emt", "--reference", CRYSTAL, CRYSTAL, "--calculator", "tblite"],
                 ["ase", "deeptime", "physical_validation", "tblite", "tidynamics"], "validate,xtb"),
    "demo": (["demo"], ["ase", "lightning", "openmm", "tblite"], "openmm,train,xtb"),
}  # fmt: skip
# ... and a call of Python, where commands reach it only after minutes or with a compiler or a GPU.
CALLS = {
    "torch_scatter": "from fastegnn_md.segments import segment_backend as s\nwith s('torch_scatter'): pass",
    "e3nn": "from fastegnn_md.models import build_model\nbuild_model('tfn', node_features=1)",
    "vesin_torch": "import torch\nfrom fastegnn_md import State\nfrom fastegnn_md.graph import NeighbourSearch\n"
    "state = State(torch.eye(3), torch.zeros(3, 3), torch.ones(3, dtype=torch.int64), torch.ones(3))\n"
    "NeighbourSearch(3.0, backend='vesin_torch')(state)",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / CRYSTAL).write_text("2\n\nH 0 0 0\nH 0 0 0.8\n", encoding="utf-8")
    return tmp_path


def without(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("component", COMMANDS)
def test_a_command_without_its_extra_ends_with_one_line_that_names_it(component, folder):
    done = without(HIDDEN.format(components=[component], arguments=COMMANDS[component]), folder)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fastegnn-md: error:")]
    assert f"pip install 'fastegnn-md[{EXTRA_OF[component]}]'" in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", OF_SEVERAL)
def test_a_command_names_all_that_is_missing_at_once(case, folder):
    arguments, components, extras = OF_SEVERAL[case]
    (folder / "frames.traj").touch()
    done = without(HIDDEN.format(components=components, arguments=arguments), folder)
    assert done.returncode == 2, done.stderr
    assert all(name in done.stderr.partition("which are")[0] for name in components), done.stderr
    assert done.stderr.rstrip().endswith(f"pip install 'fastegnn-md[{extras}]'"), done.stderr
    assert done.stderr.count("\n") == 1


def test_extras_that_bring_others_are_those_of_pyproject():
    for extra, brought in _BRINGS.items():
        (line,) = [line for line in EXTRAS[extra] if line.startswith("fastegnn-md[")]
        assert set(line.partition("[")[2].rstrip("]").split(",")) == brought


@pytest.mark.slow
@pytest.mark.parametrize("component", CALLS)
def test_a_call_without_its_extra_raises_an_error_that_says_how_to_get_it(component, folder):
    head = HIDDEN.partition("from fastegnn_md.cli")[0].format(components=[component])
    done = without(head + CALLS[component], folder)
    assert "MissingDependencyError" in done.stderr, done.stderr
    assert re.search(rf"fastegnn-md\[{EXTRA_OF[component]}\]|make install-", done.stderr.splitlines()[-1])


def test_the_page_of_the_installation_lists_the_extras_of_pyproject():
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)) == set(EXTRAS) - {"test", "dev"}


@pytest.mark.parametrize("page", PAGES)
def test_pages_ask_for_extras_that_there_are(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for names in re.findall(r"(?:fastegnn-md|\.)\[([a-z]+(?:[,-][a-z]+)*)\]", text):
        assert set(names.split(",")) <= set(EXTRAS), names
