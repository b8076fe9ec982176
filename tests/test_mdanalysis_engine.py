"""State from a universe, and roll-outs written in MDAnalysis' formats and read back."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest
import torch
from MDAnalysisTests import datafiles

from fastegnn_md import State
from fastegnn_md.engines.mdanalysis import RolloutWriter, load_universe, state_from_universe
from fastegnn_md.errors import DataError
from fastegnn_md.units import KJ_PER_MOL

TRICLINIC = torch.tensor([[[20.0, 0.0, 0.0], [5.0, 19.0, 0.0], [3.0, 4.0, 18.0]]], dtype=torch.float64)


def make_states(n: int, cell: torch.Tensor | None = None) -> list[State]:
    generator = torch.Generator().manual_seed(1)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(5, 3, generator=generator, dtype=torch.float64)

    masses = torch.tensor([12.011, 1.008, 1.008, 1.008, 15.999], dtype=torch.float64)
    numbers = torch.tensor([6, 1, 1, 1, 8])
    return [State(normal(5), normal(7), numbers, masses, forces=normal(1e4), cell=cell) for _ in range(n)]


def reopen(path: Path) -> mda.Universe:
    universe = mda.Universe.empty(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDAnalysis' own, about its DCD reader
        universe.load_new(str(path))
    return universe


class TestStateFromUniverse:
    def test_a_frame_becomes_a_state_in_internal_units(self):
        atoms = load_universe(datafiles.TPR_xvf, datafiles.H5MD_xvf).select_atoms("protein")
        state = state_from_universe(atoms, forces=True)
        assert state.dtype == torch.float64
        np.testing.assert_allclose(state.positions, atoms.positions)
        np.testing.assert_allclose(state.velocities, atoms.velocities)
        np.testing.assert_allclose(state.forces, atoms.forces.astype(float) * KJ_PER_MOL)
        np.testing.assert_allclose(state.cell[0], 52.763 * np.eye(3), rtol=1e-6)
        assert set(state.numbers.tolist()) == {1, 6, 7, 8, 16}
        assert bool(state.pbc.all())
        first = state.bonds[0].tolist()
        assert atoms[first].bonds.to_indices().size
        assert len(state.bonds) >= len(atoms) - 1

    def test_the_state_does_not_follow_the_reader(self):
        universe = load_universe(datafiles.TPR_xvf, datafiles.H5MD_xvf)
        atoms = universe.select_atoms("protein")
        state = state_from_universe(atoms)
        before = state.positions.clone()
        universe.trajectory[2]
        assert torch.equal(state.positions, before)
        assert not torch.equal(state_from_universe(atoms).positions, before)

    def test_missing_velocities_are_refused_unless_zero_is_asked_for(self):
        atoms = load_universe(datafiles.PSF, datafiles.DCD).select_atoms("resid 1")
        with pytest.raises(DataError, match="velocities='zero'"):
            state_from_universe(atoms)
        assert not state_from_universe(atoms, velocities="zero").velocities.any()

    def test_missing_forces_are_refused(self):
        atoms = load_universe(datafiles.PSF, datafiles.DCD).select_atoms("resid 1")
        with pytest.raises(DataError, match="forces=False"):
            state_from_universe(atoms, velocities="zero", forces=True)


class TestLoadUniverse:
    def test_atom_count_mismatch_is_explained(self):
        with pytest.raises(DataError, match="do not have the same number of atoms"):
            load_universe(datafiles.PSF, datafiles.XTC)

    def test_atom_count_mismatch_of_amber_files_is_explained(self):
        with pytest.raises(DataError, match="do not have the same number of atoms"):
            load_universe(datafiles.PRMncdf, datafiles.NCDFtruncoct)

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            load_universe(tmp_path / "nothing.pdb")

    def test_a_file_that_is_no_structure(self, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_text("nothing\n")
        with pytest.raises(DataError, match="cannot read"):
            load_universe(path)

    @pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5])
    @pytest.mark.parametrize("name", ["PRM", "PSF", "TPR", "DMS", "LAMMPSdata", "mol2_molecule"])
    def test_truncated_topologies_are_read_or_refused(self, tmp_path, name, share):
        whole = Path(getattr(datafiles, name))
        cut = tmp_path / whole.name
        cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
        with contextlib.suppress(DataError):
            load_universe(cut)

    @pytest.mark.parametrize("suffix", ["pdb", "xyz", "extxyz", "traj", "gro"])
    def test_an_empty_file_and_a_folder_are_called_that(self, tmp_path, suffix):
        empty, folder = tmp_path / f"empty.{suffix}", tmp_path / f"folder.{suffix}"
        empty.touch()
        folder.mkdir()
        with pytest.raises(DataError, match=rf"empty\.{suffix}' is empty; copy or write it again"):
            load_universe(empty)
        with pytest.raises(DataError, match=rf"folder\.{suffix}' is a folder; give the path"):
            load_universe(folder)

    @pytest.mark.parametrize("suffix", ["xtc", "dcd", "trr", "ncdf"])
    def test_an_empty_trajectory_is_called_that(self, tmp_path, suffix):
        (tmp_path / f"run.{suffix}").touch()
        with pytest.raises(DataError, match=rf"run\.{suffix}' is empty"):
            load_universe(datafiles.PSF, tmp_path / f"run.{suffix}")


class TestRolloutWriter:
    @pytest.mark.parametrize("cell", [None, TRICLINIC], ids=["isolated", "triclinic"])
    @pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd", "ncdf", "h5md", "xyz", "pdb"])
    def test_what_is_written_is_read_back(self, tmp_path, suffix, cell):
        states = make_states(4, cell)
        path = tmp_path / f"rollout.{suffix}"
        with RolloutWriter(path, forces=True) as writer:
            for index, state in enumerate(states):
                writer.write(state, time=0.01 * index)
        universe = reopen(path)
        assert universe.trajectory.n_frames == 4
        for index, ts in enumerate(universe.trajectory):
            state = states[index]
            np.testing.assert_allclose(ts.positions, state.positions, atol=6e-3 if suffix == "xtc" else 1.1e-3)
            if suffix not in ("xyz", "pdb"):
                assert ts.time == pytest.approx(0.01 * index, abs=1e-6)
                assert (ts.dimensions is None) == (cell is None)
            if suffix in ("trr", "ncdf", "h5md"):
                np.testing.assert_allclose(ts.velocities, state.velocities, rtol=1e-5, atol=1e-4)
                np.testing.assert_allclose(ts.forces * KJ_PER_MOL, state.forces, rtol=1e-5, atol=1e-2)
            if cell is not None and suffix not in ("xyz", "pdb"):
                np.testing.assert_allclose(ts.triclinic_dimensions, cell[0], atol=1e-4)

    def test_a_turned_cell_keeps_distances_and_fractional_coordinates(self, tmp_path):
        angle = 0.7
        turn = torch.tensor(
            [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]], dtype=torch.float64
        )
        state = make_states(1, TRICLINIC)[0]
        turned = state.replace(positions=state.positions @ turn, cell=state.cell @ turn)
        path = tmp_path / "turned.trr"
        with RolloutWriter(path) as writer:
            writer.write(turned, time=0.0)
        ts = reopen(path).trajectory.ts
        expected = state.positions @ torch.linalg.inv(state.cell[0])
        np.testing.assert_allclose(ts.positions @ np.linalg.inv(ts.triclinic_dimensions), expected, atol=1e-5)

    def test_names_of_an_atom_group_are_written(self, tmp_path):
        atoms = load_universe(datafiles.TPR_xvf, datafiles.H5MD_xvf).select_atoms("resid 1")
        path = tmp_path / "named.pdb"
        with RolloutWriter(path, atoms) as writer:
            writer.write(state_from_universe(atoms), time=0.0)
        lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
        assert [line[12:16].strip() for line in lines] == atoms.names.tolist()
        assert {line[17:20] for line in lines} == set(atoms.resnames)

    def test_ase_atoms_are_written_without_asking_their_calculator(self, tmp_path, require):
        require("ase")
        from ase import Atoms, units
        from ase.calculators.calculator import Calculator

        class Forbidden(Calculator):
            implemented_properties = ["energy", "forces"]  # noqa: RUF012

            def calculate(self, *_: object) -> None:
                raise AssertionError("the calculator was asked")

        atoms = Atoms("OH", positions=[[0, 0, 0], [0, 0, 1]], calculator=Forbidden())
        atoms.set_velocities(np.array([[0, 0, 0], [1.0, 2.0, 3.0]]) / (1000 * units.fs))
        path = tmp_path / "atoms.trr"
        with RolloutWriter(path) as writer:
            writer.write(atoms, time=0.0)
            writer.write(atoms, time=1.0)
        universe = mda.Universe.empty(2)
        universe.load_new(str(path))
        np.testing.assert_allclose(universe.trajectory[1].velocities[1], [1, 2, 3], rtol=1e-5)

    def test_dcd_refuses_uneven_times_and_keeps_what_came_before(self, tmp_path):
        states = make_states(3)
        path = tmp_path / "uneven.dcd"
        with RolloutWriter(path) as writer:
            writer.write(states[0], time=0.0)
            writer.write(states[1], time=0.01)
            with pytest.raises(DataError, match="evenly spaced"):
                writer.write(states[2], time=0.03)
        assert reopen(path).trajectory.n_frames == 2

    def test_dcd_starts_at_the_time_of_its_first_frame(self, tmp_path):
        states = make_states(2)
        with RolloutWriter(tmp_path / "late.dcd") as writer:
            writer.write(states[0], time=0.05)
            writer.write(states[1], time=0.06)
        universe = reopen(tmp_path / "late.dcd")
        assert [ts.time for ts in universe.trajectory] == pytest.approx([0.05, 0.06], abs=1e-6)

    def test_uneven_times_are_kept_by_formats_with_times(self, tmp_path):
        times = [0.0, 0.01, 0.03]
        with RolloutWriter(tmp_path / "uneven.trr") as writer:
            for state, time in zip(make_states(3), times, strict=True):
                writer.write(state, time=time)
        assert [ts.time for ts in reopen(tmp_path / "uneven.trr").trajectory] == pytest.approx(times)

    def test_times_must_grow(self, tmp_path):
        states = make_states(2)
        with RolloutWriter(tmp_path / "x.trr") as writer:
            writer.write(states[0], time=1.0)
            with pytest.raises(DataError, match="not later"):
                writer.write(states[1], time=1.0)

    def test_batches_other_sizes_and_missing_forces_are_refused(self, tmp_path):
        first, second = make_states(2)
        with RolloutWriter(tmp_path / "x.trr", forces=True) as writer:
            with pytest.raises(DataError, match="2 systems"):
                writer.write(State.concatenate([first, second]), time=0.0)
            with pytest.raises(DataError, match="no forces"):
                writer.write(first.replace(forces=None), time=0.0)
            writer.write(first, time=0.0)
            writer.write(second, time=1.0)
            small = State(first.positions[:2], first.velocities[:2], first.numbers[:2], first.masses[:2])
            with pytest.raises(DataError, match="2 atoms, expected 5"):
                writer.write(small.replace(forces=small.positions), time=2.0)

    @pytest.mark.parametrize("name", ["x.gro", "x.nonsense", "x"])
    def test_formats_without_trajectories_are_refused(self, tmp_path, name):
        with pytest.raises(DataError, match=r"it writes .*xtc"):
            RolloutWriter(tmp_path / name)

    def test_a_writer_without_frames_leaves_no_file(self, tmp_path):
        with RolloutWriter(tmp_path / "x.xtc"):
            pass
        assert not os.listdir(tmp_path)

    def test_a_folder_that_is_not_there(self, tmp_path):
        writer = RolloutWriter(tmp_path / "no" / "x.trr")
        writer.write(make_states(1)[0], time=0.0)
        with pytest.raises(DataError, match="cannot write"):
            writer.close()
