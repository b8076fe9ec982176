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
