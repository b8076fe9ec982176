"""Water-3D in the layout of LagrangeBench, on small files written here."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from fastegnn_md.errors import DataError
from fastegnn_md.papers.datasets.water3d import RADIUS, Water3D
from fastegnn_md.papers.tables.data import load_data
from fastegnn_md.papers.tables.graphs import FluidGraphs, radius_graphs

FRAMES, PARTICLES = 32, (40, 55)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    home = tmp_path / "Water-3D"
    home.mkdir()
    for split in ("train", "valid", "test"):
        with h5py.File(home / f"{split}.h5", "w") as file:
            for trajectory, particles in enumerate(PARTICLES):
                start = rng.uniform(0.3, 0.4, size=(particles, 3))
                drift = rng.normal(size=(particles, 3)) * 1e-3
                steps = start + np.arange(FRAMES)[:, None, None] * drift
                group = file.create_group(f"{trajectory:05d}")
                group["position"] = steps.astype(np.float32)
                group["particle_type"] = np.full(particles, 5, dtype=np.int64)
    return tmp_path


def trajectory(folder, split, index):
    with h5py.File(folder / "Water-3D" / f"{split}.h5", "r") as file:
        return file[f"{index:05d}/position"][...].astype(np.float64)


def test_starts_are_frames_of_the_file(folder):
    fluid = Water3D(folder / "Water-3D" / "train.h5", starts=4)
    assert len(fluid) == 8
    assert list(fluid.counts) == [40] * 4 + [55] * 4
    seen = set()
    for index in range(8):
        start, x = fluid[index], trajectory(folder, "train", index // 4)
        (frame,) = (k for k in range(FRAMES) if np.allclose(start.x, x[k], atol=1e-7))
        assert frame + 20 < FRAMES
        np.testing.assert_allclose(start.v, x[frame + 1] - x[frame], atol=1e-7)
        np.testing.assert_allclose(start.target, x[frame + 20], atol=1e-7)
        seen.add(frame)
    assert len(seen) > 2


def test_test_starts_turn_about_the_axis_of_gravity(folder):
    path = folder / "Water-3D" / "test.h5"
    plain, turned = Water3D(path, starts=2), Water3D(path, starts=2, turned=True)
    for index in range(4):
        np.testing.assert_allclose(turned[index].x[:, 1], plain[index].x[:, 1], atol=1e-6)
        flat = [np.linalg.norm(one[index].v[:, [0, 2]], axis=1) for one in (plain, turned)]
        np.testing.assert_allclose(flat[0], flat[1], atol=1e-7)
        assert not np.allclose(turned[index].x, plain[index].x, atol=1e-3)


def test_batches_are_read_from_the_file(folder):
    data = load_data("water-3d", 0.0, folder)
    batch = data["train"].batch([20, 3])
    assert batch.batch.bincount().tolist() == [55, 40]
    fluid = data["train"].fluid
    np.testing.assert_array_equal(batch.x[:55], fluid[20].x)
    np.testing.assert_array_equal(batch.target[55:], fluid[3].target)
    np.testing.assert_array_equal(batch.h[:, 1], 1.0)
    distance = np.linalg.norm(batch.x[:55, None] - batch.x[None, :55], axis=-1)
    near = (distance < RADIUS) & ~np.eye(55, dtype=bool)
    mine = batch.edge_index[:, batch.edge_index[0] < 55]
    assert {tuple(edge) for edge in mine.T.tolist()} == {tuple(edge) for edge in np.argwhere(near).tolist()}
    half = FluidGraphs(fluid, radius_graphs(RADIUS), dropped=0.5).batch([20])
    assert half.edge_index.shape[1] == 2 * round(0.25 * near.sum() + 0.25)  # an edge stays with its reverse
    assert half.edge_attr[:, 0].max() <= np.quantile(distance[near], 0.51)


def test_files_that_are_missing_or_damaged(folder, tmp_path):
    with pytest.raises(DataError, match="gns_data"):
        Water3D(tmp_path / "none.h5")
    path = folder / "Water-3D" / "train.h5"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="layout of LagrangeBench"):
        Water3D(path)
    with h5py.File(path, "w") as file:
        file["00000/position"] = np.zeros((40, 5, 3))
    with pytest.raises(DataError, match="layout of LagrangeBench"):
        Water3D(path)
    with h5py.File(path, "w") as file:
        file["00000/position"], file["00000/particle_type"] = np.zeros((40, 5, 2)), np.zeros(5)
    with pytest.raises(DataError, match=r"expected \(T, N, 3\)"):
        Water3D(path)
    with h5py.File(path, "w") as file:
        file["00000/position"], file["00000/particle_type"] = np.zeros((20, 5, 3)), np.zeros(5)
    with pytest.raises(DataError, match="20 frames"):
        Water3D(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(DataError, match="no trajectory"):
        Water3D(path)


def test_positions_that_are_not_finite(folder):
    path = folder / "Water-3D" / "train.h5"
    fluid = Water3D(path)
    with h5py.File(path, "r+") as file:
        file["00001/position"][:, 3] = np.nan
    assert np.isfinite(fluid[0].x).all()
    with pytest.raises(DataError, match="not finite"):
        fluid[len(fluid) - 1]
