"""The page on drawn jumps: its tables are those of the results, its commands and scripts run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks

from fastegnn_md.propagator.catalogue import find_model

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("fastegnn-md")
PAGE = ROOT / "docs" / "generative.md"
SMALLER = (
    (r"--steps \d+", "--steps 3"),
    (r"range\(8\)", "range(2)"),
    (r"\.step\(100\)", ".step(2)"),
    (r"updates=20000", "updates=20, validate_every=10, validation_pairs=16"),
    (r'"10 ps"', '"1 ps"'),
    (r"-o flow.safetensors", "-o flow.safetensors --updates 20 --set validate_every=10 --set validation_pairs=16"),
)


def test_tables_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "peptides")
    import page

    text = PAGE.read_text(encoding="utf-8")
    assert page.judgement() in text
    assert page.speeds() in text
    assert page.judgement(page.LARGER) in text


def test_what_training_and_handedness_bring_is_what_the_results_say():
    found = json.loads((ROOT / "benchmarks" / "results" / "peptides_ala3_shorter_draws.json").read_text("utf-8"))
    models = {(one["updates"], one["handedness"], one["sampling steps"]): one for one in found["models"]}
    turned, flipped = (
        {key: f"{100 * value:.1f} %" for key, value in values.items()}
        for values in (
            {key: one["psi turned"]["draws"][1] for key, one in models.items()},
            {key: one["any stereocentre turned over"] for key, one in models.items()},
        )
    )
    words = f"from {turned[1500, True, 7]} after 1,500 updates and {turned[13000, True, 7]} after 13,000"
    assert words in " ".join(PAGE.read_text("utf-8").split())
    words = f"turn over in {flipped[1500, True, 7]} of the draws in place of {flipped[1500, False, 7]}"
    assert words in " ".join((ROOT / "docs" / "propagator.md").read_text("utf-8").split())


def test_what_collective_noise_brings_is_what_the_results_say():
    found = json.loads((ROOT / "benchmarks" / "results" / "peptides_ala3_450K_draws.json").read_text("utf-8"))
    without, collective = (
        next(one for one in found["models"] if (one["updates"], one["collective"]) == (1500, given))
        for given in (False, True)
    )

    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    turned = [share(one["psi turned"]["draws"][1]) for one in (collective, without)]
    data = share(collective["psi turned"]["data"][1])
    flipped = [share(one["any stereocentre turned over"]) for one in (collective, without)]
    stretched = [share(one["a bond stretched by 0.25 Å"]["draws"]) for one in (collective, without)]
    words = (
        f"the middle ψ turns in {turned[0]} of the draws in place of {turned[1]} (data: {data}), stereocentres turn "
        f"over in {flipped[0]} in place of {flipped[1]}, and bonds are worse: one is 0.25 Å off in {stretched[0]} in "
        f"place of {stretched[1]}"
    )
    assert words in " ".join((ROOT / "docs" / "propagator.md").read_text("utf-8").split())


# MDAnalysis, of files without a box or charges
@pytest.mark.filterwarnings("ignore:Found no information for attr:UserWarning")
@pytest.mark.filterwarnings("ignore:Unit cell dimensions not found:UserWarning")
@pytest.mark.slow
def test_commands_and_scripts_run(require, tmp_path):
    for component in ("openmm", "lightning", "deeptime"):
        require(component)
    import MDAnalysis as mda
    import openmm
    from openmm import app

    with open(ROOT / "fastegnn_md" / "assets" / "ala2.pdb", encoding="utf-8") as file:
        pdb = app.PDBFile(file)
    field = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    system = field.createSystem(pdb.topology, constraints=app.HBonds)
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.004)
    integrator.setRandomNumberSeed(1)
    made = app.Simulation(pdb.topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    made.context.setPositions(pdb.positions)
    made.minimizeEnergy()
    made.reporters.append(app.DCDReporter(str(tmp_path / "md.dcd"), 250))
    made.step(300 * 250)
    made.reporters.clear()  # closes the file
    with open(tmp_path / "bare.pdb", "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(pdb.topology, pdb.positions, file)
    universe = mda.Universe(str(tmp_path / "bare.pdb"))
    if hasattr(universe, "bonds"):
        universe.del_TopologyAttr("bonds")
    universe.add_TopologyAttr("bonds", [(bond[0].index, bond[1].index) for bond in pdb.topology.bonds()])
    universe.atoms.write(str(tmp_path / "md.pdb"), bonds="all")
    training, replicas = blocks(PAGE, "python", SMALLER)
    lines = "".join(blocks(PAGE, "console", SMALLER)).replace("\\\n", " ").strip().splitlines()
    lines = [line for line in lines if line.startswith("fastegnn-md")]  # others make the numbers, in hours
    assert [shlex.split(line)[1] for line in lines] == ["suggest-lag", "train", "run"]
    for line in lines[:2]:
        _called(tmp_path, PROGRAM, *shlex.split(line)[1:])
    # Twenty updates make no model that guards let pass: the one that is shipped takes its place.
    shutil.copy(find_model("ala2-obc-10ps"), tmp_path / "flow.safetensors")
    _called(tmp_path, PROGRAM, *shlex.split(lines[2])[1:])
    assert (tmp_path / "jumps.dcd").stat().st_size > 0
    _called(tmp_path, sys.executable, "-c", replicas)
    assert (tmp_path / "replica-1.dcd").exists()
    _called(tmp_path, sys.executable, "-c", training.replace('config, "flow', 'config, "second'))
    assert (tmp_path / "second.safetensors").exists()


def _called(folder: Path, *arguments: str | Path) -> None:
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
