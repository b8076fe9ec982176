"""Models that come with the package: the catalogue, its files, and names in place of paths."""

from __future__ import annotations

import json

import pytest

from fastegnn_md import Propagator
from fastegnn_md.cli import main
from fastegnn_md.data import load_universe
from fastegnn_md.data.topology import read_topology
from fastegnn_md.errors import CheckpointError
from fastegnn_md.propagator import catalogue
from fastegnn_md.propagator.catalogue import Catalogue, CatalogueEntry, find_model
from fastegnn_md.propagator.config import Kind, PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.file import Manifest
from fastegnn_md.propagator.limits import JumpLimits

LARGEST = 2_000_000  # bytes
ENTRY = {
    "system": "ethanol, isolated",
    "start": "../starts/water.xyz",
    "run": "--calculator none",
    "engine": "no engine",
    "theory": "none",
    "classical_timestep_fs": 0.5,
    "temperature_K": [300, 500],
    "command": "none: the weights are random",
    "seed": 1,
}


def untrained(timestep: float = 0.005, kind: Kind = "force-free") -> Propagator:
    domain = Domain(
        masses={1: (1.0, 1.1), 6: (12.0, 12.1), 8: (15.9, 16.1)},
        limits=JumpLimits({}),
        periodic=False,
        bonds=False,
        conserves_momentum=True,
        neighbours=8.0,
        velocity_scale=10.0,
        force_scale=1e4,
    )
    return Propagator.build(PropagatorConfig(kind=kind, hidden=8, layers=1), timestep, domain)


@pytest.fixture
def folder(tmp_path):
    """Two untrained models in a folder of their own."""
    path = tmp_path / "models"
    path.mkdir()
    informed = untrained(timestep=0.002, kind="force-start")
    informed.metrics = {"over_best_baseline": {"x": 0.1234, "v": 0.5}}
    untrained().save(path / "ethanol-free.safetensors")
    informed.save(path / "ethanol-informed.safetensors")
    second = {**ENTRY, "temperature_K": [300, 300], "start": None}
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts" / "water.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n", encoding="utf-8")
    write(path, {"ethanol-free": ENTRY, "ethanol-informed": second})
    return path


