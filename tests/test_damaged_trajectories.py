"""GROMACS files that make MDAnalysis' reader write beyond its memory are refused before it sees them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest

import fastegnn_md
from fastegnn_md.cli import main
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.data.xdr import check_gromacs
from fastegnn_md.errors import DataError

PDB = Path(fastegnn_md.__file__).parent / "assets" / "ala2.pdb"
DAMAGED = Path(__file__).parent / "data" / "damaged.xtc"


def write(path: Path, n_atoms: int, frames: int = 12) -> Path:
    """Atoms on a random walk, some of them near each other, so that both sorts of XTC groups occur."""
    rng = np.random.default_rng(n_atoms)
    universe = mda.Universe.empty(n_atoms, trajectory=True)
    x = np.repeat(rng.uniform(0, 40, (-(-n_atoms // 3), 3)), 3, axis=0)[:n_atoms] + rng.normal(0, 0.6, (n_atoms, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mda.Writer(str(path), n_atoms) as writer:
            for frame in range(frames):
                universe.atoms.positions = x + rng.normal(0, 0.1, x.shape)
                universe.trajectory.ts.time = float(frame)
                universe.dimensions = [50, 50, 50, 90, 90, 90]
                writer.write(universe.atoms)
    return path


@pytest.mark.parametrize("kind", ["xtc", "trr"])
@pytest.mark.parametrize("n_atoms", [1, 9, 10, 22, 500])
def test_whole_files_are_let_through(kind: str, n_atoms: int, tmp_path: Path) -> None:
    path = write(tmp_path / f"md.{kind}", n_atoms)
    check_gromacs(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])  # a last frame that is cut off: readers end before it
    check_gromacs(path)


def test_files_of_gromacs_are_let_through() -> None:
    files = pytest.importorskip("MDAnalysisTests.datafiles")
    for name in ("XTC", "TRR", "XTC_sub_sol", "TRR_sub_sol", "XTC_multi_frame", "TRR_multi_frame"):
        check_gromacs(getattr(files, name))


def test_a_file_that_ended_python_is_refused_by_every_way_in(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "damaged.xtc"
    shutil.copy(DAMAGED, path)
    output = ["--lag", "1 ps", "--kind", "position", "-o", str(tmp_path / "model.safetensors")]
    for command in (
        ["train", str(PDB), str(path), *output],
        ["suggest-lag", str(PDB), str(path)],
        ["harvest", str(PDB), str(path), "--forcefield", "amber14-all.xml", "-o", str(tmp_path / "bursts.h5md")],
        ["run", "ala2-vacuum", str(path), "--topology", str(PDB), "--steps", "2", "-o", str(tmp_path / "out.xtc")],
    ):
        with pytest.raises(SystemExit) as caught:
            main(command)
        err = capfd.readouterr().err
        assert caught.value.code == 2, err
        assert len(err.splitlines()) == 1, err
        assert "damaged.xtc' is damaged at frame 6" in err
    with pytest.raises(DataError, match="damaged at frame 6"):
        load_universe(PDB, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = mda.Universe(str(PDB), str(path))  # a user's own; its frames are not read yet
        chain = mda.Universe(str(PDB), [str(path), str(path)])
    for one in (universe, chain):
        with pytest.raises(DataError, match="damaged at frame 6"):
            TrajectoryPairs(one, lag="1 ps", velocities="none", progress=False)


def damaged(whole: bytes, seed: int) -> bytes:
    """A copy with a byte changed, bytes lost, or a number of a header exchanged."""
    rng = random.Random(seed)
    content = bytearray(whole)
    place = rng.randrange(len(content))
    if seed % 3 == 0:
        content[place] ^= 1 << rng.randrange(8)
    elif seed % 3 == 1:
        del content[place : place + rng.randrange(1, 200)]
    else:
        place -= place % 4
        content[place : place + 4] = struct.pack(">i", rng.choice([-1, 0, 1, 7, 73, 2**31 - 1, -(2**31)]))
    return bytes(content)


_READ = """
import sys, warnings
import MDAnalysis as mda
warnings.simplefilter("ignore")
for path in sys.argv[2:]:
    try:
        universe = mda.Universe(sys.argv[1], path)
        for _ in range(3):
            for index in range(len(universe.trajectory)):
                universe.trajectory[index]
    except (OSError, EOFError, ValueError, IndexError, RuntimeError, StopIteration, TypeError):
        pass
print("read", flush=True)
"""


@pytest.mark.parametrize("kind", ["xtc", "trr"])
def test_what_is_let_through_does_not_end_python(kind: str, tmp_path: Path) -> None:
    whole = write(tmp_path / f"whole.{kind}", 22).read_bytes()
    passed = []
    for seed in range(400):
        path = tmp_path / f"{seed}.{kind}"
        path.write_bytes(damaged(whole, seed))
        with contextlib.suppress(DataError):
            check_gromacs(path)
            passed.append(str(path))
    refused = 400 - len(passed)
    assert refused > 50
    # Freed memory is overwritten, so that what is read or written beyond an array shows.
    environment = {**os.environ, "MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(PDB), *passed], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "read"), done.stderr[-2000:]
