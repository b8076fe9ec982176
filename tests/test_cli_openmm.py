"""``fastegnn-md run --engine openmm`` on files as people have them."""

from __future__ import annotations

import warnings
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import openmm_cases as cases
import pytest
from MDAnalysisTests import datafiles
from openmm import app

from fastegnn_md.cli import main

PSF = """PSF

       1 !NTITLE
 REMARKS two waters

       6 !NATOM
       1 W    1    TIP3 OH2  OT    -0.834000       15.9994           0
       2 W    1    TIP3 H1   HT     0.417000        1.0080           0
       3 W    1    TIP3 H2   HT     0.417000        1.0080           0
       4 W    2    TIP3 OH2  OT    -0.834000       15.9994           0
       5 W    2    TIP3 H1   HT     0.417000        1.0080           0
       6 W    2    TIP3 H2   HT     0.417000        1.0080           0

       4 !NBOND: bonds
       1       2       1       3       4       5       4       6

       2 !NTHETA: angles
       2       1       3       5       4       6

       0 !NPHI: dihedrals


       0 !NIMPHI: impropers


       0 !NDON: donors


       0 !NACC: acceptors


       0 !NNB

       0       0       0       0       0       0

"""
RTF = """* masses
*
   27  1
MASS     1 HT    1.00800 H
MASS     2 OT   15.99940 O
END
"""
PRM = """* parameters
*
BONDS
HT  OT  450.000  0.9572
ANGLES
HT  OT  HT  55.000  104.5200
NONBONDED nbxmod  5 atom cdiel shift vatom vdistance vswitch -
cutnb 14.0 ctofnb 12.0 ctonnb 10.0 eps 1.0 e14fac 1.0 wmin 1.5
HT  0.0  -0.0460  0.2245
OT  0.0  -0.1521  1.7682
END
"""
COORDINATES = "ATOM  {:5d} {:<4s} TIP3W{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00      W    {}\n"


@pytest.fixture
def cli(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    cases.small_network(kind="force-start").save(path)
    return path


@pytest.fixture
def pdb(tmp_path) -> Path:
    path = tmp_path / "peptide.pdb"
    with open(path, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(cases.peptide_pdb().topology, cases.peptide_pdb().positions, file)
    return path


def frames(topology: Path, trajectory: Path) -> tuple[list[float], np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDAnalysis, on what the topology lacks
        universe = mda.Universe(str(topology), str(trajectory))
        return [ts.time for ts in universe.trajectory], np.array([ts.positions.copy() for ts in universe.trajectory])


COMMON = ["--engine", "openmm", "--platform", "Reference", "--temperature", 300]


def test_a_pdb_file_with_a_force_field(cli, model, pdb, tmp_path):
    output = tmp_path / "out.xtc"
    options = [*COMMON, "--forcefield", "amber14-all.xml", "--constraints", "HBonds", "--steps", 25, "--every", 11]
    code, out, err = cli("run", model, pdb, *options, "-o", output)
    assert code == 0, err
    assert out.startswith("25 steps, ")
    assert "2 jumps of 8 fs" in out
    times, positions = frames(pdb, output)
    assert times == pytest.approx([0.0, 0.018, 0.036], abs=1e-6)
    assert np.abs(positions[0] - mda.Universe(str(pdb)).atoms.positions).max() < 0.1  # hydrogens moved to their lengths
    first = output.read_bytes()
    cli("run", model, pdb, *options, "-o", output, "--overwrite")
    assert output.read_bytes() == first
    cli("run", model, pdb, *options, "--seed", 4, "-o", output, "--overwrite")
    assert output.read_bytes() != first


@pytest.mark.filterwarnings("ignore:.* particles do not jump")
def test_only_the_selected_atoms_jump(cli, model, tmp_path):
    path, output = tmp_path / "solvated.pdb", tmp_path / "out.trr"
    topology, _, positions = cases.solvated()
    with open(path, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(topology, 10 * positions, file)
    options = ["--classical-steps", 0, "--steps", 1, "--select", "not resname HOH", "--cutoff", "8 A"]
    code, out, err = cli(
        "run",
        model,
        path,
        *COMMON,
        *options,
        *["--forcefield", "amber14-all.xml", "--forcefield", "amber14/tip3p.xml", "--constraints", "HBonds"],
        *["-o", output],
    )
    assert code == 0, err
    assert "1 jumps of 8 fs" in out
    _, found = frames(path, output)
    moved = np.abs(found[1] - found[0]).max(axis=1)
    assert moved[:22].max() > 0.01
    assert moved[22:].max() < 1e-4


def test_an_amber_topology_brings_its_force_field(cli, model, tmp_path):
    """Acetaldehyde in water, with velocities and a box."""
    output = tmp_path / "out.xtc"
    code, out, err = cli(
        *["run", model, datafiles.TRJ_NCBOX, "--topology", datafiles.PRM_NCBOX, "--select", "resname ACE", *COMMON],
        *["--constraints", "HBonds", "--steps", 12, "-o", output],
    )
    assert code == 0, err
    assert "1 jumps of 8 fs" in out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        box = mda.Universe(datafiles.PRM_NCBOX, str(output)).dimensions
    assert box == pytest.approx([28.818764, 28.278753, 27.726164, 90, 90, 90], rel=1e-5)


def test_a_charmm_psf_with_its_parameters(cli, model, tmp_path):
    for name, text in (("two.psf", PSF), ("two.rtf", RTF), ("two.prm", PRM)):
        (tmp_path / name).write_text(text)
    with open(tmp_path / "two.pdb", "w", encoding="utf-8") as file:
        for k, (name, x, y) in enumerate(
            [(n, x + s, y) for s in (0.0, 3.2) for n, x, y in (("OH2", 0, 0), ("H1", 0.957, 0), ("H2", -0.24, 0.927))]
        ):
            file.write(COORDINATES.format(k + 1, name, k // 3 + 1, x, y, 0.0, name[0]))
    files = [
        *["--topology", tmp_path / "two.psf", "--forcefield", tmp_path / "two.rtf"],
        *["--forcefield", tmp_path / "two.prm"],
    ]
    output = tmp_path / "out.xtc"
    code, out, err = cli("run", model, tmp_path / "two.pdb", *files, *COMMON, "--steps", 22, "-o", output)
    assert code == 0, err
    assert "2 jumps of 8 fs" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "gromacs"], "unknown engine 'gromacs'; expected ase or openmm"),
        (["--engine", "openmm"], "takes its forces from OpenMM: give --forcefield"),
        (["--engine", "openmm", "--forcefield", "amber14-all.xml", "--calculator", "emt"], "no --calculator"),
        (["--engine", "openmm", "--forcefield", "amber14-all.xml"], "needs --temperature"),
        (
            ["--engine", "openmm", "--forcefield", "amber14-all.xml", "--temperature", 300, "--timestep", "3 fs"],
            "steps of 3 fs do not add up to it",
        ),
        (
            ["--engine", "openmm", "--forcefield", "amber14-all.xml", "--temperature", 300, "--platform", "Quantum"],
            "OpenMM has no platform 'Quantum'",
        ),
        (["--engine", "openmm", "--system", "none.xml", "--temperature", 300], "none.xml does not exist"),
    ],
)
def test_mistakes_are_explained(cli, model, pdb, tmp_path, options, message):
    code, _, err = cli("run", model, pdb, "--steps", 5, *options, "-o", tmp_path / "out.xtc")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out.xtc").exists()
