"""The script that shows everything on a GPU runs to its last line where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_all.py"
PARTS = ["tests", "jumps", "edges", "openmm", "training", "row"]


def run(output, *options):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--output", str(output), *options]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=output.parent, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text())["parts"]


@pytest.mark.slow
def test_in_small_it_runs_on_the_cpu_and_resumes(tmp_path, require):
    require("openmm")
    require("lightning")
    output = tmp_path / "all.json"
    _, parts = run(output, "--small", "--processes", "1")
    assert list(parts) == PARTS
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(PARTS, "done")
    for name in ("jumps", "edges", "openmm", "training"):
        rows = parts[name]["result"]["rows"]
        assert rows, name
        assert not [row for row in rows if "error" in row and "what" not in row], name
    assert parts["tests"]["result"]["passed"] >= 10
    assert parts["tests"]["result"]["failed"] == 0
    assert parts["row"]["result"]["updates"] >= 1
    before = output.read_text()
    printed, _ = run(output, "--small", "--resume")
    assert printed == ""
    assert output.read_text() == before


def test_without_a_gpu_every_part_says_so(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    _, parts = run(tmp_path / "all.json")
    assert list(parts) == PARTS
    assert all(part["status"].startswith("not run: torch") for part in parts.values())


def test_a_part_that_fails_leaves_the_others(tmp_path):
    """Of which each says that there was no time."""
    _, parts = run(tmp_path / "all.json", "--small", "--seconds", "6", "--parts", "jumps", "edges")
    assert list(parts) == ["jumps", "edges"]
    assert parts["jumps"]["status"].startswith(("out of time", "not run: no time left"))
    assert parts["edges"]["status"].startswith(("out of time", "not run: no time left"))
