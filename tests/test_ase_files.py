"""Files of ASE come into every command: cells, velocities, forces, times and constraints are those that ASE sees."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ase")

from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import fastegnn_md
from fastegnn_md.cli import main
from fastegnn_md.data import Store, TrajectoryPairs, load_universe
from fastegnn_md.data.ase_files import ase_format
from fastegnn_md.engines.mdanalysis import state_from_universe
from fastegnn_md.errors import DataError

FS = units.fs
EV = 9648.5332  # amu Å²/ps²
FORMATS = {"a.traj": "traj", "a.extxyz": "extxyz", "a.xyz": "extxyz"}


def copper(side: int = 2) -> Atoms:
    atoms = bulk("Cu", a=3.61, cubic=True) * (side, side, side)
    thermalize_momenta(atoms, 600, rng=np.random.default_rng(0))
    atoms.calc = EMT()
    return atoms


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 frames 4 fs apart of 2 fs dynamics in each format, and structures."""
    folder = tmp_path_factory.mktemp("files")
    atoms = copper()
    VelocityVerlet(atoms, 2 * FS, trajectory=str(folder / "md.traj"), loginterval=2).run(40)
    frames = read(folder / "md.traj", ":")
    write(folder / "md.extxyz", frames)
    shutil.copy(folder / "md.extxyz", folder / "md.xyz")
    write(folder / "plain.xyz", frames, format="xyz")
    big = copper(3)
    write(folder / "POSCAR", big, format="vasp")
    write(folder / "cu.vasp", big)
    write(folder / "cu.cif", big)
    write(folder / "cu.extxyz", big)
    write(folder / "cu.pdb", atoms)
    return folder


def command(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(one) for one in arguments])
    return int(left.value.code or 0)


