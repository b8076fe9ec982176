"""The scripts of ``benchmarks/learning``, one after the other on copper, whose engine costs nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_modes_and_temperatures_of_four_atoms_on_springs(require, monkeypatch):
    require("ase")
    from ase import Atoms, units
    from ase.calculators.calculator import Calculator, all_changes
    from ase.md.velocitydistribution import thermalize_momenta

    monkeypatch.syspath_prepend(SCRIPTS)
    modes = importlib.import_module("modes")
    spring, mass, length = 20.0, 10.0, 1.5

    class Springs(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=(), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            apart = atoms.positions[:, None] - atoms.positions[None]
            far = np.linalg.norm(apart, axis=2) + np.eye(4)
            pull = spring * (far - length) * (1 - np.eye(4))
            self.results = {"energy": 0.25 * (pull * (far - length)).sum()}
            self.results["forces"] = -((pull / far)[..., None] * apart).sum(axis=1)

    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * length / 8**0.5
    rest = Atoms("C4", corners, masses=[mass] * 4, calculator=Springs())
    wavenumbers, vectors = modes.normal_modes(rest)
    of = np.sqrt(spring / mass * np.array([1, 1, 2, 2, 2, 4])) * 1000 * units.fs / (2 * np.pi) * 33.35641
    np.testing.assert_allclose(wavenumbers, of, rtol=1e-3)

    rng, frames = np.random.default_rng(0), []
    for _ in range(500):
        frame = rest.copy()
        thermalize_momenta(frame, 300, rng=rng)
        frame.rotate(360 * rng.random(), rng.normal(size=3), center="COM")
        frames.append(frame)
    temperatures = [modes.with_error(one**2 / units.kB) for one in modes.amplitudes(frames, rest, vectors).T]
    for kelvin, error in temperatures:
        assert abs(kelvin - 300) < 4 * error
        assert error < 40
    turning = rest.copy()
    turning.set_velocities(np.cross([0.1, -0.2, 0.3], turning.positions) + np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(modes.amplitudes([turning], rest, vectors), 0, atol=1e-9)
