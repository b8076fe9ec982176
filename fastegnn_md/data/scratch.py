"""Temporary stores."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path


class Scratch:
    """A temporary folder that goes with the last object that refers to it, in the process that made it.

    A copy is the folder itself. In another process, to which it was sent, it names the folder and deletes nothing.
    """

    def __init__(self) -> None:
        self.folder: Path = Path(tempfile.mkdtemp(prefix="fastegnn_md-"))
        self._owner = os.getpid()
        _LIVING[self.folder] = self
        weakref.finalize(self, _remove, self.folder, self._owner)

    def __reduce__(self) -> tuple[object, ...]:
        return _sent, (self.folder, self._owner)


_LIVING: weakref.WeakValueDictionary[Path, Scratch] = weakref.WeakValueDictionary()


def _sent(folder: Path, owner: int) -> Scratch:
    here = _LIVING.get(folder)
    if here is not None:
        return here
    borrowed = Scratch.__new__(Scratch)
    borrowed.folder, borrowed._owner = folder, owner
    return borrowed


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker has a copy of the reference, not of the folder
        shutil.rmtree(folder, ignore_errors=True)
