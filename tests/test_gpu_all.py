"""The script that shows everything on a GPU runs to its last line where there is none."""

from __future__ import annotations

import importlib
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


def test_no_part_begins_without_time(tmp_path):
    _, parts = run(tmp_path / "all.json", "--small", "--seconds", "4", "--parts", "jumps", "edges")
    assert [part["status"] for part in parts.values()] == ["not run: no time left"] * 2


def test_parts_that_fail_or_take_too_long_leave_the_others(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.delitem(sys.modules, "gpu_all", raising=False)
    script = importlib.import_module("gpu_all")
    monkeypatch.setitem(sys.modules, "gpu_all", script)

    def part(name, share, code):
        return script.Part(name, share, [sys.executable, "-c", "import sys, time\n" + code, "{out}"])

    parts = [
        part("broken", 0.6, "raise ValueError('no such thing')"),
        part("endless", 0.02, "open(sys.argv[1], 'w').write('[1]'); print('half', flush=True); time.sleep(600)"),
        part("fine", 0.38, "open(sys.argv[1], 'w').write('[2]')"),
    ]
    monkeypatch.setattr(script, "parts_of", lambda arguments, scratch: parts)
    output = tmp_path / "all.json"
    monkeypatch.setattr(sys, "argv", ["gpu_all.py", "--small", "--seconds", "200", "--output", str(output)])
    script.main()
    found = json.loads(output.read_text())["parts"]
    assert list(found) == ["broken", "endless", "fine"]
    assert found["broken"]["status"] == "failed, exit code 1"
    assert found["broken"]["last lines"] == ["ValueError: no such thing"]
    assert found["endless"]["status"].startswith("out of time after")
    assert found["endless"]["seconds"] < 60
    assert (found["endless"]["last lines"], found["endless"]["result"]) == (["half"], [1])
    assert (found["fine"]["status"], found["fine"]["result"]) == ("done", [2])
