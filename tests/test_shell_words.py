"""Hints are in words of the shell where the shell is used, in Python where Python is."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import ase.io
import numpy as np
import openmm
import pytest
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from openmm import app

from fastegnn_md.cli import main
from fastegnn_md.engines.ase.calculated import forces_of
from fastegnn_md.errors import DataError, Remedy, StateError, in_shell_words

DATA = Path(__file__).parent / "data"
ALA2 = Path(__file__).parents[1] / "fastegnn_md" / "assets" / "ala2.pdb"
# an argument or an assignment of Python, but not what follows --set
PYTHON = re.compile(r"\b[a-z_]+=|\b(atoms|dynamics|universe)\.|fastegnn_md\.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inputs")
    copper = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3)
    ase.io.write(path / "cu.extxyz", copper)
    copper.set_constraint(FixAtoms(range(54)))
    ase.io.write(path / "frozen.traj", copper)
    copper.set_constraint()
    copper.set_velocities(np.full((108, 3), 0.01))
    ase.io.write(path / "moving.extxyz", copper)
    copper.set_velocities(np.random.default_rng(0).normal(size=(108, 3)))
    ase.io.write(path / "hot.extxyz", copper)
    ethanol = molecule("CH3CH2OH")
    ase.io.write(path / "eth.xyz", ethanol)
    ase.io.write(path / "md.xyz", [ethanol] * 4)
    system = app.ForceField("amber14-all.xml").createSystem(app.PDBFile(str(ALA2)).topology, constraints=app.HBonds)
    restraint = openmm.CustomExternalForce("500*(x^2+y^2+z^2)")
    restraint.addParticle(4, [])
    system.addForce(restraint)
    (path / "restraint.xml").write_text(openmm.XmlSerializer.serialize(system))
    return path


FORCEFIELD = ["--forcefield", "amber14-all.xml"]
RIGID = [*FORCEFIELD, "--constraints", "HBonds", "--engine", "openmm", "--platform", "Reference"]
RESTRAINED = ["--system", "restraint.xml", "--engine", "openmm", "--platform", "Reference"]
RUN = ["--temperature", 300, "--steps", 3, "-o", "o.xtc"]
MOVING = ["run", "copper-emt", "moving.extxyz", "--steps", 3, "-o", "o.xtc"]
EMT = ["--engine", "ase", "--calculator", "emt", "-o", "p.h5md"]
WRONG = [
    (["harvest", "cu.extxyz", *EMT], "--temperature"),
    (["harvest", "md.xyz", *EMT, "--frames", "5:2"], "--frames"),
    (["train", "md.xyz", "--lag", "2 ps"], "--velocities central"),
    (["train", "md.xyz", "--lag", "2 ps", "--velocities", "none", "--kind", "position"], "--dt"),
    (["train", "md.xyz", "--lag", "1 fs", "--dt", "1 ps", "--velocities", "none"], "fastegnn-md harvest"),
    (["train", "md.xyz", "--lag", "2 ps", "--velocities", "middle"], "'central'"),
    (["suggest-lag", "md.xyz"], "--dt"),
    (["suggest-lag", "md.xyz", "--dt", "1 fs"], "fastegnn-md harvest"),
    (["evaluate", "copper-emt", "cu.extxyz", "--dt", "1 fs"], "fastegnn-md harvest"),
    (["run", "copper-emt", "cu.extxyz", "--steps", 3, "-o", "o.xtc"], "--temperature"),
    ([*MOVING, "--friction", "1/ps"], "--temperature"),
    ([*MOVING, "--friction", "1/ps", "--temperature", 300, "--nve"], "--nve"),
    ([*MOVING, "--nve", "--tau", "1 ps"], "--tau"),
    (["run", "copper-emt", "hot.extxyz", "--steps", 3, "-o", "hot.xtc"], "--calculator"),
    (["run", "copper-emt", "frozen.traj", *RUN], "--engine openmm"),
    (["run", "ala2-vacuum", ALA2, *RUN], "--constraints HBonds"),
    (["run", "ala2-vacuum", ALA2, *RUN, *FORCEFIELD, "--constraints", "AllBonds"], "--constraints HBonds"),
    (["run", "ala2-vacuum", ALA2, *RUN, *RIGID, "--timestep", "3 fs"], "--timestep"),
    (["run", "ala2-vacuum", ALA2, *RUN, *RIGID, "--classical-steps", 0, "--jumps", 0], "--classical-steps"),
    (["run", "ala2-vacuum", ALA2, *RUN, *RESTRAINED, "--classical-steps", 0], "--classical-steps"),
    (["run", DATA / "propagator-position-2.safetensors", ALA2, *RUN, "--tau", "1 ps"], "--tau"),
]


@pytest.mark.parametrize(("line", "word"), WRONG, ids=lambda value: str(value[0]) if isinstance(value, list) else value)
def test_an_error_of_a_command_names_its_options_and_no_argument_of_python(line, word, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in line])
    err = capfd.readouterr().err
    found = next(text for text in err.splitlines() if "error:" in text)
    assert end.value.code == 2
    assert word in found
    assert not PYTHON.search(err), err


@pytest.mark.filterwarnings("default:no bonds were given:UserWarning")  # it is what is looked at
def test_a_warning_of_a_command_names_its_options(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as end:
        main(["run", "ethanol-xtb", "eth.xyz", "--temperature", "300", "--steps", "1", "-o", "e.xtc"])
    err = capfd.readouterr().err
    assert end.value.code == 0
    assert "--bonds guess" in err
    assert "bonds=" not in err


def test_massless_particles_of_a_system_are_frozen_atoms(folder, monkeypatch, capfd):
    system = app.ForceField("amber14-all.xml").createSystem(app.PDBFile(str(ALA2)).topology)
    system.setParticleMass(4, 0)
    (folder / "resting.xml").write_text(openmm.XmlSerializer.serialize(system))
    monkeypatch.chdir(folder)
    model = str(DATA / "propagator-force-start-2.safetensors")
    with pytest.raises(SystemExit) as end:
        main(["run", model, str(ALA2), "--system", "resting.xml", *map(str, RUN)])
    assert end.value.code == 2  # it knows no carbon; the mass of zero is no reason
    assert "mass" not in capfd.readouterr().err


def test_the_same_error_names_arguments_in_python():
    with pytest.raises(StateError, match=r"atoms\.calc = ") as caught:
        forces_of(molecule("CO"))
    assert "--calculator" in in_shell_words(caught.value)


def test_both_forms_survive_more_words_before_them_and_copies():
    error = DataError(Remedy("no frames; ", "frames=…", "--frames"))
    longer = copy.deepcopy(DataError(Remedy.after("step 3: ", error)))  # as pickle does it
    assert str(longer) == "step 3: no frames; frames=…"
    assert in_shell_words(longer) == "step 3: no frames; --frames"
    assert in_shell_words(DataError("plain")) == "plain"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(Remedy("a", "b", "c"), stacklevel=1)
    assert in_shell_words(caught[0].message) == "ac"
