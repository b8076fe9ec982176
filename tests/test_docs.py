"""Commands and code of the README and the docs run as they are written, with smaller numbers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import yaml

from fastegnn_md.data import load_universe

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("fastegnn-md")

# What is made smaller, and by how much.
_SMALLER = (
    (r"--updates \d+", "--updates 5"),
    (r"--steps \d+", "--steps 3"),
    (r"updates=\d+", "updates=5"),
    (r"\.run\(\d+", ".run(3"),
    (r"\.step\(\d+\)", ".step(110)"),
)


def blocks(page, language, containing):
    found = [block for block in pages.blocks(ROOT / page, language, _SMALLER) if containing in block]
    assert found, f"{page} has no {language} block with {containing!r}"
    return found


def run_python(code, folder):
    """Output of a program. OpenMM would choose OpenCL on POCL, where its energy minimiser crashes."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"OPENMM_DEFAULT_PLATFORM": "CPU"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(require, tmp_path_factory):
    """topology.pdb and md.dcd, and what the commands of the README make of them."""
    for component in ("openmm", "ase", "lightning"):
        require(component)
    from peptide_files import write_trajectory

    path = tmp_path_factory.mktemp("readme")
    write_trajectory(path / "topology.pdb", path / "md.dcd", frames=60)
    (commands,) = blocks("README.md", "console", "fastegnn-md harvest")
    commands += blocks("docs/propagator.md", "console", "--kind kick-drift")[0]
    for line in commands.replace("\\\n", " ").strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "fastegnn-md"
        done = subprocess.run(
            [PROGRAM, *arguments],
            cwd=path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    return path


@pytest.mark.slow
def test_commands_make_what_they_promise(folder):
    for name in ("bursts.h5md", "model.safetensors", "learned.xtc"):
        assert (folder / name).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "containing", "made"),
    [
        ("README.md", "LearnedDynamics(", "copper.traj"),
        ("docs/training.md", "fit(", "force-informed.safetensors"),
        ("docs/ase.md", "part.restart", "part.traj"),
        ("docs/validation.md", "validate(", "validation/report.html"),
        ("docs/propagator.md", "Committee.load(", "member-2.safetensors"),
        ("docs/openmm.md", "XTCReporter(", "hybrid.xtc"),
        ("docs/ase.md", "MetropolizedDynamics(", "exact.traj"),
        ("docs/openmm.md", "MetropolizedJumpIntegrator(", "exact.dcd"),
    ],
)
def test_python_blocks_run(folder, page, containing, made):
    (code,) = blocks(page, "python", containing)
    run_python(code, folder)
    assert (folder / made).exists()


@pytest.mark.parametrize(
    ("containing", "printed"),
    [
        ("hyperparameters_of(", "fastegnn torch.Size([30, 3])"),
        ("connectivity_loss", "tensor(["),
        ("hinges = torch.tensor", ""),  # asserts that lengths stay
    ],
)
def test_code_on_architectures_runs(containing, printed, tmp_path):
    (code,) = blocks("docs/models.md", "python", containing)
    assert printed in run_python(code, tmp_path)


def test_other_backbones_of_a_propagator(tmp_path):
    (code,) = blocks("docs/models.md", "python", "positions_only")
    after = "print(config.architecture, config.kind, positions_only.architecture, positions_only.kind)"
    assert run_python(f"{code}\n{after}", tmp_path).split() == ["egnn", "force-free", "eghn", "position"]


