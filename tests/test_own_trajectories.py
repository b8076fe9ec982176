"""Trajectories as users bring them: bonds that are missing or not as long as bonds are, no velocities, a box."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.cli import main
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.data.bonds import add_guessed_bonds
from fastegnn_md.data.trajectory import leave_box
from fastegnn_md.errors import DataError
from fastegnn_md.harvest import harvest
from fastegnn_md.harvest.seeding import _states as seed_states
from fastegnn_md.propagator.catalogue import Catalogue

SMALL = [f"--set=propagator.{one}" for one in ("hidden=8", "layers=1", "radial_functions=4", "virtual_nodes=1")]
SMALL += ["--set=updates=2", "--set=validate_every=2", "--kind", "flow", "--lag", "1 ps"]
N = 22


def peptide(bonds: bool = True) -> mda.Universe:
    """Alanine dipeptide, 60 frames 1 ps apart that are noise about one."""
    universe = mda.Universe(str(Catalogue().start("ala2-obc-10ps")))
    universe.del_TopologyAttr("bonds")
    if bonds:
        assert add_guessed_bonds(universe) == 21
    noise = 0.03 * np.random.default_rng(0).standard_normal((60, N, 3))
    universe.load_new((universe.atoms.positions + noise).astype(np.float32), dt=1.0)
    return universe


def changed(universe: mda.Universe, change, box: float | None = None) -> mda.Universe:
    x = change(universe.trajectory.timeseries(order="fac"))
    dimensions = None if box is None else np.tile(np.float32([box, box, box, 90, 90, 90]), (len(x), 1))
    universe.load_new(x.astype(np.float32), dt=1.0, dimensions=dimensions)
    return universe


def pairs_of(universe: mda.Universe, **options) -> TrajectoryPairs:
    return TrajectoryPairs(universe, lag=1.0, velocities="none", progress=False, **options)


def wrapped(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=(0, 1)) + 0.1 * np.arange(len(x))[:, None, None]) % 15.0


ORDER = np.random.default_rng(1).permutation(N)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / 10, r"frame 0: bonds are too short; half of them are below 0\.1\d* Å.*coordinates in nm"),
        (lambda x: x * 10, r"frame 0: bonds are too long; half of them are above 1\d\.\d Å.*tenth of an Å"),
        (lambda x: x[:, ORDER], r"frame 0: the bond of atom .* is \d+\.\d\d Å long, the sum .* another order"),
        (wrapped, r"frame \d+: the bond of atom .* wrapped into a box that the file does not hold"),
    ],
    ids=["nm", "tenths", "another order", "wrapped"],
)
def test_bonds_of_another_length_are_refused(change, words: str) -> None:
    with pytest.raises(DataError, match=words):
        pairs_of(changed(peptide(), change))


def test_atoms_that_wander_off_later_are_seen() -> None:
    def late(x: np.ndarray) -> np.ndarray:
        x[40:, 4] += 9.0
        return x

    with pytest.raises(DataError, match="frame 59: the bond of atom"):
        pairs_of(changed(peptide(), late))


def test_stretched_bonds_and_those_across_a_box_are_not() -> None:
    assert len(pairs_of(changed(peptide(), lambda x: 1.45 * x))) == 59
    assert len(pairs_of(changed(peptide(), lambda x: 0.75 * x))) == 59
    assert pairs_of(changed(peptide(), wrapped, box=15.0)).periodic
    assert not pairs_of(changed(peptide(), wrapped, box=15.0), isolated=True).periodic


def chain(symbol: str, length: float, atoms: int = 8) -> mda.Universe:
    """Atoms in a zigzag, each bonded to the next."""
    universe = mda.Universe.empty(atoms, trajectory=False)
    universe.add_TopologyAttr("elements", [symbol] * atoms)
    universe.add_TopologyAttr("bonds", [(i, i + 1) for i in range(atoms - 1)])
    along = np.arange(atoms)[:, None] * [0.8 * length, 0, 0] + (np.arange(atoms) % 2)[:, None] * [0, 0.6 * length, 0]
    x = along + 0.02 * np.random.default_rng(2).standard_normal((10, atoms, 3))
    universe.load_new(x.astype(np.float32), dt=1.0)
    return universe


@pytest.mark.parametrize(("symbol", "length"), [("C", 3.8), ("C", 4.7), ("P", 6.5), ("Cu", 2.55), ("Na", 3.7)])
def test_beads_and_metals_are_not_judged(symbol: str, length: float) -> None:
    assert len(pairs_of(chain(symbol, length))) == 9


def test_rigid_water_may_have_a_bond_between_its_hydrogens() -> None:
    universe = mda.Universe.empty(3, trajectory=False)
    universe.add_TopologyAttr("elements", ["O", "H", "H"])
    universe.add_TopologyAttr("bonds", [(0, 1), (0, 2), (1, 2)])
    x = np.array([[0, 0, 0], [0.757, 0.586, 0], [-0.757, 0.586, 0]]) + np.linspace(0, 1, 5)[:, None, None]
    universe.load_new(x.astype(np.float32), dt=1.0)
    assert len(pairs_of(universe)) == 4


def test_no_bonds_are_guessed_from_nm() -> None:
    with pytest.raises(DataError, match=r"half of the atoms have another one within 0\.1\d* Å.*Coordinates in nm"):
        add_guessed_bonds(changed(peptide(bonds=False), lambda x: x / 10))


def test_no_bonds_are_guessed_where_molecules_lie_on_each_other() -> None:
    universe = peptide(bonds=False)
    shifts = np.arange(5)[:, None, None] * [0.3, 0.0, 0.0]
    heap = mda.Merge(*[universe.atoms] * 5)
    heap.atoms.positions = (universe.atoms.positions + shifts).reshape(-1, 3)
    with pytest.raises(DataError, match="bonds cannot be guessed"):
        add_guessed_bonds(heap)
    heap.atoms.positions = (universe.atoms.positions + 2.2 * shifts).reshape(-1, 3)
    with pytest.raises(DataError, match=r"would have \d+, it is as near"):
        add_guessed_bonds(heap)


@pytest.fixture
def files(tmp_path: Path, monkeypatch):
    """all.pdb, some.pdb and none.pdb with so many bonds, and md.dcd."""
    monkeypatch.chdir(tmp_path)
    universe = peptide()
    whole = [line for line in Catalogue().start("ala2-obc-10ps").read_text().splitlines() if line.startswith("ATOM")]
    records = [f"CONECT{i + 1:5d}{j + 1:5d}" for i, j in universe.bonds.to_indices()]
    for name, kept in (("all", records), ("some", records[:5]), ("none", [])):
        Path(f"{name}.pdb").write_text("\n".join([*whole, *kept, "END\n"]))
    with warnings.catch_warnings(), mda.Writer("md.dcd", N, dt=1.0) as writer:
        warnings.simplefilter("ignore")  # of frames without a cell
        for _ in universe.trajectory:
            writer.write(universe.atoms)
    return tmp_path


def command(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("topology", "options", "words"),
    [
        ("none.pdb", (), "the topology has none: 21 pairs of atoms are as near as bonded ones"),
        ("some.pdb", (), "the topology has only some: "),
        ("all.pdb", (), None),
        ("none.pdb", ("--bonds", "guess"), None),
        ("none.pdb", ("--set", "propagator.use_bonds=false"), None),
    ],
)
def test_training_of_draws_wants_all_bonds(files, capsys, topology: str, options: tuple[str, ...], words) -> None:
    code, said = command(capsys, "train", topology, "md.dcd", *SMALL, *options)
    assert code == (0 if words is None else 2), said
    if words is not None:
        assert words in said
        assert "--bonds guess" in said
        assert "propagator.use_bonds=false" in said


def test_beads_need_no_bonds(files, capsys) -> None:
    code, said = command(capsys, "train", "all.pdb", "md.dcd", "--select", "name CH3 CA", *SMALL)
    assert code == 0, said


@pytest.fixture
def boxed(files) -> str:
    """The trajectory in a box that the molecule lies across, as box.dcd."""
    universe = changed(peptide(), wrapped, box=15.0)
    with mda.Writer("box.dcd", N, dt=1.0) as writer:
        for _ in universe.trajectory:
            writer.write(universe.atoms)
    return "box.dcd"


def test_the_box_is_left_out_of_draws_and_that_is_said(boxed: str, capsys) -> None:
    code, said = command(capsys, "train", "all.pdb", boxed, *SMALL, "-o", "m.safetensors")
    assert code == 0, said
    assert "the box is left out" in said
    code, said = command(capsys, "train", "all.pdb", "md.dcd", *SMALL, "-o", "n.safetensors")
    assert "box" not in said
    frames = load_universe("all.pdb", boxed)
    ends = [k for k, ts in enumerate(frames.trajectory) if np.ptp(ts.positions, axis=0).max() > 12.0]
    assert ends, "no frame lies across the box"
    common = ("--topology", "all.pdb", "--steps", "1", "--temperature", "300", "--relax-steps", "0", "--frame")
    field = ("--forcefield", "amber99sbildn.xml", "--forcefield", "amber99_obc.xml")
    for engine in ((), field, (*field, "--engine", "openmm", "--platform", "Reference")):
        arguments = ("run", "m.safetensors", boxed, *common, str(ends[0]), *engine, "-o", "o.xtc", "--overwrite")
        code, said = command(capsys, *arguments)
        assert f"the box of {boxed} is left out" in said
        assert code in (0, 1, 3), said  # an untrained model
        assert "periodic" not in said
        first = load_universe("all.pdb", "o.xtc").trajectory[0]
        assert np.ptp(first.positions, axis=0).max() < 12.0
        assert first.dimensions is None


def test_frames_far_apart_without_velocities_ask_for_draws(files, capsys) -> None:
    code, said = command(capsys, "train", "all.pdb", "md.dcd", "--lag", "10 ps", "-o", "m.safetensors")
    assert code == 2
    assert "has no velocities, and its frames are 1 ps apart" in said
    assert "--kind flow" in said
    assert "central" not in said
    with pytest.raises(DataError, match=r"PropagatorConfig\(kind='flow'\).*velocities='none'"):
        TrajectoryPairs(peptide(), lag=10.0, progress=False)


@pytest.mark.parametrize(("velocities", "more"), [("none", False), ("central", True)])
def test_a_lag_beyond_the_frames_speaks_of_differences_where_there_are_some(velocities: str, more: bool) -> None:
    with pytest.raises(DataError, match="no pair fits: the longest run of frames spans 59 ps") as caught:
        TrajectoryPairs(peptide(), lag="1 ns", velocities=velocities, progress=False)
    assert ("difference velocities" in str(caught.value)) is more


def test_missing_bonds_and_elements_are_asked_for_in_words_of_the_shell(files, capsys) -> None:
    code, said = command(capsys, "evaluate", "ala2-obc-10ps", "none.pdb", "md.dcd")
    assert code == 2
    assert "--bonds guess" in said
    code, said = command(
        capsys, "run", "ala2-obc-10ps", "md.dcd", "--steps", "1", "--temperature", "300", "-o", "o.dcd"
    )
    assert code == 2
    assert "--topology" in said
    assert "add_TopologyAttr" not in said


def test_a_store_is_held_to_the_lengths_of_bonds_too(monkeypatch, tmp_path: Path) -> None:
    store = tmp_path / "pairs.h5md"
    assert len(pairs_of(peptide(), store=store)) == len(pairs_of(store)) == 59
    wrong = tmp_path / "wrong.h5md"
    with monkeypatch.context() as unseen:
        unseen.setattr("fastegnn_md.data.trajectory.check_bond_lengths", lambda *arguments, **options: None)
        pairs_of(changed(peptide(), lambda x: x[:, ORDER]), store=wrong)
    with pytest.raises(DataError, match=r"frame 0 of .*wrong\.h5md: the bond of atom \d+ \([CHNO]\) and atom .* order"):
        pairs_of(wrong)


@pytest.mark.parametrize("memory", [True, False])
def test_a_box_that_is_left_out_is_so_in_every_frame(boxed: str, memory: bool) -> None:
    universe = changed(peptide(), wrapped, box=15.0) if memory else load_universe("all.pdb", boxed)
    assert leave_box(universe.atoms)
    bonds = peptide().bonds.indices
    for _ in range(2):
        for ts in universe.trajectory:
            assert ts.dimensions is None
            first, second = ts.positions[bonds.T]
            assert np.linalg.norm(second - first, axis=1).max() < 2.0
    assert not leave_box(universe.atoms)


def test_seeds_start_from_molecules_put_together_and_count_such(boxed: str) -> None:
    universe = load_universe("all.pdb", boxed)
    bonds = peptide().bonds.indices
    for state in seed_states(universe.atoms, 60):
        assert state.cell is None
        first, second = state.positions[bonds.T]
        assert float((second - first).norm(dim=1).max()) < 2.0


@pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.RedrawWarning")  # an untrained model
def test_validation_of_draws_leaves_the_box_out_and_says_so(boxed: str, capsys, require) -> None:
    for component in ("deeptime", "physical_validation", "tidynamics", "jinja2", "matplotlib", "openmm"):
        require(component)
    code, said = command(capsys, "train", "all.pdb", boxed, *SMALL, "-o", "m.safetensors")
    assert code == 0, said
    field = ("--forcefield", "amber99sbildn.xml", "--forcefield", "amber99_obc.xml", "--temperature", "300")
    runs = ("--runs", "1", "--steps", "6", "-o", "validation", "--no-progress")
    code, said = command(capsys, "validate", "m.safetensors", "--reference", "all.pdb", boxed, *field, *runs)
    assert code == 0, said
    assert f"the box of {boxed} is left out" in said
    rows = {row["name"]: row for row in json.loads(Path("validation/report.json").read_text())["rows"]}
    assert rows["bonds"]["verdict"] != "not measured"
    assert "isolated" in rows["g(r)"]["note"]


def bursts(universe: mda.Universe, tmp_path: Path) -> TrajectoryPairs:
    """Bursts with an engine that has no box."""
    from openmm import app

    field = app.ForceField("amber14-all.xml")
    system = field.createSystem(app.PDBFile("all.pdb").topology, constraints=app.HBonds)
    tmp_path.mkdir(exist_ok=True)
    options = {"burst": "4 fs", "interval": "2 fs", "temperature": 300, "frames": slice(0, 60, 5), "progress": False}
    harvest(universe, system, store=tmp_path / "bursts.h5md", **options)
    return TrajectoryPairs(tmp_path / "bursts.h5md", lag="2 fs")


def test_bursts_without_a_box_start_from_molecules_put_together(files, require, tmp_path: Path) -> None:
    require("openmm")
    across = bursts(changed(peptide(), wrapped, box=15.0), tmp_path / "across")
    assert len(across) == len(bursts(peptide(), tmp_path / "whole")) == 24
    assert not across.periodic


def test_bursts_are_not_started_from_other_units_or_another_order(files, require, tmp_path: Path) -> None:
    require("openmm")
    with pytest.raises(DataError, match=r"bonds are too short.*coordinates in nm"):
        bursts(changed(peptide(), lambda x: x / 10), tmp_path)
    with pytest.raises(DataError, match=r"frame 0: the bond of atom .* another order"):
        bursts(changed(peptide(), lambda x: x[:, ORDER]), tmp_path)


def test_files_in_another_order_or_of_other_atoms_are_named_in_a_line(files) -> None:
    Path("all.psf").write_text("PSF\n")
    with pytest.raises(DataError, match=r"no coordinates from 'all\.psf'; the topology comes first") as caught:
        load_universe("md.dcd", "all.psf")
    assert "FORMATs" not in str(caught.value)
    with mda.Writer("half.xtc", 11) as writer:
        writer.write(peptide().atoms[:11])
    with pytest.raises(DataError, match=r"trajectory 'half\.xtc' do not have the same number of atoms \(22 and 11\)"):
        load_universe("all.pdb", "half.xtc")
