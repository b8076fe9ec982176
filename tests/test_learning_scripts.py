"""The scripts of ``benchmarks/learning``, one after the other on copper, whose engine costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "learning"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", str(SCRIPTS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.mark.slow
def test_a_case_is_learned_judged_and_accounted_for(require, tmp_path):
    for component in ("ase", "lightning", "tidynamics", "matplotlib"):
        require(component)
    run("reference.py", "copper", tmp_path, "--picoseconds", 0.9)
    again = run("reference.py", "copper", tmp_path, "--picoseconds", 1.2)
    assert "settled" not in again, "it goes on where it was"
    learn = ("learn.py", "copper", tmp_path, "--target", 15, "--updates", 8, "--jumps", 5)
    run(*learn, "--picoseconds", 0.4)
    assert "frozen" in run(*learn, "--picoseconds", 1.2)
    assert "g(r)" in run("judge.py", "copper", tmp_path)
    run("collect.py", "copper", tmp_path, "--output", tmp_path)

    found = json.loads((tmp_path / "learning_copper.json").read_text("utf-8"))
    costs, account = found["costs"], found["learning"]
    assert costs["simulated while learning, ps"] >= 0.04 * account["segments"]
    assert costs["engine calls of the learning"] >= 8 * (account["segments"] - account["refused"])
    assert costs["frozen run, ps"] == pytest.approx(1.2)
    assert 0 < costs["of which engine"] < costs["learning, CPU s"]
    short, long = (costs[f"{picoseconds} ps, extrapolated"] for picoseconds in (50, 1000))
    assert short["classical, CPU s"] == pytest.approx(1250 * 8 * costs["engine call, CPU s"])
    assert long["learned, CPU s"] > costs["learning, CPU s"]
    assert 0 < short["gain"] < long["gain"] < costs["gain of a jump"]
    assert {"temperature", "g(r)", "vdos"} <= {row["name"] for row in found["judgement"]["rows"]}
