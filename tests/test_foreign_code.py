"""Files and names that would run code: nothing of it runs unless it was asked for."""

from __future__ import annotations

import os
import pickle  # noqa: TID251 - what a stranger would write; OpenMM reads it
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastegnn_md
from fastegnn_md.cli import main
from fastegnn_md.commands.forcefields import calculator_factory, openmm_system
from fastegnn_md.engines.ase.calculators import new_calculator
from fastegnn_md.errors import ConfigError, DataError

PDB = Path(fastegnn_md.__file__).parent / "assets" / "ala2.pdb"


class Touch:
    """Unpickled, it makes a file: code of a stranger that has run."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def openmm(require: Any) -> Any:
    return require("openmm")


def xml_of(openmm: Any, *forces: Any) -> str:
    system = openmm.System()
    for _ in range(22):
        system.addParticle(12.0)
    for force in forces:
        system.addForce(force)
    return str(openmm.XmlSerializer.serialize(system))


def energy(state: Any) -> tuple[float, Any]:
    return 0.0, None


@pytest.fixture
def hostile(openmm: Any, tmp_path: Path) -> Path:
    """A System whose PythonForce makes the folder "mark" when it is read."""
    if not hasattr(openmm, "PythonForce"):
        pytest.skip("missing: PythonForce (pip install 'openmm>=8.6')")
    text = xml_of(openmm, openmm.PythonForce(energy))
    known = text.partition('function="')[2].partition('"')[0]
    text = text.replace(known, pickle.dumps(Touch(tmp_path / "mark"), protocol=4).hex())
    (tmp_path / "system.xml").write_text(text)
    return tmp_path / "system.xml"


def read(path: Path, **options: Any) -> Any:
    return openmm_system(PDB, None, path, "none", "10 A", **options)


def one_line(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that ends with exit code 2 and one line."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    err = capfd.readouterr().err
    assert caught.value.code == 2, err
    assert len(err.splitlines()) == 1, err
    return err


def test_a_pythonforce_is_refused_before_it_is_read_unless_it_is_trusted(
    hostile: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"system\.xml holds a PythonForce.* may run code .*--trust-system"):
        read(hostile)
    output = ["-o", tmp_path / "bursts.h5md", "--temperature", 300, "--system", hostile]
    assert "PythonForce" in one_line(capfd, "harvest", PDB, *output)
    structure = ["run", "ala2-vacuum", PDB, "--steps", 2, "--temperature", 300, "--system", hostile]
    assert "PythonForce" in one_line(capfd, *structure, "-o", tmp_path / "out.xtc")
    assert "PythonForce" in one_line(capfd, *structure, "-o", tmp_path / "out.xtc", "--engine", "openmm")
    validate = ["validate", "ala2-vacuum", "--reference", PDB, "--temperature", 300, "--system", hostile]
    assert "PythonForce" in one_line(capfd, *validate, "-o", tmp_path / "validation")
    assert not (tmp_path / "mark").exists()
    read(hostile, trust=True)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["TorchForce", "PythonTorchForce", "PlumedForce", "PythonForce"])
@pytest.mark.parametrize("nested", [False, True])
def test_forces_of_plugins_are_refused_wherever_they_stand(
    name: str, nested: bool, openmm: Any, tmp_path: Path
) -> None:
    inner = openmm.HarmonicBondForce()
    outer = inner
    if nested:
        outer = openmm.CustomCVForce("a")
        outer.addCollectiveVariable("a", inner)
    text = xml_of(openmm, outer).replace('type="HarmonicBondForce"', f'type="{name}" file="model.pt"')
    (tmp_path / "system.xml").write_text(text)
    with pytest.raises(DataError, match=f"holds a {name}, which is not one of OpenMM's own"):
        read(tmp_path / "system.xml")


def test_what_openmm_itself_writes_is_read(openmm: Any, tmp_path: Path) -> None:
    variable = openmm.CustomCVForce("a * t(a)")
    variable.addCollectiveVariable("a", openmm.CustomBondForce("k*r"))
    variable.addTabulatedFunction("t", openmm.Continuous1DFunction([0, 1, 2], 0, 1))
    alchemical = openmm.ATMForce("u0 + u1")
    alchemical.addForce(openmm.HarmonicAngleForce())
    plain = [
        getattr(openmm, name)()
        for name in ("NonbondedForce", "GBSAOBCForce", "DrudeForce", "AmoebaVdwForce", "RBTorsionForce", "RGForce")
    ]
    barostat = openmm.MonteCarloBarostat(1.0, 300.0)
    written = xml_of(openmm, variable, alchemical, barostat, openmm.CustomVolumeForce("v"), *plain)
    (tmp_path / "system.xml").write_text(written)
    assert openmm.XmlSerializer.serialize(read(tmp_path / "system.xml")) == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("<System", '<!DOCTYPE a [<!ENTITY b "bbb">]><System', 1), "has a document type"),
        (lambda text: text.replace("<Forces>", "<Forces><!-- -->"), "has a comment"),
        (lambda text: text.replace("<Forces>", "<Forces><![CDATA[<Force/>]]>"), "has a CDATA section"),
        (lambda text: text.replace("<Forces>", "<Forces><?include this?>"), "has a processing instruction"),
        (lambda text: text.replace("<Forces>", "<Forces>" + "<a>" * 10**5), "elements within each other"),
        (lambda text: text.replace("HarmonicBondForce", "Torch&#70;orce"), "holds a TorchForce"),
        (lambda text: text.replace('type="HarmonicBondForce"', ""), "is not a serialised OpenMM System"),
        (lambda text: text.replace('type="System"', 'type="TorchForce"'), "expected a serialised OpenMM System"),
        (lambda text: text.replace("System", "State"), "holds a State, expected"),
        (lambda text: text[: len(text) // 2], "not well-formed XML"),
        (lambda text: text.replace("mass", "ma\0ss"), "not well-formed XML"),
        (lambda text: "", "not well-formed XML"),
    ],
)
def test_xml_that_is_not_as_openmm_writes_it_is_refused_in_one_line(
    change: Callable[[str], str], message: str, openmm: Any, tmp_path: Path
) -> None:
    text = xml_of(openmm, openmm.HarmonicBondForce())
    changed = change(text)
    assert changed != text
    (tmp_path / "system.xml").write_text(changed)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "system.xml")
    assert "\n" not in str(caught.value)
    (tmp_path / "system.xml").write_bytes(changed.encode("utf-16"))
    with pytest.raises(DataError):
        read(tmp_path / "system.xml")


def test_force_fields_with_scripts_are_refused_unless_they_are_trusted_or_openmms_own(
    openmm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"<Script>import os; os.mkdir({str(tmp_path / 'mark')!r})</Script>"
    (tmp_path / "script.xml").write_text(f"<ForceField>{script}</ForceField>")
    (tmp_path / "outer.xml").write_text('<ForceField><!-- mine --><Include file="script.xml"/></ForceField>')
    (tmp_path / "plain.xml").write_text("<ForceField></ForceField>")
    for name in ("script.xml", "outer.xml"):
        with pytest.raises(DataError, match=r"script\.xml holds a script, which is run .*--trust-system"):
            openmm_system(PDB, ["amber14-all.xml", str(tmp_path / name)], None, "none", "10 A")
    assert not (tmp_path / "mark").exists()
    own = ["amber14-all.xml", "implicit/gbn2.xml", str(tmp_path / "plain.xml")]  # gbn2 has a script
    assert openmm_system(PDB, own, None, "none", "10 A").getNumParticles() == 22
    openmm_system(PDB, ["amber14-all.xml", str(tmp_path / "outer.xml")], None, "none", "10 A", trust=True)
    assert (tmp_path / "mark").exists()


_MODULE = """
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