def write(folder, entries) -> None:
    (folder / "catalogue.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.fixture(params=["package", "temporary"])
def models(request, folder) -> Catalogue:
    """The models that are shipped, and others in a folder of the test."""
    return Catalogue() if request.param == "package" else Catalogue(folder)


def cli(capfd, *arguments):
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return caught.value.code, out, err


def test_every_entry_has_a_file_and_every_file_an_entry(models):
    assert {file.stem for file in models.folder.glob("*.safetensors")} == set(models.entries)
    assert {file.name for file in models.folder.iterdir() if file.suffix != ".safetensors"} == {"catalogue.json"}


def test_every_model_loads_is_small_and_says_how_good_it_is(models):
    shipped = models.folder == catalogue.FOLDER
    for name in models.entries:
        assert models.path(name).stat().st_size < LARGEST
        propagator = Propagator.load(models.path(name))
        assert propagator.timestep == models.manifest(name).timestep_ps
        if shipped:
            assert set(propagator.metrics["over_best_baseline"]) >= {"x"}
            assert propagator.fingerprint


def test_a_model_accepts_the_atoms_it_starts_from():
    models = Catalogue()
    for name in models.entries:
        universe = load_universe(models.start(name))
        domain = Propagator.load(models.path(name)).domain
        assert set(read_topology(universe.atoms).numbers.tolist()) <= set(domain.species)
        assert (universe.dimensions is not None) == domain.periodic


@pytest.mark.slow
@pytest.mark.parametrize("name", Catalogue().entries)
def test_a_model_runs_from_its_own_structure_as_the_catalogue_says(require, tmp_path, capfd, name):
    entry = Catalogue().entries[name]
    require("openmm" if "--forcefield" in entry.run else "ase")
    if "tblite" in entry.run:
        require("tblite")
    output = tmp_path / "run.xtc"
    steps = 4 if Propagator.load(name).stochastic else 10
    code, out, err = cli(capfd, "run", name, *entry.run.split(), "--steps", steps, "-o", output)
    assert code == 0, err
    assert (
        f"{name} starts from its own structure, {Catalogue().start(name).name} at {entry.temperature_K[0]:g} K" in err
    )
    assert " 0 refused" in out
    assert len(load_universe(Catalogue().start(name), output).trajectory) == steps + 1


def test_copper_runs_as_it_stands_and_a_structure_or_temperature_that_is_given_wins(require, tmp_path, capfd):
    require("ase")
    model = ("run", "copper-emt", "--steps", 2)
    assert cli(capfd, *model, "-o", tmp_path / "own.xtc")[0] == 0
    assert cli(capfd, *model, "-o", tmp_path / "own.traj", "--temperature", 700)[0] == 0
    hot = load_universe(tmp_path / "own.traj", tmp_path / "own.traj").trajectory[0].velocities
    assert cli(capfd, "models", "--start", "copper-emt", tmp_path / "copper.extxyz")[0] == 0
    small = require("ase.io").read(tmp_path / "copper.extxyz")
    small.positions += 0.5
    small.write(tmp_path / "moved.extxyz")
    options = ("--temperature", 700, "-o", tmp_path / "given.traj")
    code, _, err = cli(capfd, *model[:2], tmp_path / "moved.extxyz", *model[2:], *options)
    assert (code, "its own structure" in err) == (0, False)
    given = load_universe(tmp_path / "given.traj", tmp_path / "given.traj").trajectory[0]
    assert given.positions == pytest.approx(small.positions, abs=1e-4)
    assert given.velocities == pytest.approx(hot, rel=1e-4)


def test_without_a_structure_the_message_says_where_one_is_to_be_had(folder, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    output = ("--steps", 1, "-o", tmp_path / "run.xtc")
    for model, options, message in (
        ("ethanol-informed", (), "comes without a structure to start from; give one of your own"),
        (folder / "ethanol-free.safetensors", (), "START is missing"),
        ("ethanol-free", ("--topology", folder), "give both"),
        ("ethanol-fre", (), "did you mean 'ethanol-free'"),
    ):
        code, _, err = cli(capfd, "run", model, *options, *output)
        assert (code, message in err, len(err.splitlines())) == (2, True, 1), err


def test_the_structure_of_a_model_is_written_and_nothing_is_replaced_unasked(folder, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    file, there = tmp_path / "mine.xyz", (tmp_path / "starts" / "water.xyz").read_text()
    assert cli(capfd, "models", "--start", "ethanol-free", file)[0] == 0
    assert file.read_text() == there
    file.write_text("mine")
    for name, path, message in (
        ("ethanol-free", file, "is there already"),
        ("ethanol-free", tmp_path / "mine.pdb", "is a .xyz file"),
        ("ethanol-informed", tmp_path / "other.xyz", "comes without a structure"),
        ("ethanol", tmp_path / "other.xyz", "did you mean"),
    ):
        code, _, err = cli(capfd, "models", "--start", name, path)
        assert (code, message in err) == (2, True), err
    assert file.read_text() == "mine"
    assert cli(capfd, "models", "--start", "ethanol-free", file, "--overwrite")[0] == 0
    assert file.read_text() == there


def test_the_catalogue_repeats_nothing_that_the_file_says():
    said = set(Manifest.model_fields) | set(PropagatorConfig.model_fields)
    assert not set(CatalogueEntry.model_fields) & said


def test_a_model_is_loaded_by_its_name(folder, monkeypatch):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    assert Propagator.load("ethanol-informed").timestep == 0.002
    assert find_model("ethanol-free") == folder / "ethanol-free.safetensors"


def test_a_file_wins_over_a_name_and_a_folder_does_not(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ethanol-free").mkdir()
    assert find_model("ethanol-free", Catalogue(folder)) == folder / "ethanol-free.safetensors"
    (tmp_path / "ethanol-free").rmdir()
    untrained(timestep=0.007).save("ethanol-free")
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    assert Propagator.load("ethanol-free").timestep == 0.007


def test_an_unknown_name_is_refused_with_the_known_ones_and_the_nearest(folder, monkeypatch):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    with pytest.raises(CheckpointError, match=r"'ethanol-fre' is neither .*ethanol-free, ethanol-informed\).*mean 'e"):
        Propagator.load("ethanol-fre")
    with pytest.raises(CheckpointError, match=r"'xyz' is neither .*give the path"):
        Propagator.load("xyz")


@pytest.mark.parametrize("path", ["absent.safetensors", "absent/ethanol-free", "ethanol-free.safetensors"])
def test_a_missing_path_is_not_taken_for_a_name(folder, tmp_path, monkeypatch, path):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"no model file at {path}"):
        Propagator.load(path)


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ({"ala2": {**ENTRY, "timestep_ps": 0.008}}, r"ala2\.timestep_ps"),
        ({"ala2": {key: value for key, value in ENTRY.items() if key != "seed"}}, r"ala2\.seed"),
        ({"ala2": {**ENTRY, "theory": " "}}, r"ala2\.theory"),
        ({"ala2": {**ENTRY, "temperature_K": [500, 300]}}, "ala2.*the lowest temperature first"),
        ({"../ala2": ENTRY}, "ala2"),
        ([], "''"),
    ],
)
def test_a_damaged_catalogue_is_refused_with_the_place(tmp_path, entries, where):
    write(tmp_path, entries)
    with pytest.raises(CheckpointError, match=f"catalogue.json is damaged at .*{where}"):
        Catalogue(tmp_path)


def test_a_folder_without_catalogue_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read the catalogue of models .*catalogue\.json"):
        Catalogue(tmp_path)


def test_the_command_lists_what_catalogue_and_files_say(folder, monkeypatch, capfd):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    code, out, err = cli(capfd, "models")
    assert (code, err) == (0, "")
    head, free, informed, *rest = out.splitlines()
    assert head.split("  ")[0] == "name"
    assert free.split() == ["ethanol-free", "5", "fs", "force-free", "300", "to", "500", *free.split()[7:]]
    assert "no engine, none, steps of 0.5 fs" in free
    assert informed.split()[1:7] == ["2", "fs", "force-start", "300", "0.123", "0.500"]
    assert "  start    water.xyz" in rest
    assert "  run      fastegnn-md run ethanol-free --calculator none --steps 100 -o run.xtc" in rest
    assert sum("  start  " in line for line in rest) == 1
    assert "  made by  none: the weights are random (seed 1)" in rest
    code, out, err = cli(capfd, "models", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == ["ethanol-free", "ethanol-informed"]
    assert rows[1]["timestep_ps"] == 0.002
    assert rows[1]["over_best_baseline"] == {"x": 0.1234, "v": 0.5}
    assert {key: rows[0][key] for key in ENTRY} == {**ENTRY, "start": "water.xyz"}


def test_the_command_works_on_what_is_shipped(capfd):
    code, out, err = cli(capfd, "models")
    assert (code, err) == (0, "")
    assert all(name in out for name in Catalogue().entries)
    assert [row["name"] for row in json.loads(cli(capfd, "models", "--json")[1])] == list(Catalogue().entries)


def test_commands_take_a_name_for_a_model(folder, monkeypatch, capfd):
    monkeypatch.setattr(catalogue, "FOLDER", folder)
    code, out, err = cli(capfd, "inspect", "ethanol-free", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["timestep_ps"] == 0.005
    code, _, err = cli(capfd, "run", "ethanol-fee", "absent.xyz", "--steps", 1, "-o", "out.xtc")
    assert code == 2
    assert "did you mean 'ethanol-free'" in err
