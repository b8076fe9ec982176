"""Every script of examples/, run as a user runs it with a short training, warnings as errors."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
from MDAnalysis import Universe

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BASELINES = ("zero motion", "free flight", "best linear")


@dataclass(frozen=True)
class Example:
    """A script, its arguments here, the components it needs, and the files it promises."""

    script: str
    arguments: tuple[str, ...]
    components: tuple[str, ...]
    files: tuple[str, ...]
    learns: bool = True  # beats the baselines even with the short training here


CASES = {
    "ase": Example(
        "ase_copper.py",
        ("--updates", "60"),
        ("ase", "lightning"),
        ("bursts.h5md", "classical.traj", "copper.pdb", "copper.safetensors", "learned.log", "learned.restart"),
    ),
    "openmm": Example(
        "openmm_ala2.py",
        ("--updates", "60", "--processes", "2"),
        ("openmm", "ase", "lightning"),
        ("ala2.safetensors", "bursts.h5md", "classical.dcd", "learned.traj"),
    ),
    "openmm, hybrid": Example(
        "openmm_hybrid.py",
        ("--updates", "60", "--steps", "220"),
        ("openmm", "ase", "lightning"),
        ("propagator.safetensors", "hybrid.chk", "hybrid.xtc", "jumps.csv", "state.csv"),
    ),
    "mdanalysis": Example(
        "mdanalysis_rollout.py",
        ("--updates", "120"),
        ("openmm", "ase", "lightning"),
        ("argon.pdb", "argon.safetensors", "pairs.h5md", "reference.trr", "rollout.xtc"),
    ),
    "position-only": Example(
        "position_only.py",
        ("--updates", "4", "--system", "adk"),
        ("lightning", "MDAnalysisTests"),
        ("adk.h5md", "adk.safetensors", "adk-rollout.dcd"),
        learns=False,
    ),
    "position-only, simulated": Example(
        "position_only.py",
        ("--updates", "4", "--system", "ala2"),
        ("openmm", "ase", "lightning"),
        ("ala2.dcd", "ala2.h5md", "ala2.pdb", "ala2.safetensors", "ala2-rollout.dcd"),
        learns=False,
    ),
}

# Draws are held against other draws and not against the baselines of a step.
REPLICAS = Example(
    "openmm_replicas.py", ("--updates", "5", "--replicas", "3", "--jumps", "2"), ("openmm", "lightning"), ()
)

# The model goes on learning while it is examined: there is no table of errors on a test set.
LEARNING = Example(
    "learn_while_running.py",
    ("--target", "15", "--updates", "8", "--jumps", "5", "--steps", "20"),
    ("ase", "lightning", "matplotlib"),
    ("copper.html", "copper.restart", "copper.safetensors", "copper.traj"),
)


def run(example: Example, folder: Path) -> str:
    """Run a script in an empty folder and return what it prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / example.script), *example.arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def errors(text: str) -> dict[str, list[float]]:
    """Rows of the table of one-step errors: RMSE of x and, where they are predicted, of v."""
    rows = {}
    for name in ("learned", *BASELINES):
        (line,) = re.findall(rf"^{name}  +(.*)$", text, flags=re.MULTILINE)
        values = [float(value) for value in line.split()]
        rows[name] = values if name == "learned" else values[::2]  # every second column is a ratio
    return rows


def test_each_example_has_its_place_and_its_picture_on_the_page_of_examples():
    docs = EXAMPLES.parent / "docs"
    page = (docs / "tutorials" / "gallery.md").read_text(encoding="utf-8")
    pictures = {script.stem: docs / "pictures" / f"{script.stem}.svg" for script in EXAMPLES.glob("*.py")}
    for name, picture in pictures.items():
        assert f"../../examples/{name}.py" in page
        assert f"../pictures/{name}.svg" in page
        assert "<svg" in picture.read_text(encoding="utf-8")
    assert sum(picture.stat().st_size for picture in pictures.values()) < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_example_runs_and_prints_its_errors_beside_the_baselines(case, require, tmp_path):
    for component in case.components:
        require(component)
    text = run(case, tmp_path)

    output = tmp_path / Path(case.script).stem
    assert list(tmp_path.iterdir()) == [output], "written into its own folder and nowhere else"
    for name in case.files:
        assert (output / name).stat().st_size > 0, name
        assert name in text.splitlines()[-1]

    assert not re.search(r"\b(nan|inf)\b", text, flags=re.IGNORECASE)
    table = errors(text)
    for column, learned in enumerate(table["learned"]):
        best = min(table[name][column] for name in BASELINES)
        assert math.isfinite(learned)
        assert 0 < learned < best * (1.0 if case.learns else 1.5)

    if case.script == "mdanalysis_rollout.py":
        assert "2 ps no model can predict" in text, "the noise floor is shown"
        rollout = Universe(str(output / "argon.pdb"), str(output / "rollout.xtc"))
        assert rollout.trajectory.dt == pytest.approx(0.05, rel=1e-4)
    if case.script == "openmm_hybrid.py":
        assert "220 steps, 0.360 ps" in text
        assert "jumps: 20 tried" in text
        rollout = Universe(str(files("fastegnn_md") / "assets" / "ala2.pdb"), str(output / "hybrid.xtc"))
        assert [frame.time for frame in rollout.trajectory] == pytest.approx(
            [0.018 * k for k in range(1, 21)], abs=1e-6
        )
    if case.script == "ase_copper.py":
        from ase.io import read

        log = (output / "learned.log").read_text(encoding="utf-8").splitlines()
        assert len(read(output / "learned.traj", ":")) == len(log) - 1 == 21, "the restart writes no frame twice"


def test_every_script_is_run():
    scripts = {case.script for case in (*CASES.values(), REPLICAS, LEARNING)}
    assert scripts == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:DCDReader currently makes:DeprecationWarning")  # of MDAnalysis, to its own users
def test_replicas_of_a_flow_have_a_trajectory_each(require, tmp_path):
    for component in REPLICAS.components:
        require(component)
    text = run(REPLICAS, tmp_path)
    assert "replica 2, 2.2 ps: JumpStatistics(tried=2" in text
    for k in range(3):
        rollout = Universe(
            str(files("fastegnn_md") / "assets" / "ala2.pdb"),
            str(tmp_path / "openmm_replicas" / f"replica-{k:02d}.dcd"),
        )
        assert len(rollout.trajectory) == 2


@pytest.mark.slow
def test_a_run_that_learns_ends_frozen_and_goes_on_from_its_restart_file(require, tmp_path):
    from ase.io import read

    for component in LEARNING.components:
        require(component)
    text = run(LEARNING, tmp_path)
    output = tmp_path / Path(LEARNING.script).stem
    for name in LEARNING.files:
        assert (output / name).stat().st_size > 0, name
    *_, last, _ = text.splitlines()
    assert "frozen" in last
    assert "learning, 0% jumps" in text, "it begins classically"
    assert len(read(output / "copper.traj", ":")) == 20
    again = run(LEARNING, tmp_path)
    assert "learning" not in again, "the model is not learned twice"
    assert len(read(output / "copper.traj", ":")) == 40
