"""The protein benchmark on the AdK trajectory of MDAnalysisTests: the frames, what is done to them, its graph."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np
import pytest
from MDAnalysisTests.datafiles import DCD, PSF

from fastegnn_md.data.topology import load_universe
from fastegnn_md.errors import DataError
from fastegnn_md.papers.datasets.protein import adk_equilibrium, protein_steps
from fastegnn_md.papers.tables.data import load_data, protein_graphs

SYSTEMS = (50, 16, 17)


@pytest.fixture(scope="module")
def universe():
    return load_universe(PSF, DCD)


@pytest.fixture(scope="module")
def parts(universe):
    return protein_steps(universe, systems=SYSTEMS, progress=False)


def frame(universe, index):
    universe.trajectory[index]
    return universe.select_atoms("backbone").positions.copy()


def test_pairs_of_the_real_trajectory(universe, parts):
    assert {name: one.x.shape for name, one in parts.items()} == {
        "train": (50, 855, 3),
        "valid": (16, 855, 3),
        "test": (17, 855, 3),
    }
    for name, index, first in (("train", 0, 0), ("train", 49, 49), ("valid", 3, 53)):
        x = frame(universe, first)
        np.testing.assert_allclose(parts[name].x[index], x, atol=1e-5)
        np.testing.assert_allclose(parts[name].target[index], frame(universe, first + 15), atol=1e-5)
        np.testing.assert_allclose(parts[name].v[index], frame(universe, first + 1) - x, atol=1e-5)
    charges = universe.select_atoms("backbone").charges
    np.testing.assert_allclose(parts["train"].charges, charges / charges.max(), rtol=1e-6)


def test_test_frames_are_moved_as_rigid_bodies(universe, parts):
    for index in (0, 16):
        x, target = frame(universe, 66 + index), frame(universe, 66 + index + 15)
        found = parts["test"].x[index].astype(np.float64)
        turn, _, _, _ = np.linalg.lstsq(x - x.mean(0), found - found.mean(0), rcond=None)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
        assert np.linalg.det(turn) == pytest.approx(1.0, abs=1e-5)
        assert not np.allclose(turn, np.eye(3), atol=0.01)
        shift = found.mean(0) - x.mean(0) @ turn
        assert np.linalg.norm(shift) > 1.0
        np.testing.assert_allclose(parts["test"].target[index], target @ turn + shift, atol=2e-4)
        v = frame(universe, 67 + index) - x
        np.testing.assert_allclose(parts["test"].v[index], v @ turn, atol=2e-4)


def test_a_seed_gives_the_same_test_frames(universe, parts):
    again, other = (protein_steps(universe, systems=SYSTEMS, seed=seed, progress=False) for seed in (43, 44))
    np.testing.assert_array_equal(again["test"].x, parts["test"].x)
    np.testing.assert_array_equal(other["train"].x, parts["train"].x)
    assert not np.allclose(other["test"].x, parts["test"].x)


def test_the_graph_is_that_of_the_benchmark(universe, parts):
    batch = protein_graphs(parts["train"], 0.0).batch([0])
    assert batch.edge_index.shape == (2, 58732)
    x = frame(universe, 0)
    distance = np.linalg.norm(x[batch.edge_index[0]] - x[batch.edge_index[1]], axis=1)
    assert distance.max() < 10.0
    np.testing.assert_allclose(batch.edge_attr[:, 0], distance, rtol=1e-4)
    both = protein_graphs(parts["train"], 0.9).batch([1, 0])
    assert (both.batch[both.edge_index[0]] == 1).sum() == 5874  # a tenth, and the reverse of the last
    assert (both.batch[both.edge_index[0]] == both.batch[both.edge_index[1]]).all()


def test_a_trajectory_that_is_too_short(universe):
    with pytest.raises(DataError, match="need 99 frames; the trajectory has 98"):
        protein_steps(universe, systems=(50, 16, 18), progress=False)
    with pytest.raises(DataError, match="three positive numbers"):
        protein_steps(universe, systems=(50, 0, 18), progress=False)


def test_a_truncated_trajectory(tmp_path):
    short = tmp_path / "short.dcd"
    with open(DCD, "rb") as file:
        content = file.read()
    short.write_bytes(content[: int(0.55 * len(content))])
    with pytest.raises(DataError):
        protein_steps(load_universe(PSF, short), systems=SYSTEMS, progress=False)


def test_a_topology_without_charges(universe):
    bare = mda.Universe.empty(4, trajectory=True)
    bare.add_TopologyAttr("masses", [12.0] * 4)
    with pytest.raises(DataError, match="no charges"):
        protein_steps(bare, select="all", systems=(1, 1, 1), ahead=1, progress=False)


def test_the_trajectory_of_the_papers_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MDANALYSIS_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="fetch_adk_equilibrium"):
        adk_equilibrium(tmp_path)
    with pytest.raises(DataError, match=r"1ake_007-nowater-core-dt240ps\.dcd"):
        load_data("adk", 0.0, tmp_path)
    home = tmp_path / "none" / "adk_equilibrium"
    home.mkdir(parents=True)
    for source, name in ((PSF, "adk4AKE.psf"), (DCD, "1ake_007-nowater-core-dt240ps.dcd")):
        (home / name).symlink_to(source)
    assert adk_equilibrium().trajectory.n_frames == 98
    with pytest.raises(DataError, match="the trajectory has 98"):
        load_data("adk", 0.0, tmp_path, progress=False)
