"""What the newcomer trials would type is what the pages say: they run in CI from an empty environment."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TRIALS = Path(__file__).parent / "newcomers"
# By the trial: components, and what is typed in this order.
TYPED = {
    "xyz_and_xtb": (("tblite", "lightning"), ("pip install torch", "pip install -e", "run organic-xtb-4fs", "adapt")),
    "openmm_script": (("openmm", "lightning"), ("pip install -e", "classical.py", "harvest", "train", "learned.py")),
    "psf_and_dcd": (
        ("openmm", "lightning"),
        ("pip install -e", "harvest topology.psf md.dcd", "train", "run", "analysis.py"),
    ),
}


def trial(name: str, option: str) -> str:
    """What a trial prints."""
    command = [sys.executable, TRIALS / f"{name}.py", option]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", TYPED)
def test_the_pages_have_what_a_newcomer_types(name):
    typed = [line for line in trial(name, "--show").splitlines() if line.startswith("$ ")]
    place = 0
    for words in TYPED[name][1]:
        place = next((k for k, line in enumerate(typed) if k >= place and words in line), -1)
        assert place >= 0, f"{words} in {typed}"


def test_scripts_of_openmm_differ_in_the_integrator_alone():
    lines = {}
    shown = trial("openmm_script", "--show").split("\n# ")
    for part in shown:
        name, _, code = part.removeprefix("# ").partition("\n")
        statements = ast.parse(textwrap.dedent(code.split("\n$ ")[0])).body if name.endswith(".py") else []
        lines[name] = {ast.unparse(one) for one in statements}
    assert lines["classical.py"]
    for line in lines["classical.py"] ^ lines["learned.py"]:
        assert any(word in line for word in ("import", "ntegrator", "Simulation", "Reporter", ".step(")), line


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPED)
def test_a_newcomer_gets_to_a_learned_run(name, require):
    for component in TYPED[name][0]:
        require(component)
    said = trial(name, "--here")
    assert "done in" in said
