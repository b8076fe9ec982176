"""Trajectory files: what MDAnalysis would write, whole after every frame, on a full disk too, and continued."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.engines.mdanalysis import RolloutWriter, Written
from fastegnn_md.errors import DataError

FORMATS = ["xtc", "trr", "dcd", "xyz", "pdb", "ncdf", "h5md"]
CONTINUED = [name for name in FORMATS if name != "h5md"]
N = 40


def state_at(frame: int) -> State:
    rng = np.random.default_rng(frame)
    return State(
        positions=torch.tensor(rng.uniform(0, 9, (N, 3))),
        velocities=torch.tensor(rng.normal(size=(N, 3))),
        numbers=torch.tensor([6, 8] * (N // 2)),
        masses=torch.tensor([12.0, 16.0] * (N // 2), dtype=torch.float64),
        cell=9 * torch.eye(3, dtype=torch.float64)[None],
    )


def write(path: Path, frames: range, after: Written | None = None) -> Written | None:
    with RolloutWriter(path, after=after) as writer:
        for frame in frames:
            writer.write(state_at(frame), time=0.5 * frame)
        return writer.written


def read(path: Path) -> list[np.ndarray]:
    """Positions of every frame that can be read; a reader may stop at the last one, which was in flight."""
    for left in path.parent.glob(".*_offsets.*"):
        left.unlink()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDAnalysis, on what the formats lack
        universe = mda.Universe(str(path)) if path.suffix == ".pdb" else mda.Universe.empty(N)
        if path.suffix != ".pdb":
            universe.load_new(str(path))
        for index in range(len(universe.trajectory)):
            try:
                found.append(universe.trajectory[index].positions.copy())
            except (OSError, ValueError, EOFError):
                assert index == len(universe.trajectory) - 1
        universe.trajectory.close()
    return found


def check(found: list[np.ndarray], frames: int) -> None:
    assert len(found) >= frames
    for frame, positions in enumerate(found[:frames]):
        np.testing.assert_allclose(positions, state_at(frame).positions, atol=6e-3)  # XTC and PDB round


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_file_is_the_one_mdanalysis_writes(tmp_path: Path, suffix: str) -> None:
    path, plain = tmp_path / f"ours.{suffix}", tmp_path / f"plain.{suffix}"
    write(path, range(4))
    if suffix == "h5md":
        check(read(path), 4)
        return
    from fastegnn_md.engines import frame_files

    options: dict[str, Any] = {"n_atoms": N, "multiframe": True}
    options |= {"dt": 0.5, "istart": 0} if suffix == "dcd" else {"velocities": True} if suffix == "ncdf" else {}
    scene = frame_files._Scene(state_at(0), None, forces=False, dt=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mda.Writer(str(plain), **options) as writer:
            for frame in range(4):
                scene.set(state_at(frame), 0.5 * frame, frame)
                writer.write(scene.atoms)
    assert path.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("suffix", CONTINUED)
def test_a_continued_file_is_that_of_one_run(tmp_path: Path, suffix: str) -> None:
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    write(whole, range(7))
    written = write(parts, range(4))
    assert written is not None
    assert (written.frames, written.time) == (4, 1.5)
    with parts.open("ab") as file:  # what a killed run wrote after its restart file
        file.write(b"half a frame")
    write(parts, range(4, 7), after=written)
    assert parts.read_bytes() == whole.read_bytes()


def test_files_that_cannot_be_continued_say_so_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "out.h5md"
    assert write(path, range(3)) is None
    before = path.read_bytes()
    with pytest.raises(DataError, match="cannot be continued"):
        write(path, range(3, 5), after=Written(3, 10, 1.0))
    assert path.read_bytes() == before
    short = tmp_path / "short.xtc"
    write(short, range(3))
    before = short.read_bytes()
    with pytest.raises(DataError, match="is shorter than"):
        write(short, range(3, 5), after=Written(3, 10**6, 1.0))
    assert short.read_bytes() == before


WRITER = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_frame_files import RolloutWriter, state_at
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with RolloutWriter(sys.argv[2]) as writer:
        for frame in range(int(sys.argv[4])):
            writer.write(state_at(frame), time=0.5 * frame)
            print(frame, flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(2)
"""


def start(path: Path, limit: int, frames: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(Path(__file__).parent), str(path)]
    return subprocess.Popen([*command, str(limit), str(frames)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("suffix", FORMATS)
def test_on_a_full_disk_the_frames_before_are_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    write(path, range(40))
    limit = 2_000_000 if suffix == "h5md" else path.stat().st_size // 2
    path.unlink()
    with start(path, limit, 1000 if suffix == "h5md" else 60) as writer:
        assert writer.stdout is not None
        lines = writer.stdout.read().splitlines()
    assert writer.returncode == 2, lines[-3:]  # no segmentation fault
    written = len(lines) - 1
    assert f"DataError cannot write '{path}': the disk is full" in lines[-1]
    assert f"its {written} frames before are whole" in lines[-1]
    found = read(path)
    check(found, written)
    assert len(found) == written


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_kill_costs_the_frame_in_flight_and_no_other(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(FORMATS.index(suffix))
    for trial in range(5):
        path = tmp_path / f"{trial}.{suffix}"
        with start(path, 0, 10**6) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"
            time.sleep(rng.uniform(0.02, 0.15))
            os.kill(writer.pid, 9)
            said = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        if said:
            check(read(path), said[-1] + 1)
