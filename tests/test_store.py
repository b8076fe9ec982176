"""The H5MD store: what is written is read back, half-written or foreign files are refused, memory stays small."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import h5py
import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.data import Store, StoreWriter, Topology
from fastegnn_md.data import store_writer as store_writer_module
from fastegnn_md.errors import DataError
from fastegnn_md.units import KJ_PER_MOL

N_ATOMS = 4
TOPOLOGY = Topology(
    numbers=np.array([6, 1, 1, 8]),
    masses=np.array([12.011, 1.008, 1.008, 15.999]),
    charges=np.array([0.1, 0.2, 0.3, -0.6]),
    types=np.array(["CT", "HC", "HC", "O"]),
    bonds=np.array([[0, 1], [0, 2], [0, 3]]),
)


def frames(n: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "positions": rng.normal(size=(N_ATOMS, 3)),
            "velocities": rng.normal(size=(N_ATOMS, 3)),
            "forces": rng.normal(size=(N_ATOMS, 3)) * 1e4,
            "cell": np.diag([10.0, 11.0, 12.0 + 0.1 * index]),
        }
        for index in range(n)
    ]


def writer(path: Path, n: int, *, full: bool = True, kind: str = "trajectory") -> StoreWriter:
    return StoreWriter(
        path, TOPOLOGY, n, velocities=full, forces=full, cells=full, kind=kind, provenance={"from": "test"}
    )


def write(path: Path, n: int = 5) -> Store:
    with writer(path, n) as out:
        for index, frame in enumerate(frames(n)):
            out.write(frame.pop("positions"), 0.5 * index, **frame)
        return out.finish(0.5, np.array([[0, n]]))


class TestRoundTrip:
    def test_frames_identity_and_provenance(self, tmp_path):
        store = write(tmp_path / "s.h5md")
        assert (store.n_frames, store.n_atoms, store.dt, store.kind) == (5, N_ATOMS, 0.5, "trajectory")
        for index, frame in enumerate(frames(5)):
            np.testing.assert_allclose(store.positions[index], frame["positions"], rtol=1e-6)
            np.testing.assert_allclose(store.velocities[index], frame["velocities"], rtol=1e-6)
            np.testing.assert_allclose(store.forces[index] * KJ_PER_MOL, frame["forces"], rtol=1e-6)
            np.testing.assert_allclose(store.cells[index], frame["cell"])
        assert store.cell_varies
        assert store.periodic
        np.testing.assert_array_equal(store.times, 0.5 * np.arange(5))
        np.testing.assert_array_equal(store.segments, [[0, 5]])
        for name in ("numbers", "masses", "charges", "types", "bonds"):
            np.testing.assert_array_equal(getattr(store.topology, name), getattr(TOPOLOGY, name))
        assert store.provenance == {"from": "test"}

    def test_optional_fields_may_be_absent(self, tmp_path):
        with writer(tmp_path / "s.h5md", 2, full=False) as out:
            for index in range(2):
                out.write(np.zeros((N_ATOMS, 3)), index)
            store = out.finish(1.0, np.array([[0, 2]]))
        assert not store.has_velocities
        assert not store.has_forces
        assert not store.periodic
        with pytest.raises(DataError, match="no forces"):
            _ = store.forces

    def test_mdanalysis_reads_the_store(self, tmp_path):
        write(tmp_path / "s.h5md")
        universe = mda.Universe.empty(N_ATOMS)
        universe.load_new(str(tmp_path / "s.h5md"))
        assert universe.trajectory.n_frames == 5
        for ts, frame in zip(universe.trajectory, frames(5), strict=True):
            np.testing.assert_allclose(ts.positions, frame["positions"], rtol=1e-6)
            np.testing.assert_allclose(ts.velocities, frame["velocities"], rtol=1e-6)
            np.testing.assert_allclose(ts.forces * KJ_PER_MOL, frame["forces"], rtol=1e-5)
            np.testing.assert_allclose(ts.triclinic_dimensions, frame["cell"], rtol=1e-6)
        assert universe.trajectory[3].time == pytest.approx(1.5)

    def test_the_same_frames_have_the_same_content_hash(self, tmp_path):
        assert write(tmp_path / "a.h5md").content == write(tmp_path / "b.h5md").content
        assert write(tmp_path / "c.h5md", 4).content != write(tmp_path / "d.h5md", 5).content

    def test_maps_are_read_only_and_reopen_after_close(self, tmp_path):
        store = write(tmp_path / "s.h5md")
        with pytest.raises(ValueError, match="read-only"):
            store.positions[0, 0, 0] = 1.0
        before = np.array(store.positions)
        store.close()
        np.testing.assert_array_equal(store.positions, before)

    def test_a_store_travels_to_other_processes_without_its_data(self, tmp_path):
        store = write(tmp_path / "s.h5md")
        _ = store.positions
        sent = bytes(ForkingPickler.dumps(store))  # what a DataLoader does
        assert b"memmap" not in sent
        np.testing.assert_array_equal(ForkingPickler.loads(sent).positions, store.positions)


class TestRefusals:
    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            Store(tmp_path / "s.h5md")

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
    def test_truncated_file(self, tmp_path, share):
        path = tmp_path / "s.h5md"
        write(path, 50)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match="not a readable store"):
            Store(path)

    def test_foreign_files(self, tmp_path):
        text = tmp_path / "text.h5md"
        text.write_text("not HDF5")
        with pytest.raises(DataError, match="not a readable store"):
            Store(text)
        other = tmp_path / "other.h5md"
        with h5py.File(other, "w") as file:
            file["data"] = np.zeros(3)
        with pytest.raises(DataError, match="not a store of this package"):
            Store(other)

    def test_incomplete_and_newer_files(self, tmp_path):
        path = tmp_path / "s.h5md"
        write(path)
        with h5py.File(path, "r+") as file:
            file["fastegnn_md"].attrs["format_version"] = 99
        with pytest.raises(DataError, match="format 99"):
            Store(path)
        with h5py.File(path, "r+") as file:
            file["fastegnn_md"].attrs["format_version"] = 1
            del file["fastegnn_md"].attrs["complete"]
        with pytest.raises(DataError, match="incomplete"):
            Store(path)

    def test_datasets_that_were_repacked(self, tmp_path):
        path = tmp_path / "s.h5md"
        write(path)
        with h5py.File(path, "r+") as file:
            value = file["particles/trajectory/position/value"][...]
            del file["particles/trajectory/position/value"]
            file.create_dataset("particles/trajectory/position/value", data=value, chunks=True)
        with pytest.raises(DataError, match="not laid out as written"):
            Store(path)

    def test_a_store_removed_while_in_use(self, tmp_path):
        store = write(tmp_path / "s.h5md")
        (tmp_path / "s.h5md").unlink()
        with pytest.raises(DataError, match="changed or removed"):
            _ = store.positions


class TestWriting:
    def test_wrong_fields_shapes_and_counts(self, tmp_path):
        positions = np.zeros((N_ATOMS, 3))
        with writer(tmp_path / "s.h5md", 1, full=False) as out:
            with pytest.raises(DataError, match="has velocities"):
                out.write(positions, 0.0, velocities=positions)
            with pytest.raises(DataError, match="shape"):
                out.write(positions[:2], 0.0)
            with pytest.raises(DataError, match="0 frames were written"):
                out.finish(1.0, np.array([[0, 1]]))
            out.write(positions, 0.0)
            with pytest.raises(DataError, match="another one came"):
                out.write(positions, 1.0)
        assert not os.listdir(tmp_path)

    def test_an_error_leaves_nothing_and_the_previous_store_survives(self, tmp_path):
        path = tmp_path / "s.h5md"
        before = write(path).content
        with pytest.raises(RuntimeError, match="power"):
            stop_in_the_middle(path)
        assert os.listdir(tmp_path) == ["s.h5md"]
        assert Store(path).content == before

    def test_read_only_folder(self, tmp_path):
        folder = tmp_path / "locked"
        folder.mkdir()
        folder.chmod(0o500)
        root = os.geteuid() == 0
        if root:  # to whom permissions mean nothing
            os.seteuid(65534)
        try:
            with pytest.raises(DataError, match="read-only"), writer(folder / "s.h5md", 2):
                pass
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)
        assert not os.listdir(folder)

    def test_full_disk_when_space_is_claimed(self, tmp_path):
        # the limit on file size is what a process can do to itself without a small disk at hand
        script = f"""
