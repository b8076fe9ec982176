"""What commands write: never over an input, over other files only when asked to, and one process at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastegnn_md._files import held_partial, only_writer, remove_left, write_atomically
from fastegnn_md.cli import main
from fastegnn_md.commands.outputs import check_outputs, claimed
from fastegnn_md.errors import OutputError

RUN = ["--steps", 2, "--temperature", 300]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Exit code and what stood on stderr, progress apart."""

    def call(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        lines = [line for line in capfd.readouterr().err.splitlines() if line.strip() and "%|" not in line]
        return caught.value.code, "\n".join(lines)  # type: ignore[return-value]

    return call


@pytest.fixture
def crystal(tmp_path: Path, require: Any) -> Path:
    """Copper, as a structure with its box."""
    require("ase")
    from ase.build import bulk
    from ase.io import write

    path = tmp_path / "copper.pdb"
    write(path, bulk("Cu", a=3.61, cubic=True) * (3, 3, 3))
    return path


@pytest.fixture
def frames(crystal: Path) -> Path:
    """One frame of it, without its topology."""
    import MDAnalysis as mda

    path = crystal.with_name("start.xtc")
    with pytest.warns(UserWarning, match="no dt information"):
        mda.Universe(str(crystal)).atoms.write(str(path))
    return path


def test_a_run_never_writes_over_what_it_reads(cli: Any, crystal: Path, frames: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(Path(sys.modules["fastegnn_md"].__path__[0]) / "assets/models/copper-emt.safetensors", model)
    soft, hard, elsewhere = tmp_path / "soft.xtc", tmp_path / "hard.xtc", tmp_path / "linked"
    soft.symlink_to(frames)
    os.link(frames, hard)
    elsewhere.symlink_to(tmp_path)
    pdb_soft, pdb_hard = tmp_path / "soft.pdb", tmp_path / "hard.pdb"
    pdb_soft.symlink_to(crystal)
    os.link(crystal, pdb_hard)
    before = {path: path.read_bytes() for path in (crystal, frames, model)}
    of_frames = [frames, soft, hard, elsewhere / frames.name, Path(os.path.relpath(frames))]
    for output in [*of_frames, crystal, pdb_soft, pdb_hard, model]:
        code, said = cli("run", model, frames, "--topology", crystal, *RUN, "-o", output, "--overwrite")
        assert code == 2, said
        assert "is the same file as the input" in said
        assert len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before


def test_an_output_that_is_there_needs_overwrite(cli: Any, crystal: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.xtc"
    output.write_text("somebody's work")
    code, said = cli("run", "copper-emt", crystal, *RUN, "-o", output)
    assert (code, output.read_text()) == (2, "somebody's work")
    assert "is there already" in said
    assert "--overwrite" in said
    code, err = cli("run", "copper-emt", crystal, *RUN, "-o", output, "--overwrite")
    assert code == 0
    assert all(line.startswith("run: ") for line in err.splitlines()), err
    assert output.read_bytes()[:4] == b"\x00\x00\x07\xcb"  # XTC
    assert not list(tmp_path.glob(".*.lock"))


def test_places_that_cannot_be_written_are_errors_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist; make it first"):
        check_outputs([tmp_path / "absent" / "out.xtc"], [], overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_outputs([tmp_path], [], overwrite=True)
    with pytest.raises(OutputError, match="cannot write to the folder"), only_writer("/proc/out.xtc"):
        pass


def test_a_plot_never_writes_its_second_file_over_its_input(cli: Any, crystal: Path) -> None:
    before = crystal.read_bytes()
    picture = crystal.with_suffix(".png")
    code, said = cli("plot", "virtual-nodes", "copper-emt", crystal, "-o", picture, "--overwrite")
    assert (code, crystal.read_bytes()) == (2, before)
    assert "is the same file as the input" in said


def test_train_harvest_and_validate_spare_inputs_and_earlier_results(cli: Any, crystal: Path, tmp_path: Path) -> None:
    model, before = tmp_path / "model.safetensors", crystal.read_bytes()
    shutil.copy(Path(sys.modules["fastegnn_md"].__path__[0]) / "assets/models/copper-emt.safetensors", model)
    lag = ["--lag", "40 fs"]
    assert "is there already" in cli("train", crystal, *lag, "-o", model)[1]
    code, said = cli("train", crystal, *lag, "--from", model, "-o", model, "--overwrite")
    assert (code, "is the same file as the input" in said) == (2, True)
    engine = ["--engine", "ase", "--calculator", "emt", "--temperature", 300]
    code, said = cli("harvest", crystal, *engine, "-o", crystal, "--overwrite")
    assert (code, "is the same file as the input" in said) == (2, True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.html").write_text("earlier")
    code, said = cli("validate", "copper-emt", "--reference", crystal, "-o", tmp_path / "results")
    assert (code, "is there already" in said) == (2, True)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "copper.trr").write_text("earlier")
    code, said = cli("demo", "-o", tmp_path / "demo")
    assert (code, "is there already" in said) == (2, True)
    assert crystal.read_bytes() == before


HOLDS = """
import sys, time
from fastegnn_md._files import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    output, link = tmp_path / "out.xtc", tmp_path / "link.xtc"
    link.symlink_to(output)
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(output)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        try:
            assert first.stdout.readline() == "held\n"
            for name in (output, link):
                with pytest.raises(OutputError, match=f"another process .process {first.pid} on "):
                    claimed([name], [], overwrite=True).__enter__()
        finally:
            first.kill()
    with only_writer(output):
        assert (tmp_path / ".out.xtc.lock").exists()
    assert not (tmp_path / ".out.xtc.lock").exists()


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file[1].txt"
    left, handle = held_partial(path)
    os.close(handle)
    writing, held = held_partial(path)
    remove_left(path)
    assert (left.exists(), writing.exists()) == (False, True)
    os.close(held)
    write_atomically(path, b"whole")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_harvest_removes_the_partial_stores_of_killed_ones(tmp_path: Path) -> None:
    from fastegnn_md.data.store_writer import StoreWriter
    from fastegnn_md.data.topology import Topology

    topology = Topology(numbers=np.array([29]), masses=np.array([63.5]))
    options: dict[str, Any] = {"velocities": False, "forces": False, "cells": False, "kind": "bursts", "provenance": {}}
    path = tmp_path / "bursts.h5md"
    left, handle = held_partial(path)
    os.close(handle)
    with StoreWriter(path, topology, 1, **options) as writer:
        assert not left.exists()
        writer.write(np.zeros((1, 3)), 0.0)
        writer.finish(1.0, np.array([[0, 1]]))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