@pytest.mark.parametrize("name", ["md.traj", "md.extxyz", "md.xyz"])
def test_frames_are_those_that_ase_sees(files, name):
    universe = load_universe(files / name)
    frames = read(files / "md.traj", ":")
    assert universe.trajectory.n_frames == len(frames) == 21
    for index in (0, 3, 20):
        universe.trajectory[index]
        state = state_from_universe(universe, forces=True)
        atoms = frames[index]
        np.testing.assert_allclose(state.positions, atoms.positions, rtol=0, atol=2e-6)
        np.testing.assert_allclose(state.velocities, atoms.get_velocities() * 1000 * FS, rtol=0, atol=2e-4)
        np.testing.assert_allclose(state.forces / EV, atoms.get_forces(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(state.cell[0], np.array(atoms.cell), rtol=0, atol=1e-5)
        np.testing.assert_allclose(state.masses, atoms.get_masses())
        assert state.numbers.tolist() == [29] * 32
        assert bool(state.pbc.all())


@pytest.mark.parametrize("name", ["POSCAR", "cu.vasp", "cu.cif", "cu.extxyz"])
def test_structures(files, name):
    state = state_from_universe(load_universe(files / name), velocities="zero")
    assert state.n_atoms == 108
    np.testing.assert_allclose(state.cell[0], 10.83 * np.eye(3), atol=1e-4)


def test_times_are_those_of_the_dynamics_that_wrote_the_file(files):
    universe = load_universe(files / "md.traj")
    assert universe.trajectory[10].time == pytest.approx(0.040)
    assert universe.trajectory.dt == pytest.approx(0.004)
    pairs = TrajectoryPairs(universe, lag="8 fs", progress=False)
    assert len(pairs) == 19
    assert TrajectoryPairs(universe.copy(), lag="8 fs", progress=False).lag == pytest.approx(0.008)


def test_a_file_without_times_needs_dt(files):
    with pytest.raises(DataError, match="does not say how much time"):
        TrajectoryPairs(load_universe(files / "md.extxyz"), lag="8 fs", progress=False)
    assert len(TrajectoryPairs(load_universe(files / "md.extxyz"), lag="8 fs", dt=0.004, progress=False)) == 19
    assert len(TrajectoryPairs(load_universe(files / "md.extxyz", dt=0.004), lag="8 fs", progress=False)) == 19


def test_steps_of_several_lengths_are_no_times(tmp_path):
    """The time step in the header of such a file is that of the classical steps."""
    from fastegnn_md.integrators import LearnedDynamics, Schedule
    from fastegnn_md.propagator import FakePropagator

    def flight(state: Any) -> Any:
        return state.positions + 0.008 * state.velocities, state.velocities

    for name, schedule in (("jumps", None), ("mixed", Schedule(2, 1, classical="2 fs"))):
        path = tmp_path / f"{name}.traj"
        dynamics = LearnedDynamics(
            copper(), FakePropagator(flight, 0.008), schedule=schedule, guard=False, trajectory=str(path)
        )
        dynamics.run(3)
    assert load_universe(tmp_path / "jumps.traj").trajectory.dt == pytest.approx(0.008)
    with pytest.raises(DataError, match="does not say how much time"):
        TrajectoryPairs(load_universe(tmp_path / "mixed.traj"), lag="8 fs", progress=False)


def test_no_pair_spans_two_files(files):
    for options, name in (({}, "md.traj"), ({"dt": 0.004}, "md.extxyz")):
        universe = load_universe(files / name, files / name, files / name, **options)
        assert universe.trajectory.n_frames == 42
        assert len(TrajectoryPairs(universe, lag="8 fs", progress=False)) == 38
    universe = load_universe(files / "md.extxyz", files / "md.extxyz", files / "md.extxyz")
    assert len(TrajectoryPairs(universe, lag="8 fs", dt=0.004, progress=False)) == 38


@pytest.mark.parametrize("handed", ["right", "left"])
def test_a_cell_in_any_orientation_keeps_distances_speeds_and_forces(tmp_path, handed):
    rng = np.random.default_rng(1)
    atoms = bulk("Cu", a=3.61) * (3, 3, 3)
    atoms.rattle(0.1, seed=1)
    atoms.set_momenta(rng.normal(size=(27, 3)))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    if handed == "left":
        atoms.set_cell(np.array(atoms.cell)[[1, 0, 2]])
    atoms.set_cell(np.array(atoms.cell) @ turn, scale_atoms=False)
    atoms.positions[:] = atoms.positions @ turn
    atoms.calc = EMT()
    atoms.get_forces()
    write(tmp_path / "a.extxyz", atoms)
    state = state_from_universe(load_universe(tmp_path / "a.extxyz"), forces=True)
    again = Atoms(state.numbers.numpy(), state.positions.numpy(), cell=state.cell[0].numpy(), pbc=True)
    np.testing.assert_allclose(again.get_all_distances(mic=True), atoms.get_all_distances(mic=True), atol=1e-4)
    again.calc = EMT()
    np.testing.assert_allclose(state.forces / EV, again.get_forces(), atol=1e-3)
    moving = (state.velocities * state.positions).sum(-1)
    np.testing.assert_allclose(moving, 1000 * FS * (atoms.get_velocities() * atoms.positions).sum(-1), rtol=1e-3)


def test_a_molecule_has_no_cell(tmp_path):
    atoms = molecule("CH3CH2OH")
    write(tmp_path / "a.extxyz", atoms)
    state = state_from_universe(load_universe(tmp_path / "a.extxyz"), velocities="zero")
    assert state.cell is None
    assert not state.periodic


@pytest.mark.parametrize("change", ["mixed", "flat", "other frame", "fewer atoms", "other order"])
def test_what_cannot_be_read_whole_is_an_error(tmp_path, change):
    frames = [copper(), copper()]
    for atoms in frames:
        atoms.calc = None
    expected = {
        "mixed": "periodic along a, b only",
        "flat": "no volume",
        "other frame": "only one of frames 0 and 1",
        "fewer atoms": "frame 1 of .* has 31 atoms",
        "other order": "atom 3 of frame 1 .* is Au",
    }[change]
    if change == "mixed":
        frames[1].pbc = [True, True, False]
    elif change == "flat":
        frames[1].cell[2] = 0
    elif change == "other frame":
        frames[1].pbc = False
    elif change == "fewer atoms":
        del frames[1][0]
    else:
        frames[1].numbers[3] = 79
    write(tmp_path / "a.traj", frames)
    with pytest.raises(DataError, match=expected):
        load_universe(tmp_path / "a.traj")


@pytest.mark.parametrize("name", ["md.traj", "md.extxyz", "cu.cif", "POSCAR"])
def test_damaged_files_are_one_line(files, tmp_path, name, capsys):
    content = (files / name).read_bytes()
    for kept in (0, len(content) // 3):
        (tmp_path / name).write_bytes(content[:kept])
        assert command("suggest-lag", tmp_path / name) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "Traceback" not in said


def test_a_topology_of_one_format_and_frames_of_another(files, tmp_path):
    for trajectory in ("md.traj", "md.extxyz", "md.xyz"):
        universe = load_universe(files / "cu.pdb", files / trajectory)
        assert universe.trajectory.n_frames == 21
        assert universe.dimensions == pytest.approx([7.22, 7.22, 7.22, 90, 90, 90])
    universe = load_universe(files / "md.traj")
    universe.atoms.write(str(tmp_path / "a.dcd"), frames="all")
    again = load_universe(files / "md.traj", tmp_path / "a.dcd")
    assert again.trajectory.n_frames == 21
    assert again.dimensions[:3] == pytest.approx([7.22] * 3)
    with pytest.raises(DataError, match="atoms"):
        load_universe(files / "cu.vasp", files / "md.traj")
    with pytest.raises(DataError, match="one format"):
        load_universe(files / "md.traj", files / "md.traj", tmp_path / "a.dcd")


@pytest.mark.parametrize("topology", ["cu.pdb", "md.extxyz"])
def test_a_cell_that_the_trajectory_does_not_hold_is_missed(files, topology):
    with pytest.warns(UserWarning, match=r"has a cell, .*plain.xyz has none"):
        universe = load_universe(files / topology, files / "plain.xyz")
    assert universe.dimensions is None


def test_formats_are_told_by_content_where_the_suffix_does_not(files, tmp_path):
    assert [ase_format(files / name) for name in ("md.xyz", "plain.xyz", "cu.cif", "cu.pdb", "POSCAR")] == [
        "extxyz",
        None,
        "cif",
        None,
        "vasp",
    ]
    (tmp_path / "protein.cif").write_text("data_1ABC\nloop_\n_atom_site.group_PDB\n_atom_site.id\n")
    assert ase_format(tmp_path / "protein.cif") is None


FAST = ("--burst", "4 fs", "--interval", "2 fs", "--timestep", "1 fs", "--temperature", 600)


@pytest.mark.parametrize(
    "inputs", [("cu.pdb", "md.xyz"), ("md.traj",), ("md.extxyz",), ("cu.vasp",), ("cu.cif",), ("cu.extxyz",)]
)
def test_harvest(files, tmp_path, inputs):
    """A calculator on the command line is ASE's, and the crystal stays one."""
    store = tmp_path / "pairs.h5md"
    paths = [files / name for name in inputs]
    assert command("harvest", *paths, "--calculator", "emt", "--frames", "0:1", *FAST, "-o", store) == 0
    opened = Store(store)
    assert opened.provenance["engine"] == "ASE"
    assert opened.periodic
    assert np.linalg.det(opened.cells[0]) / opened.n_atoms == pytest.approx(3.61**3 / 4, rel=1e-4)


def test_harvest_tells_engines_apart(files, tmp_path, capsys):
    assert command("harvest", files / "md.traj", "--engine", "openmm", "--calculator", "emt") == 2
    assert "--calculator is of ASE" in capsys.readouterr().err
    assert command("harvest", files / "md.traj", "--calculator", "emt", "--forcefield", "amber14-all.xml") == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["cu.vasp", "cu.cif", "cu.extxyz", "POSCAR"])
def test_run_of_the_shipped_model(files, tmp_path, start):
    output = tmp_path / "out.xtc"
    assert command("run", "copper-emt", files / start, "--steps", 3, "--temperature", 600, "-o", output) == 0
    universe = load_universe(files / start, output)
    assert universe.trajectory.n_frames == 4
    assert universe.dimensions[:3] == pytest.approx([10.83] * 3, abs=1e-3)


def test_run_starts_with_the_velocities_of_the_file(tmp_path):
    atoms = copper(3)
    write(tmp_path / "a.traj", atoms)
    output = tmp_path / "out.trr"
    assert command("run", "copper-emt", tmp_path / "a.traj", "--steps", 1, "--nve", "-o", output) == 0
    first = load_universe(tmp_path / "a.traj", output)
    np.testing.assert_allclose(first.atoms.velocities, atoms.get_velocities() * 1000 * FS, atol=1e-3)


def test_run_keeps_the_constraints_of_the_file(tmp_path):
    from fastegnn_md.commands.stepping import ase_atoms, keep_constraints
    from fastegnn_md.errors import ConfigError

    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 5]))
    write(tmp_path / "a.traj", atoms)
    made = ase_atoms(state_from_universe(load_universe(tmp_path / "a.traj")))
    keep_constraints(made, tmp_path / "a.traj", 32)
    assert [type(one) for one in made.constraints] == [FixAtoms]
    assert made.constraints[0].index.tolist() == [0, 5]
    with pytest.raises(ConfigError, match="FixAtoms"):
        keep_constraints(made[:3], tmp_path / "a.traj", 32)


