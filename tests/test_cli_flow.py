"""fastegnn-md run with a model of kind flow: relaxation, replicas, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest
import torch
from openmm import app

from fastegnn_md import Propagator, State
from fastegnn_md.cli import main
from fastegnn_md.commands.forcefields import openmm_structure
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.limits import JumpLimits
from tests.helpers import openmm_cases as cases

LAG = 1.0  # ps
FIELD = ["--forcefield", "amber14-all.xml", "--constraints", "HBonds", "--timestep", "2 fs"]


@pytest.fixture
def cli(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


def untrained(path: Path, moved: float) -> Path:
    """A model that draws about the present positions, which it takes to move by so many Å."""
    topology = cases.peptide_pdb().topology
    positions = 10 * torch.from_numpy(np.array(cases.peptide_pdb().getPositions(asNumpy=True)._value))
    numbers = torch.tensor([atom.element.atomic_number for atom in topology.atoms()])
    masses = torch.tensor([atom.element.mass._value for atom in topology.atoms()])
    bonds = torch.tensor([(bond[0].index, bond[1].index) for bond in topology.bonds()])
    one = State(
        positions=positions,
        velocities=torch.zeros_like(positions),
        numbers=numbers,
        masses=masses.double(),
        bonds=bonds,
    )
    start = State.concatenate([one] * 20)
    noise = torch.randn(start.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = start.replace(positions=start.positions + moved * noise)
    config = PropagatorConfig(kind="flow", hidden=8, layers=1, sampling_steps=2)
    domain = replace(Domain.from_pairs(start, end, config), limits=JumpLimits(dict.fromkeys((1, 6, 7, 8), 5.0)))
    propagator = Propagator.build(config, LAG, domain, seed=1)
    propagator.save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "flow.safetensors", 0.02)


@pytest.fixture
def pdb(tmp_path) -> Path:
    path = tmp_path / "peptide.pdb"
    with open(path, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(cases.peptide_pdb().topology, cases.peptide_pdb().positions, file)
    bonds = [f"CONECT{a.index + 1:5d}{b.index + 1:5d}\n" for a, b in cases.peptide_pdb().topology.bonds()]
    lines = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith(("CONECT", "END"))]
    path.write_text("".join([*lines, *bonds, "END\n"]))
    return path


def frames(topology: Path, trajectory: Path) -> tuple[list[float], np.ndarray]:
    universe = mda.Universe(str(topology), str(trajectory))
    return [ts.time for ts in universe.trajectory], np.array([ts.positions.copy() for ts in universe.trajectory])


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_frames_are_as_far_apart_as_jump_and_relaxation(engine, cli, model, pdb, tmp_path):
    output = tmp_path / "out.xtc"
    options = ["--temperature", 300, "--engine", engine, *FIELD, "--steps", 2, "--relax-steps", 5]
    code, out, err = cli("run", model, pdb, *options, "-o", output)
    assert code in (0, 3), err  # an untrained model is not to be trusted
    assert "2 jumps of 1 ps, 0 refused" in out
    assert "ns per minute" in out
    times, positions = frames(pdb, output)
    assert times == pytest.approx([0.0, LAG + 0.01, 2 * (LAG + 0.01)], abs=1e-4)
    assert np.abs(positions[2] - positions[1]).max() > 0.05


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_a_few_steps_that_are_far_too_hot_are_not_to_be_trusted(engine, cli, pdb, tmp_path):
    model = untrained(tmp_path / "rough.safetensors", 0.1)
    options = ["--temperature", 300, "--engine", engine, *FIELD, "--steps", 4, "--relax-steps", 5]
    code, out, err = cli("run", model, pdb, *options, "-o", tmp_path / "out.xtc")
    assert code == 3, err
    assert "4 jumps of 1 ps, 0 refused" in out
    assert "warning: the temperature of the second half is " in err
    assert "4 of 4 steps, 100 %" in err


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_replicas_have_a_trajectory_each(engine, cli, model, pdb, tmp_path):
    output = tmp_path / "out.xtc"
    options = ["--temperature", 300, "--engine", engine, *FIELD, "--steps", 2, "--relax-steps", 5]
    code, out, err = cli("run", model, pdb, *options, "--replicas", 3, "-o", output)
    assert code == 0, err
    assert "3 replicas: 6 jumps, 0 refused" in out
    assert "temperature in the first half: H " in out
    ends = []
    for k in range(3):
        times, positions = frames(pdb, tmp_path / f"out-{k:02d}.xtc")
        assert times == pytest.approx([0.0, LAG + 0.01, 2 * (LAG + 0.01)], abs=1e-4)
        ends.append(positions[-1])
    assert np.abs(ends[0] - ends[1]).max() > 0.05
    code, _, err = cli("run", model, pdb, *options, "--replicas", 3, "-o", output)
    assert code == 2
    assert "out-00.xtc" in err
    code, _, err = cli("run", model, pdb, *options, "--seed", 1, "-o", tmp_path / "alone.xtc")
    _, alone = frames(pdb, tmp_path / "alone.xtc")
    np.testing.assert_allclose(alone[-1], ends[1], atol=1e-3)


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_replicas_are_continued(engine, cli, model, pdb, tmp_path):
    whole, parts = tmp_path / "whole.xtc", tmp_path / "parts.xtc"
    options = ["--temperature", 300, "--engine", engine, *FIELD, "--relax-steps", 5, "--replicas", 2]
    options += ["--platform", "Reference"] if engine == "openmm" else []
    for arguments in (["--steps", 3, "-o", whole], ["--steps", 2, "-o", parts]):
        code, _, err = cli("run", model, pdb, *options, *arguments)
        assert code == 0, err
    code, out, err = cli("run", model, pdb, *options, "--steps", 3, "-o", parts, "--restart", f"{parts}.restart")
    assert code == 0, err
    assert "2 replicas: 6 jumps, 0 refused" in out
    for k in range(2):
        assert (tmp_path / f"parts-0{k}.xtc").read_bytes() == (tmp_path / f"whole-0{k}.xtc").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --temperature, that of its training data"),
        (["--temperature", 300, "--friction", "1/ps"], "leave --friction and --tau out"),
        (["--temperature", 300, "--nve"], "--nve needs a propagator that predicts velocities"),
        (["--temperature", 300, *FIELD, "--replicas", 2, "--metropolis"], "--replicas has no --metropolis"),
        (["--temperature", 300, *FIELD, "--metropolis"], "starting points of classical bursts"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, words, cli, model, pdb, tmp_path):
    code, _, err = cli("run", model, pdb, "--steps", 1, "-o", tmp_path / "out.xtc", *arguments)
    assert code == 2
    assert words in " ".join(err.split())
    assert not (tmp_path / "out.xtc").exists()


@pytest.mark.filterwarnings("always:no engine relaxes")
def test_without_an_engine_draws_stay_as_they_are_and_that_is_said(cli, model, pdb, tmp_path):
    options = ["--temperature", 300]
    code, _, err = cli("run", model, pdb, "--steps", 2, "-o", tmp_path / "out.xtc", *options)
    assert code in (0, 3), err
    assert "no engine relaxes what the propagator draws" in " ".join(err.split())
    assert frames(pdb, tmp_path / "out.xtc")[0] == pytest.approx([0.0, LAG, 2 * LAG], abs=1e-4)


def test_a_box_of_one_angstrom_in_a_pdb_file_is_none(pdb):
    assert openmm_structure(pdb).topology.getPeriodicBoxVectors() is None
    box = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    pdb.write_text(box + pdb.read_text())
    assert openmm_structure(pdb).topology.getPeriodicBoxVectors() is None
    pdb.write_text(box.replace(" 1.000", "30.000") + pdb.read_text().split("\n", 1)[1])
    assert openmm_structure(pdb).topology.getPeriodicBoxVectors() is not None