class Half(Calculator):
    implemented_properties = ["energy"]

class Plain:
    pass

def give():
    return EMT()

def text():
    return "forces"

def kind():
    return EMT

def fails():
    raise KeyError("no parameters\\nhere")

def needs(argument):
    return EMT()
"""


def test_what_is_no_ase_calculator_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    require("ase")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "given.py").write_text(_MODULE)
    (tmp_path / "wrong.py").write_text("def (")
    assert new_calculator(calculator_factory("given:give")).name == "emt"
    for name in ("given:Plain", "given:nothing", "os:sep"):
        with pytest.raises(ConfigError, match=r"has no callable .* that makes an ASE calculator"):
            calculator_factory(name)
    with pytest.raises(ConfigError, match="cannot be imported, SyntaxError"):
        calculator_factory("wrong:EMT")
    for name, message in (
        ("os:getcwd", "returned a str; expected an ASE calculator"),
        ("given:text", "returned a str"),
        ("given:kind", "returned a ABCMeta|returned a type|returned a "),
        ("given:Half", "with energy and forces"),
        ("given:fails", "failed with KeyError: 'no parameters"),
        ("given:needs", "failed with TypeError"),
    ):
        with pytest.raises(DataError, match=message):
            new_calculator(calculator_factory(name))
    assert "expected an ASE calculator" in one_line(
        capfd, "run", "ethanol-xtb", _ethanol(tmp_path), "--steps", 2, "--temperature", 300, "-o", tmp_path / "o.xtc",
        "--calculator", "os:getcwd",
    )  # fmt: skip
    assert "expected an ASE calculator" in one_line(
        capfd, "harvest", _ethanol(tmp_path), "--engine", "ase", "--temperature", 300, "-o", tmp_path / "o.h5md",
        "--calculator", "os:getcwd",
    )  # fmt: skip


def _ethanol(folder: Path) -> Path:
    from ase.build import molecule
    from ase.io import write

    write(folder / "ethanol.xyz", molecule("CH3CH2OH"), format="xyz")
    return folder / "ethanol.xyz"