def test_the_table_of_architectures_is_what_they_are():
    from fastegnn_md.models import architectures_for, available_models, from_reference

    rows = {}
    for line in (ROOT / "docs/models.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            name, _, turns, virtual, modes, weights = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name.strip("`")] = (turns, virtual, modes, weights)
    assert set(rows) == set(available_models())
    assert {name for name, row in rows.items() if row[2].startswith("full")} == set(architectures_for("full"))
    assert {name for name, row in rows.items() if "isolated" not in row[2]} == set(architectures_for("periodic"))
    assert {name for name, row in rows.items() if row[1] == "ordered"} == {
        name for name in rows if name.startswith("fast")
    }
    for name, row in rows.items():
        with pytest.raises(ValueError, match="not weights of" if row[3] == "yes" else "no published weights"):
            from_reference(name, {})


@pytest.mark.parametrize(
    ("containing", "printed"),
    [
        ("charged_systems(", "20 (160, 3) (160, 3) (160, 3)"),
        ("protein_steps(", "(50, 855, 3)"),
    ],
)
def test_data_sets_are_made_as_documented(require, tmp_path, containing, printed):
    require("openmm")
    (code,) = blocks("docs/datasets.md", "python", containing)
    assert run_python(code, tmp_path).strip() == printed


@pytest.mark.slow
def test_a_box_of_water_is_written_as_documented(require, tmp_path):
    require("openmm")
    (code,) = blocks("docs/datasets.md", "python", "write_water_box(")
    assert run_python(code, tmp_path) == ""
    box = load_universe(tmp_path / "water.pdb", tmp_path / "water.dcd")
    assert len(box.trajectory) == 4
    assert box.dimensions[:3] == pytest.approx([18.0] * 3, rel=1e-3)


@pytest.mark.slow
def test_a_jump_without_a_simulation(folder):
    (code,) = blocks("docs/openmm.md", "python", "add_jump_force(")
    (simulation,) = blocks("docs/openmm.md", "python", "XTCReporter(")
    before, _, _ = simulation.partition("simulation =")
    after = "context.setPositions(pdb.positions)\nintegrator.step(11)\nprint(integrator.statistics.tried)"
    assert run_python("\n".join((before, code, after)), folder).strip() == "1"


@pytest.mark.slow
def test_stochastic_velocity_rescaling(folder):
    (code,) = blocks("docs/ase.md", "python", "VelocityRescaling(")
    (before,) = blocks("docs/ase.md", "python", "part.restart")
    temperature = run_python("\n".join((before, code)), folder).splitlines()[-1]
    assert re.fullmatch(r"\d+\.\d+ K", temperature)


@pytest.mark.slow
def test_constant_pressure(tmp_path):
    (code,) = blocks("docs/ase.md", "python", "MonteCarloBarostat(")
    assert re.search(r"\] \d \[0\.\d+\]$", run_python(code, tmp_path).strip())
    assert "V[A^3]" in (tmp_path / "copper.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_classical_steps_between_jumps(folder):
    (code,) = blocks("docs/ase.md", "python", "hybrid.restart")
    (before,) = blocks("docs/ase.md", "python", "part.restart")
    before, _, _ = before.partition("guard =")
    after = "verlet.run(6)\nhybrid.run(8)\nprint(verlet.nsteps, hybrid.nsteps, hybrid.statistics.tried)"
    assert run_python("\n".join((before, code, after)), folder).splitlines()[-1] == "6 11 1"


@pytest.mark.slow
def test_ensembles_of_jumps_alone(folder):
    (code,) = blocks("docs/openmm.md", "python", "rescaling = LearnedIntegrator(")
    given = "from fastegnn_md import Propagator\npropagator = Propagator.load('model.safetensors')\n"
    after = "print([one.getStepSize()._value for one in (nve, scaled, langevin, rescaling)])"
    assert run_python("\n".join((given, code, after)), folder).strip() == "[0.008, 0.008, 0.008, 0.008]"


@pytest.mark.slow
def test_an_ensemble(folder):
    (code,) = blocks("docs/performance.md", "python", "LearnedEnsemble(")
    (single,) = blocks("docs/ase.md", "python", "part.restart")
    before, _, _ = single.partition("options =")
    given = "copies = [atoms, atoms.copy()]\ncopies[1].calc = OpenMMCalculator(system, topology=pdb.topology)\n"
    after = "print([one.nsteps for one in replicas])"
    assert run_python("\n".join((before, given, code, after)), folder).strip() == "[3, 3]"


@pytest.mark.parametrize(
    "page", sorted(str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
)
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


def test_settings_in_the_docs_are_valid():
    from fastegnn_md.training import TrainingConfig

    (text,) = blocks("docs/training.md", "yaml", "updates")
    TrainingConfig.from_mapping(yaml.safe_load(text))
