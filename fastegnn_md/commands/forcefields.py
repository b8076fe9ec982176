"""Names on the command line become what computes forces: an OpenMM System or a factory of ASE calculators."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._extras import naming_extras
from ..errors import ConfigError, DataError, MissingDependencyError, brief
from ..units import parse_quantity

if TYPE_CHECKING:
    import numpy as np
    import openmm
    from ase.calculators.calculator import Calculator

ForceField = Annotated[
    list[str] | None,
    typer.Option(
        "--forcefield", help="OpenMM force field file, as amber14-all.xml, or CHARMM file for a PSF; may be repeated."
    ),
]
SystemFile = Annotated[
    Path | None, typer.Option("--system", help="A serialised OpenMM System (.xml) instead of a force field.")
]
TrustSystem = Annotated[
    bool,
    typer.Option(
        "--trust-system", help="Read a --system or --forcefield file even if it runs code (PythonForce, scripts)."
    ),
]
Constraints = Annotated[
    str, typer.Option("--constraints", help="Of the force field: none, HBonds, AllBonds or HAngles.")
]
Cutoff = Annotated[str, typer.Option("--cutoff", help="Of the force field in a periodic box (PME).")]
CalculatorName = Annotated[
    str | None,
    typer.Option("--calculator", help="ASE calculator: emt, lj, tblite, mace, or module:callable of your own."),
]

# name -> (module, callable, arguments)
_CALCULATORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "emt": ("ase.calculators.emt", "EMT", {}),
    "lj": ("ase.calculators.lj", "LennardJones", {}),
    "tblite": ("tblite.ase", "TBLite", {"method": "GFN2-xTB", "verbosity": 0}),
    "mace": ("mace.calculators", "mace_mp", {}),
}
_AMBER = (".prmtop", ".parm7")
_STRUCTURES = (".pdb", ".cif", ".pdbx", ".psf", *_AMBER)
_CONSTRAINTS = ("none", "HBonds", "AllBonds", "HAngles")

_NO_BOX = 0.1001  # nm; a box of 1 Å in a PDB file stands for none, as MDAnalysis writes it


def engine_components(calculator: str | None, forcefield: list[str] | None, system: Path | None) -> list[str]:
    """What the engine of a command needs, by the importable names of :mod:`fastegnn_md._extras`."""
    if calculator is not None:
        return ["ase", "tblite"] if calculator == "tblite" else ["ase"]
    return ["openmm"] if forcefield or system else []


def calculator_factory(name: str) -> Callable[[], Calculator]:
    """A function that makes an ASE calculator and can be sent to other processes.

    Parameters
    ----------
    name : str
        One of ``emt``, ``lj``, ``tblite``, ``mace``, or ``module:callable``.

    Raises
    ------
    ConfigError
        If there is no such calculator.
    MissingDependencyError
        If its package is not installed.
    """
    if name in _CALCULATORS:
        module_name, attribute, arguments = _CALCULATORS[name]
    else:
        module_name, separator, attribute = name.partition(":")
        arguments = {}
        if not separator or not module_name or not attribute:
            known = ", ".join(_CALCULATORS)
            raise ConfigError(f"unknown calculator {name!r}; expected one of {known}, or module:callable")
        if os.getcwd() not in sys.path:  # a file beside the user's data
            sys.path.insert(0, os.getcwd())
    try:
        with naming_extras("an ASE calculator"):
            module = importlib.import_module(module_name)
    except MissingDependencyError:
        raise
    except ModuleNotFoundError as error:
        package = {"tblite": "tblite", "mace": "mace-torch"}.get(name)
        remedy = "install it in this environment" if package is None else f"pip install {package}"
        if name not in _CALCULATORS and error.name == module_name.partition(".")[0]:
            raise MissingDependencyError(
                f"calculator {name!r}: there is no {error.name}.py in this folder or on PYTHONPATH, and no module "
                f"{error.name!r} is installed; correct the name, or {remedy}"
            ) from error
        raise MissingDependencyError(
            f"calculator {name!r} needs the module {error.name!r}, which is not installed: {remedy}"
        ) from error
    except Exception as error:  # of code that is not ours
        raise ConfigError(
            f"the module of calculator {name!r} cannot be imported, {type(error).__name__}: "
            f"{brief(error, quoted=False)}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory) or (isinstance(factory, type) and not hasattr(factory, "get_property")):
        raise ConfigError(
            f"module {module_name!r} has no callable {attribute!r} that makes an ASE calculator; give a class of ASE "
            "calculators, or a function without arguments that returns one"
        )
    return partial(factory, **arguments) if arguments else factory


def openmm_system(
    structure: Path,
    forcefield: list[str] | None,
    system: Path | None,
    constraints: str,
    cutoff: str,
    box: np.ndarray | None = None,
    *,
    isolated: bool = False,
    trust: bool = False,
) -> openmm.System:
    """An OpenMM System for a structure file.

    Parameters
    ----------
    structure : Path
        ``.pdb``, ``.cif`` or ``.pdbx`` with force field files, ``.psf`` with CHARMM parameter files, ``.prmtop`` or
        ``.parm7`` without.
    forcefield : list of str
        Names of OpenMM force field files, or of CHARMM topology and parameter files.
    system : Path
        A serialised System, taken as it is.
    constraints : str
        none, HBonds, AllBonds or HAngles.
    cutoff : str
        Of PME where there is a box; without one there is no cutoff.
    box : ndarray, shape (3, 3), nm, optional
        In place of that of the structure, in the form OpenMM asks for.
    isolated : bool
        Without a box, whatever the structure says.
    trust : bool
        Read files that run code: a serialised System with a PythonForce or a force of a plugin, a force field with
        scripts. Force fields that OpenMM brings always are.

    Raises
    ------
    ConfigError
        If neither a force field nor a System is given, or the constraints have another name.
    DataError
        If a file cannot be read or would run code, or the force field does not know the molecule.
    """
    if constraints not in _CONSTRAINTS:
        raise ConfigError(f"unknown constraints {constraints!r}; expected one of {', '.join(_CONSTRAINTS)}")
    with naming_extras("a force field of OpenMM"):
        from openmm import app, unit

        from ..engines.openmm.xml_files import check_forcefield

    if system is not None:
        return _read_system(system, trust)
    suffix = structure.suffix.lower()
    amber = suffix in _AMBER
    if suffix in _STRUCTURES and not amber and not forcefield:
        raise ConfigError("no force field is given; use --forcefield amber14-all.xml or --system system.xml")
    arguments: dict[str, Any] = {
        "constraints": None if constraints == "none" else getattr(app, constraints),
        "rigidWater": constraints != "none",
        "removeCMMotion": False,  # bursts and jumps conserve momentum by themselves
    }
    if not trust:
        for local in filter(Path.is_file, map(Path, forcefield or [])):
            if local.suffix.lower() == ".xml":
                with _naming_trust():
                    check_forcefield(local)
    file = openmm_structure(structure)
    with _explaining(structure):
        vectors = file.topology.getPeriodicBoxVectors() if box is None else box * unit.nanometer
        vectors = None if isolated else vectors
        if vectors is not None:
            file.topology.setPeriodicBoxVectors(vectors)
            length = parse_quantity(cutoff, "length")
            arguments |= {"nonbondedMethod": app.PME, "nonbondedCutoff": length * unit.angstrom}
        else:
            arguments["nonbondedMethod"] = app.NoCutoff
        if suffix == ".psf":
            if vectors is not None:
                file.setBox(*_lengths_and_angles(vectors))
            return file.createSystem(app.CharmmParameterSet(*(forcefield or [])), **arguments)
        if amber:
            return file.createSystem(**arguments)
        return app.ForceField(*(forcefield or [])).createSystem(file.topology, **arguments)


def openmm_structure(structure: Path) -> Any:
    """The OpenMM reader of a structure file, with its ``topology``.

    Raises
    ------
    DataError
        If OpenMM does not read such files, or not this one.
    """
    with naming_extras("a force field of OpenMM"):
        from openmm import app

    kinds = {
        ".pdb": app.PDBFile,
        ".cif": app.PDBxFile,
        ".pdbx": app.PDBxFile,
        ".psf": app.CharmmPsfFile,
        ".prmtop": app.AmberPrmtopFile,
        ".parm7": app.AmberPrmtopFile,
    }
    if structure.suffix.lower() not in kinds:
        raise DataError(
            f"cannot build an OpenMM System from {structure}; give a .pdb, .cif, .psf or .prmtop file, or --system "
            "system.xml"
        )
    with _explaining(structure):
        read = kinds[structure.suffix.lower()](str(structure))
        box = read.topology.getPeriodicBoxVectors() if structure.suffix.lower() == ".pdb" else None
        if box is not None and max(box[k][k]._value for k in range(3)) <= _NO_BOX:
            read.topology.setPeriodicBoxVectors(None)
        return read


@contextmanager
def _explaining(structure: Path) -> Iterator[None]:
    from ..data.topology import nothing_in

    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # OpenMM's readers raise errors of any class, plain Exception too
        nothing = nothing_in(structure) if structure.exists() else None
        reason = f"OpenMM cannot build a System for {structure}: {' '.join(str(error).split())}"
        raise DataError(nothing or reason) from error


@contextmanager
def _naming_trust() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; if you know who wrote it, add --trust-system") from error


def _read_system(path: Path, trust: bool) -> openmm.System:
    import openmm

    from ..engines.openmm.xml_files import check_serialized

    if not path.exists():
        raise DataError(f"{path} does not exist; give a serialised OpenMM System")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise DataError(f"{path} is not a serialised OpenMM System: {error}") from error
    if not trust:
        with _naming_trust():
            check_serialized(text, path, "System")
    try:
        loaded = openmm.XmlSerializer.deserialize(text)
    except (openmm.OpenMMException, ValueError) as error:
        raise DataError(f"{path} is not a serialised OpenMM System: {brief(error, quoted=False)}") from error
    if not isinstance(loaded, openmm.System):
        raise DataError(f"{path} holds a {type(loaded).__name__}, expected a serialised OpenMM System")
    return loaded


def _lengths_and_angles(vectors: Any) -> tuple[Any, ...]:
    from openmm.app.internal.unitcell import computeLengthsAndAngles
    from openmm.unit import nanometer, radian

    lengths_and_angles = computeLengthsAndAngles(vectors)
    return (*(one * nanometer for one in lengths_and_angles[:3]), *(one * radian for one in lengths_and_angles[3:]))