import numpy as np, os, resource, sys
from fastegnn_md.data import StoreWriter, Topology
from fastegnn_md.errors import DataError
topology = Topology(numbers=np.ones(1000, dtype=int), masses=np.ones(1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    with StoreWriter({str(tmp_path / "s.h5md")!r}, topology, 1000, velocities=True, forces=True, cells=True,
                     kind="trajectory", provenance={{}}):
        sys.exit("no error")
except DataError as error:
    print(error)
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "the disk is full" in result.stdout
        assert not os.listdir(tmp_path)

    @pytest.mark.parametrize("moment", ["write", "close"])
    def test_full_disk_while_frames_are_written(self, tmp_path, moment):
        path = tmp_path / "s.h5md"
        before = write(path).content
        with pytest.raises(DataError, match="the disk is full"):
            write_on_a_disk_that_fills_up(path, moment)
        assert os.listdir(tmp_path) == ["s.h5md"]
        assert Store(path).content == before

    def test_full_disk_when_the_header_is_written(self, tmp_path, monkeypatch):
        def no_space(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with writer(tmp_path / "s.h5md", 5) as out:
            for index, frame in enumerate(frames(5)):
                out.write(frame.pop("positions"), index, **frame)
            monkeypatch.setattr(store_writer_module.os, "fsync", no_space)
            with pytest.raises(DataError, match="the disk is full"):
                out.finish(1.0, np.array([[0, 5]]))
        assert not os.listdir(tmp_path)


def stop_in_the_middle(path: Path) -> None:
    with writer(path, 9) as out:
        for frame in frames(3):
            out.write(frame.pop("positions"), 0.0, **frame)
        raise RuntimeError("power cut")


def write_on_a_disk_that_fills_up(path: Path, moment: str) -> None:
    with writer(path, 5) as out:
        out._files["forces"] = FullDisk(out._files["forces"], moment)
        for index, frame in enumerate(frames(5)):
            out.write(frame.pop("positions"), index, **frame)
        out.finish(1.0, np.array([[0, 5]]))


class FullDisk:
    """A file on a disk that fills up."""

    def __init__(self, file: object, moment: str):
        self._file, self._moment, self._count = file, moment, 0

    def write(self, data: object) -> None:
        self._count += 1
        if self._moment == "write" and self._count == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._file.write(data)

    def close(self) -> None:
        self._file.close()
        if self._moment == "close":
            raise OSError(errno.ENOSPC, "No space left on device")


def test_memory_does_not_grow_with_the_store(tmp_path):
    """120 MB are written and read in batches with less than 40 MB more anonymous memory than after the imports."""
    script = f"""
import gc, numpy as np
from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs

def anonymous():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) / 1000

n, frames = 2500, 2000
topology = Topology(numbers=np.ones(n, dtype=int), masses=np.ones(n))
path = {str(tmp_path / "big.h5md")!r}
frame = np.random.default_rng(0).normal(size=(n, 3))
before = anonymous()
peak = 0
with StoreWriter(path, topology, frames, velocities=True, forces=False, cells=False,
                 kind="trajectory", provenance={{}}) as out:
    for index in range(frames):
        out.write(frame, 0.01 * index, velocities=frame)
        if index % 100 == 0:
            peak = max(peak, anonymous())
    out.finish(0.01, np.array([[0, frames]]))
pairs = TrajectoryPairs(path, lag=0.02)
order = np.random.default_rng(1).permutation(len(pairs))
for start in range(0, len(order), 64):
    pairs.batch(order[start : start + 64])
    peak = max(peak, anonymous())
print(peak - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 40.0