def test_harvest_does_not_free_atoms_that_the_file_holds(tmp_path, capsys):
    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 5]))
    write(tmp_path / "a.traj", atoms)
    assert command("harvest", tmp_path / "a.traj", "--calculator", "emt", *FAST, "-o", tmp_path / "b.h5md") == 2
    assert "FixAtoms is not supported in bursts" in capsys.readouterr().err


def test_suggest_lag(files, capsys):
    assert command("suggest-lag", files / "md.traj", "--json") == 0
    assert command("suggest-lag", files / "md.extxyz", "--dt", "4 fs", "--json") == 0
    assert command("suggest-lag", files / "md.extxyz") == 2
    assert "does not say how much time" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["md.traj", "md.extxyz"])
def test_train_and_evaluate(files, tmp_path, name, require):
    require("lightning")
    model, dt = tmp_path / "m.safetensors", () if name == "md.traj" else ("--dt", "4 fs")
    small = (
        "--updates",
        2,
        "--set",
        "propagator.hidden=8",
        "--set",
        "propagator.layers=1",
        "--set",
        "propagator.cutoff=3.5",
    )
    split = ("--split", "0.4,0.3,0.3")
    assert command("train", files / name, "--lag", "8 fs", *dt, *small, *split, "-o", model) == 0
    assert command("evaluate", model, files / name, *dt) == 0


