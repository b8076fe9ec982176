"""Stores that are damaged: the same values as before, or one line of ours."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from fastegnn_md.data import Store, TrajectoryPairs
from fastegnn_md.errors import DataError

WHOLE = Path(__file__).parent / "data" / "run-1" / "store.h5md"
GROUP, FRAMES = "fastegnn_md", "particles/trajectory"


def replaced(path: str, value: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[path]
        file[path] = value

    return change


def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[GROUP].attrs.__setitem__(name, value)


CHANGES: dict[str, Callable[[h5py.File], None]] = {
    "masses in words": replaced(f"{GROUP}/masses", np.array([b"heavy"] * 3)),
    "one mass": replaced(f"{GROUP}/masses", np.ones(1)),
    "masses NaN": lambda file: file[f"{GROUP}/masses"].__setitem__(0, np.nan),
    "numbers as floats": lambda file: replaced(f"{GROUP}/numbers", file[f"{GROUP}/numbers"][...] + 0.5)(file),
    "a scalar of numbers": replaced(f"{GROUP}/numbers", 3),
    "segments beyond": replaced(f"{GROUP}/segments", np.array([[0, 10**6]])),
    "segments flat": replaced(f"{GROUP}/segments", np.array([0, 1])),
    "segments in words": replaced(f"{GROUP}/segments", np.array([[b"a", b"b"]])),
    "times of one": replaced(f"{FRAMES}/position/time", np.zeros(1)),
    "positions flat": replaced(f"{FRAMES}/position/value", np.zeros(7, dtype="<f4")),
    "positions of integers": replaced(f"{FRAMES}/position/value", np.zeros((4, 3, 3), dtype=np.int32)),
    "velocities of fewer frames": replaced(f"{FRAMES}/velocity/value", np.zeros((1, 3, 3), dtype="<f4")),
    "time step in words": attribute("dt", "short"),
    "time step NaN": attribute("dt", np.nan),
    "provenance": attribute("provenance", "[" * 100_000),
    "version": attribute("format_version", "new"),
    "a list of versions": attribute("format_version", [1, 1]),
    "no content": lambda file: file[GROUP].attrs.__delitem__("content"),
    "a group for numbers": lambda file: replaced(f"{GROUP}/numbers", 0)(file) or _group(file, f"{GROUP}/numbers"),
}


def _group(file: h5py.File, path: str) -> None:
    del file[path]
    file.create_group(path)


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_types_and_shapes_are_refused_in_one_line(change: str, tmp_path: Path) -> None:
    shutil.copy(WHOLE, tmp_path / "store.h5md")
    with h5py.File(tmp_path / "store.h5md", "r+") as file:
        CHANGES[change](file)
    with pytest.raises(DataError) as caught:
        Store(tmp_path / "store.h5md")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_table_larger_than_the_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    shutil.copy(WHOLE, tmp_path / "store.h5md")
    with h5py.File(tmp_path / "store.h5md", "r+") as file:
        del file[f"{GROUP}/segments"]
        file.create_dataset(f"{GROUP}/segments", shape=(10**11, 2), dtype="<i8", chunks=(1000, 2))  # 1.6 TB of zeros
    with pytest.raises(DataError, match="larger than the file"):
        Store(tmp_path / "store.h5md")


def test_frames_that_are_not_those_written_are_refused_by_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "store.h5md"
    shutil.copy(WHOLE, path)
    Store(path).verify()
    with h5py.File(path, "r+") as file:
        file[f"{FRAMES}/position/value"][1, 0, 0] += np.float32(1e-3)
    with pytest.raises(DataError, match=r"store\.h5md' is damaged: its frames do not have the SHA-256"):
        TrajectoryPairs(path, lag=0.008, progress=False)


def test_a_store_with_bytes_changed_is_the_same_or_refused(tmp_path: Path) -> None:
    whole, path = WHOLE.read_bytes(), tmp_path / "store.h5md"
    known = Store(WHOLE)
    rng = random.Random(0)
    refused = 0
    for seed in range(300):
        content = bytearray(whole)
        if seed % 10:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            store = Store(path)
            store.verify()
        except DataError as error:
            refused += 1
            message = str(error)
            if "\n" in message or len(message) > 1000:
                pytest.fail(message)
        else:
            assert store.content == known.content
            assert np.array_equal(store.positions, known.positions)
            assert store.topology.sha256 == known.topology.sha256
            store.close()
    assert refused > 30
