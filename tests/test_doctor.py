"""``fastegnn-md doctor``: what it shows, what it says of what is missing, and its exit code."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from importlib.metadata import version

import pytest
import torch

from fastegnn_md import Propagator, __version__
from fastegnn_md._extras import EXTRA_OF, how_to_get
from fastegnn_md.cli import main
from fastegnn_md.commands import doctor as command
from fastegnn_md.nn import compiler as compilers
from fastegnn_md.propagator import catalogue


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Exit code, lines of stdout by their first words, stderr. No platform is asked, which takes a second each."""
    monkeypatch.setattr(command, "_platform", lambda name: command.Finding(f"OpenMM {name}", "works"))

    def call():
        with pytest.raises(SystemExit) as caught:
            main(["doctor"])
        out, err = capsys.readouterr()
        rows = {}
        for line in out.splitlines():
            name, _, rest = line.strip().partition("  ")
            rows[name] = rest.strip()
        return caught.value.code, rows, err

    return call


def without(monkeypatch, *names):
    """As on a machine where these components are not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in names else find(name, *more))


def test_a_working_installation_is_shown_and_ends_with_0(doctor):
    code, rows, err = doctor()
    assert (code, err) == (0, "")
    assert rows["fastegnn-md"] == __version__
    assert rows["torch"] == version("torch")
    assert rows["copper-emt"] == "108 atoms moved by 40 fs"
    assert {"versions", "engines", "machine", "main path"} <= rows.keys()


def test_columns_are_aligned():
    sections = {"one": [command.Finding("a", "missing", "get a")], "two": [command.Finding("long name", "1.0.0.0.0")]}
    assert list(command._lines(sections)) == [
        "one",
        "  a          missing  get a",
        "",
        "two",
        "  long name  1.0.0.0.0",
    ]


def test_every_missing_component_of_an_extra_comes_with_the_command_that_brings_it(doctor, monkeypatch):
    without(monkeypatch, *EXTRA_OF)
    code, rows, _ = doctor()
    assert code == 0, "the main path needs no extra"
    names = {"ase": "ASE", "openmm": "OpenMM"}
    for component, extra in EXTRA_OF.items():
        if component == "openmmtorch":  # a plugin of what is missing itself
            continue
        found = rows[names.get(component, component)]
        assert found.startswith("missing  "), component
        assert how_to_get(component) in found
        assert f"fastegnn-md[{extra}]" in found or component == "torch_scatter"
    assert rows["torch_scatter"].endswith("make install-scatter")


def test_a_missing_plugin_is_named(doctor, monkeypatch, require):
    require("openmm")
    without(monkeypatch, "openmmtorch")
    assert doctor()[1]["openmm-torch"] == "missing  make install-openmm-torch"


def test_what_no_extra_brings_is_named(doctor, monkeypatch, tmp_path, require):
    openmm = require("openmm")
    monkeypatch.setattr(openmm.Platform, "getNumPlatforms", staticmethod(lambda: 1))
    monkeypatch.setattr(compilers.shutil, "which", lambda name: None)
    monkeypatch.setattr(compilers.sysconfig, "get_path", lambda name: str(tmp_path))
    code, rows, _ = doctor()
    assert code == 0, "the main path needs no compiler"
    assert rows["OpenMM Reference"] == "works"
    assert "apt-get install pocl-opencl-icd" in rows["OpenMM OpenCL"]
    assert "apt-get install g++" in rows["C++ compiler"]
    assert "apt-get install python3-dev" in rows["headers of Python"]


def test_a_driver_without_a_torch_that_uses_it_is_said(doctor, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert doctor()[1]["GPU"].startswith("not usable  torch is built for the CPU")


@pytest.mark.parametrize("component", ["torch_scatter", "openmmtorch"])
def test_what_was_built_for_another_torch_is_told_from_what_is_missing(component, tmp_path, monkeypatch):
    (tmp_path / f"{component}.py").write_text("raise OSError('undefined symbol: _ZN5torch\\nmore')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(command.sys.modules, component, raising=False)
    name, found, how = command._component(component)
    assert (name, found.split()[1:]) == (component, ["does", "not", "load"])
    assert how == f"{how_to_get(component)}  (OSError: undefined symbol: _ZN5torch)"


def test_platforms_are_asked_for_a_context(require):
    require("openmm")
    assert command._platform("Reference") == ("OpenMM Reference", "works", "")
    name, found, how = command._platform("NoSuch")
    assert (name, found) == ("OpenMM NoSuch", "no Context")
    assert 'There is no registered Platform called "NoSuch"' in how


@pytest.mark.parametrize(("answer", "found"), [(-11, "crashes"), (None, "no answer")])
def test_a_driver_that_crashes_or_hangs_does_not_take_the_doctor_along(answer, found, monkeypatch):
    def run(arguments, **options):
        if answer is None:
            raise subprocess.TimeoutExpired(arguments, options["timeout"])
        return subprocess.CompletedProcess(arguments, answer, "", "")

    monkeypatch.setattr(command.subprocess, "run", run)
    assert command._platform("OpenCL").found == found


def test_what_cannot_be_looked_at_does_not_hide_the_rest(doctor, monkeypatch):
    def look():
        yield command.Finding("seen", "1.0")
        raise RuntimeError("libtorch.so is broken")

    monkeypatch.setattr(command, "_machine", look)
    code, rows, _ = doctor()
    assert code == 0
    assert rows["seen"] == "1.0"
    assert rows["the rest"].endswith("(RuntimeError: libtorch.so is broken)")
    assert "copper-emt" in rows


def test_a_damaged_model_ends_with_1_and_a_sentence(doctor, monkeypatch, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(catalogue.FOLDER, folder)
    file = folder / "copper-emt.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    code, rows, err = doctor()
    assert code == 1
    assert rows["copper-emt"] == "fails"
    assert rows["torch"] == version("torch"), "the rest is shown all the same"
    (line,) = err.splitlines()
    assert line.startswith("fastegnn-md: error: the main path fails: CheckpointError: ")
    assert "copper-emt.safetensors" in line


@pytest.mark.parametrize(("wrong", "sentence"), [(float("nan"), "is not finite"), (50.0, "would move")])
def test_a_jump_that_ends_where_no_atom_can_be_ends_with_1(wrong, sentence, doctor, monkeypatch):
    forward = Propagator.forward

    def forward_and_fail(self, state, **options):
        ended = forward(self, state, **options)
        positions = ended.positions.clone()
        positions[7] += wrong
        object.__setattr__(ended, "positions", positions)
        return ended

    monkeypatch.setattr(Propagator, "forward", forward_and_fail)
    code, _, err = doctor()
    assert code == 1
    assert "atom 7: " in err
    assert sentence in err
