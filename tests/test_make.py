"""The Makefile on a machine where nothing is prepared, and what a run of the tests says of what it left out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "test_one.py": """
import pytest

def test_there(): ...
def test_scatter(require): require("no_such_component")
def test_again(require): require("no_such_component")
@pytest.mark.skipif(True, reason="missing: OpenMM platform OpenCL (apt-get install opencl (or so))")
def test_opencl(): ...
@pytest.mark.skipif(True, reason="not on Mondays")
def test_otherwise(): ...
@pytest.mark.slow
def test_slow(): ...
""",
    "test_two.py": "import pytest\npytest.importorskip('openmmtorch.that_is_not_there')\n",
    "test_three.py": "import pytest\npytest.skip('elsewhere: plugin (make test-plugin)', allow_module_level=True)\n",
    "pytest.ini": "[pytest]\nmarkers = slow\n",
}


def left_out(folder: Path, *options: str) -> list[str]:
    """The last lines of a run of :data:`TESTS`, without pytest's own last one."""
    shutil.copy(ROOT / "tests/conftest.py", folder)
    for name, text in TESTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "--import-mode=importlib", *options]
    environment = {**os.environ, "CI": "", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    *_, title = (k for k, line in enumerate(done.stdout.splitlines()) if "left out, and how to get it" in line)
    return done.stdout.splitlines()[title + 1 : -1]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_what_was_left_out_is_said_at_the_end_in_a_line_each(workers, tmp_path):
    assert left_out(tmp_path, *workers) == [
        "OpenMM platform OpenCL  1 skipped  apt-get install opencl (or so)",
        "no_such_component       2 skipped",
        "openmmtorch             1 skipped  make install-openmm-torch",
        "plugin                  1 skipped  make test-plugin",
    ]


def test_slow_tests_that_were_left_out_are_said_too(tmp_path):
    assert left_out(tmp_path, "-m", "not slow", "test_one.py")[-1] == "slow tests              deselected  make test"


def prepared(folder: Path) -> Path:
    """A checkout whose environment is installed already; its Python is that of the tests."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    for stamp in ("torch", "install", "test"):
        (folder / f".venv/.stamp-{stamp}").touch()
    return folder


@pytest.mark.skipif(shutil.which("make") is None, reason="missing: make (apt-get install make)")
def test_the_installation_goes_on_where_the_cache_of_wheels_is_empty(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_HOME")}
    environment["HOME"] = str(tmp_path)
    done = subprocess.run(
        ["make", "install-test"], cwd=prepared(tmp_path), env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
