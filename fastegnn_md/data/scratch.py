"""Temporary stores."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path


class Scratch:
    """A temporary folder that goes with the last data set that refers to it, in the process that made it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fastegnn_md-"))
        weakref.finalize(self, _remove, self.folder, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker has a copy of the reference, not of the folder
        shutil.rmtree(folder, ignore_errors=True)