def test_bonds_are_guessed_where_asked_for(tmp_path, capsys):
    frames = [molecule("CH3CH2OH") for _ in range(2)]
    write(tmp_path / "a.extxyz", frames)
    from fastegnn_md.commands.inputs import open_universe
    from fastegnn_md.errors import ConfigError

    assert not hasattr(open_universe(tmp_path / "a.extxyz", None), "bonds")
    universe = open_universe(tmp_path / "a.extxyz", None, bonds="guess")
    assert len(universe.bonds) == 8
    assert "8 are taken from the distances" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--bonds 'guessed'"):
        open_universe(tmp_path / "a.extxyz", None, bonds="guessed")


def test_types_of_a_force_field_do_not_hinder_the_guess(tmp_path):
    from fastegnn_md.data.bonds import add_guessed_bonds

    write(tmp_path / "a.extxyz", molecule("CH3CH2OH"))
    universe = load_universe(tmp_path / "a.extxyz")
    universe.atoms.types = [f"opls_{k}" for k in range(9)]
    assert add_guessed_bonds(universe) == 8
    assert add_guessed_bonds(universe) == 0


def write_all(writer: Any, states: list[Any]) -> None:
    with writer:
        for index, state in enumerate(states):
            writer.write(state, time=index)


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
class TestWritten:
    """Roll-outs in files of ASE."""

    def states(self, pbc: Any = True, count: int = 3) -> list[Any]:
        from fastegnn_md.engines.ase import state_from_atoms

        atoms = bulk("Cu", a=3.61) * (2, 2, 2)  # a triclinic cell that is not along x
        thermalize_momenta(atoms, 600, rng=np.random.default_rng(0))
        atoms.pbc = pbc
        atoms.calc = EMT()
        made = []
        for _ in range(count):
            atoms.rattle(0.01, seed=len(made))
            made.append(state_from_atoms(atoms, forces=True))
        return made

    @pytest.mark.parametrize("pbc", [True, False, [True, True, False]])
    def test_all_of_a_frame_comes_back(self, tmp_path, suffix, pbc):
        from fastegnn_md.engines.ase import state_from_atoms
        from fastegnn_md.engines.mdanalysis import RolloutWriter

        path = tmp_path / f"a.{suffix}"
        states = self.states(pbc)
        with RolloutWriter(path, forces=True) as writer:
            for index, state in enumerate(states):
                writer.write(state, time=0.008 * (index + 1))
        for state, atoms in zip(states, read(path, ":"), strict=True):
            back = state_from_atoms(atoms, forces=atoms.get_forces())
            for name, tolerance in (("positions", 1e-7), ("velocities", 1e-5), ("forces", 1e-3), ("masses", 1e-6)):
                np.testing.assert_allclose(getattr(back, name), getattr(state, name), rtol=0, atol=tolerance)
            assert back.pbc.tolist() == state.pbc.tolist()
            if np.any(pbc):
                np.testing.assert_allclose(back.cell, state.cell, atol=1e-7)
        if isinstance(pbc, bool):
            universe = load_universe(path)
            assert [ts.time for ts in universe.trajectory] == pytest.approx([0.008, 0.016, 0.024])

    def test_heavy_hydrogen_keeps_its_mass(self, tmp_path, suffix):
        from fastegnn_md.engines.mdanalysis import RolloutWriter

        water = molecule("H2O")
        water.set_masses([11.9, 4.0, 4.0])
        with RolloutWriter(tmp_path / f"a.{suffix}") as writer:
            writer.write(water, time=0)
        assert load_universe(tmp_path / f"a.{suffix}").atoms.masses == pytest.approx([11.9, 4.0, 4.0])

    def test_run(self, files, tmp_path, suffix):
        output = tmp_path / f"out.{suffix}"
        options = ("--steps", 4, "--every", 2, "--temperature", 600)
        assert command("run", "copper-emt", files / "cu.cif", *options, "-o", output) == 0
        frames = read(output, ":")
        assert len(frames) == 3
        assert all(frames[0].pbc)
        assert 300 < frames[-1].get_temperature() < 1000
        universe = load_universe(output)
        assert universe.trajectory.dt == pytest.approx(2 * fastegnn_md.load("copper-emt").timestep, rel=1e-6)
        again = tmp_path / f"again.{suffix}"
        assert command("run", "copper-emt", output, "--frame", -1, "--steps", 1, "--nve", "-o", again) == 0
        np.testing.assert_allclose(read(again, 0).get_momenta(), frames[-1].get_momenta(), atol=1e-3)

    def test_frames_are_whole_before_the_file_is_closed(self, tmp_path, suffix):
        from fastegnn_md.engines.mdanalysis import RolloutWriter

        path = tmp_path / f"a.{suffix}"
        states = self.states()
        writer = RolloutWriter(path)
        for index, state in enumerate(states):
            writer.write(state, time=index)
        killed = tmp_path / f"b.{suffix}"
        shutil.copy(path, killed)
        assert len(read(killed, ":")) == 3
        writer.close()
        writer.close()

    def test_a_full_disk_costs_the_frame_in_flight(self, tmp_path, suffix, monkeypatch):
        import resource
        import signal

        from fastegnn_md.engines.mdanalysis import RolloutWriter

        path = tmp_path / f"a.{suffix}"
        states = self.states(count=2) * 20
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
        try:
            with pytest.raises(DataError, match="frames before are whole"):
                write_all(RolloutWriter(path), states)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        kept = read(path, ":")
        assert 2 < len(kept) < 20
        np.testing.assert_allclose(kept[-1].positions, states[len(kept) - 1].positions, atol=1e-7)


def test_a_file_of_text_is_continued_where_it_was_whole(tmp_path):
    from fastegnn_md.engines.mdanalysis import RolloutWriter

    path = tmp_path / "a.extxyz"
    states = TestWritten().states()
    with RolloutWriter(path) as writer:
        for index, state in enumerate(states):
            writer.write(state, time=index)
            if index == 1:
                kept = writer.written
    with RolloutWriter(path, after=kept) as writer:
        writer.write(states[0], time=7)
    frames = read(path, ":")
    assert [atoms.info["time_ps"] for atoms in frames] == [0, 1, 7]
    np.testing.assert_allclose(frames[2].positions, states[0].positions, atol=1e-7)
