"""Terminals that cannot show every letter, and streams that are closed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = f"{sys.executable} -c 'from fastegnn_md.cli import main; main()'"


def run(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, errors="replace")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_letters_that_cannot_be_shown_do_not_end_a_command(encoding):
    done = run(f"{PROGRAM} models", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "copper-emt" in done.stdout


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)])
def test_closed_streams_do_not_end_a_command(closed, code):
    done = run(f"{PROGRAM} models {closed}")
    assert (done.returncode, done.stdout if ">&-" == closed else "", done.stderr) == (code, "", "")


def test_an_error_with_closed_streams_has_its_exit_code():
    assert run(f"{PROGRAM} inspect nothing.safetensors 2>&-").returncode == 2


@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("command", ["models", "inspect copper-emt"])
def test_a_reader_that_leaves_ends_a_command_without_a_word(command, reader):
    done = run(f"{PROGRAM} {command} | {reader}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, 1)  # 1: something of it was not read
    assert done.stderr == ""
    assert bool(done.stdout) == (reader == "head -1")


@pytest.mark.slow  # starts Python
@pytest.mark.parametrize("closed", ["| true", ">&-", "2>&1 | true"])
def test_a_run_whose_words_nobody_reads_is_whole(closed, tmp_path, require):
    require("ase")
    from ase.build import bulk
    from ase.io import read, write

    write(tmp_path / "cu.extxyz", bulk("Cu", a=3.61, cubic=True) * (3, 3, 3))
    options = "--temperature 300 --steps 8 -o out.extxyz"
    done = run(f"cd {tmp_path} && {PROGRAM} run copper-emt cu.extxyz {options} {closed}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert len(read(tmp_path / "out.extxyz", ":")) == 9
    assert (tmp_path / "out.extxyz.restart").exists()
