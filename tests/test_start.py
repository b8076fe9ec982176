"""Geometries to start from: in nm, of atoms in another order, and merely strained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.cli import main
from fastegnn_md.data.bonds import check_spacing
from fastegnn_md.errors import DataError
from fastegnn_md.integrators.start import check_start
from fastegnn_md.propagator.limits import JumpLimits

LIMITS = JumpLimits({}, bonds={(1, 8): (0.9, 1.1)})


def water(scale: float = 1.0, cell: float | None = None) -> State:
    """Its second bond is longer than the first by this factor."""
    x = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [0, scale * 0.96, 0]], dtype=torch.float64)
    if cell is not None:
        x[2, 1] -= cell  # the atom of the next image
    return State(
        positions=x,
        velocities=torch.zeros_like(x),
        numbers=torch.tensor([8, 1, 1]),
        masses=torch.tensor([16.0, 1, 1], dtype=torch.float64),
        bonds=torch.tensor([[0, 1], [0, 2]]),
        cell=None if cell is None else cell * torch.eye(3, dtype=torch.float64)[None],
        pbc=None if cell is None else torch.ones(1, 3, dtype=torch.bool),
    )


@pytest.mark.parametrize(("scale", "cell"), [(1.0, None), (2.2, None), (0.5, None), (1.0, 10.0)])
def test_strained_bonds_and_those_across_the_box_are_no_error(scale, cell):
    check_start("pose.pdb", water(scale, cell), LIMITS)


def test_kinds_of_bond_that_training_did_not_have_are_not_looked_at():
    check_start("pose.pdb", water(50.0), JumpLimits({}, bonds={(1, 6): (0.9, 1.1)}))
    check_start("pose.pdb", water(50.0), JumpLimits({}))
    check_start("pose.pdb", water(50.0).replace(bonds=None), LIMITS)


@pytest.mark.parametrize(("scale", "length"), [(3.0, "2.88"), (0.1, "0.096"), (0.0, "0")])
def test_a_bond_that_cannot_be_one_is_named(scale, length):
    with pytest.raises(DataError, match="the bond of atoms 0 ") as caught:
        check_start("pose.pdb", water(scale), LIMITS)
    assert f"0 (O) and 2 (H) is {length} Å long, those of training are 0.9 to 1.1 Å (1 of 2 " in str(caught.value)


@pytest.mark.filterwarnings("ignore:No dimensions set")
@pytest.mark.parametrize("engine", ["ase", "openmm"])
@pytest.mark.parametrize("wrong", ["nm", "order"])
def test_the_command_asks_for_units_and_order_before_the_first_step(
    engine: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture, require: Any
) -> None:
    require("openmm")
    import MDAnalysis as mda

    pdb = Path(sys.modules["fastegnn_md"].__path__[0]) / "assets" / "ala2.pdb"
    universe, start = mda.Universe(str(pdb)), tmp_path / "start.dcd"
    x = universe.atoms.positions
    universe.atoms.positions = 0.1 * x if wrong == "nm" else np.roll(x, 1, axis=0)
    universe.atoms.write(str(start))
    output = tmp_path / "out.dcd"
    bath = ["--temperature", "300", "--steps", "2", "--engine", engine, "--constraints", "HBonds"]
    field = ["--forcefield", "amber99sbildn.xml", "--forcefield", "amber99_obc.xml"]
    with pytest.raises(SystemExit) as ended:
        main(["run", "ala2-obc-10ps", str(start), "--topology", str(pdb), *bath, *field, "-o", str(output)])
    said = capsys.readouterr().err
    assert (ended.value.code, output.exists()) == (2, False)
    assert f"{start}: the bond of atoms " in said
    assert "are coordinates in nm in place of Å, atoms in another order than in the topology" in said


def _commands(structure: Path, coordinates: Path, output: Path) -> dict[str, list[str]]:
    """A call of each command that starts from a structure, but run."""
    field = ["--forcefield", "amber99sbildn.xml", "--forcefield", "amber99_obc.xml", "--constraints", "HBonds"]
    emt = ["--calculator", "emt", "--temperature", "300"]
    short = ["--burst", "10 ps", "--interval", "1 ps", "--temperature", "300"]
    return {
        "learn": ["learn", str(structure), *emt, "--lag", "2 fs", "--time", "4 fs", "-o", str(output)],
        "adapt": ["adapt", "organic-xtb-4fs", str(structure), *emt, "-o", str(output)],
        "harvest": ["harvest", str(structure), str(coordinates), *field, "--temperature", "300", "-o", str(output)],
        "harvest ase": ["harvest", str(structure), *emt, "-o", str(output)],
        "seeds": ["seeds", "ala2-obc-10ps", str(structure), str(coordinates), *field, *short, "-o", str(output)],
        "validate": [
            *["validate", "ala2-gbn2", "--reference", str(structure), str(coordinates), *field],
            *["--temperature", "300", "--steps", "2", "-o", str(output)],
        ],
    }


@pytest.mark.filterwarnings("ignore:No dimensions set")
@pytest.mark.parametrize(
    ("command", "wrong"),
    [(command, wrong) for command in ("learn", "adapt", "harvest ase") for wrong in ("nm", "twice")]
    + [(command, wrong) for command in ("harvest", "seeds", "validate") for wrong in ("nm", "twice", "order")],
)
def test_every_command_looks_at_its_start(
    command: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture, require: Any
) -> None:
    for name in ("openmm", "deeptime", "physical_validation"):
        require(name)
    import MDAnalysis as mda

    pdb = Path(sys.modules["fastegnn_md"].__path__[0]) / "assets" / "ala2.pdb"
    universe = mda.Universe(str(pdb))
    x = universe.atoms.positions
    other = {"nm": 0.1 * x, "order": np.roll(x, 1, axis=0), "twice": x.copy()}[wrong]
    if wrong == "twice":
        other[3] = other[2] + 0.05
    universe.atoms.positions = other
    alone = command in ("learn", "adapt", "harvest ase")  # structure and coordinates are one file
    structure, coordinates = tmp_path / ("start.xyz" if alone else "start.pdb"), tmp_path / "start.dcd"
    universe.atoms.write(str(coordinates))
    if alone:
        universe.atoms.write(str(structure))
    else:
        structure.write_bytes(pdb.read_bytes())
    before = structure.read_bytes(), coordinates.read_bytes()
    output = tmp_path / "out.h5md"
    with pytest.raises(SystemExit) as ended:
        main(_commands(structure, coordinates, output)[command])
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert ("in another order than in the topology" if wrong == "order" else "in nm") in said
    assert (structure.read_bytes(), coordinates.read_bytes()) == before
    assert not output.is_file()


def test_the_peptide_of_the_package_brings_its_bonds(tmp_path: Path) -> None:
    import MDAnalysis as mda

    with pytest.raises(SystemExit, match="0"):
        main(["models", "--start", "ala2-gbn2", str(tmp_path / "start.pdb")])
    assert len(mda.Universe(str(tmp_path / "start.pdb")).bonds) == 21


def test_two_atoms_on_each_other_are_named_and_virtual_sites_are_none() -> None:
    universe = mda.Universe.empty(4, trajectory=True)
    universe.add_TopologyAttr("names", ["O", "H1", "H2", "M"])
    universe.add_TopologyAttr("masses", [15.999, 1.008, 1.008, 0.0])
    x = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0.1, 0.08, 0]])  # TIP4P
    check_spacing(universe.atoms, x, None, "START")
    x[2] = [9.99, 0, 0]
    check_spacing(universe.atoms, x, None, "START")
    with pytest.raises(DataError, match=r"START: .*O.* and .*H2.* are 0.01 Å apart \(2 of 4 atoms"):
        check_spacing(universe.atoms, x, 10.0 * np.eye(3), "START")
