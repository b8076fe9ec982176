"""Finished bursts of a harvest on disk: one burst is one unit."""

from __future__ import annotations

import os
import time
import zlib
from pathlib import Path

import numpy as np

from ..data.store import write_error
from ..errors import DataError
from .bursts import Burst

_VECTORS = ("positions", "velocities", "forces", "ahead", "behind")
_SYNC_SECONDS = 5.0  # between calls that wait for the disk: what a failure of the machine may cost


class Finished:
    """Finished bursts, appended to one file in a folder beside the store as they come.

    Each has a checksum: half a burst, which a kill leaves, is run again. Used in a ``with`` block.

    Parameters
    ----------
    store : path
        The store the bursts will be merged into.
    fingerprint : str
        Settings of the harvest; bursts of other settings are not seen.
    n_bursts, n_frames, n_atoms : int
        Of the harvest, of a burst, of a frame.
    midpoint, cells : bool
        Whether bursts have forces ahead and behind, and a cell.

    Raises
    ------
    DataError
        If the folder cannot be made, or the file not be read.
    """

    def __init__(
        self, store: Path, fingerprint: str, n_bursts: int, n_frames: int, n_atoms: int, *, midpoint: bool, cells: bool
    ):
        self.store = store
        self.folder: Path = store.with_name(f"{store.name}.parts")
        self.path: Path = self.folder / f"{fingerprint[:16]}.bursts"
        vector = ("<f4", (n_frames, n_atoms, 3))
        fields: list[tuple] = [("index", "<i8"), ("time", "<f8"), ("kinetic", "<f8"), ("energies", "<f8", (n_frames,))]
        fields += [(name, *vector) for name in _VECTORS[: 5 if midpoint else 3]]
        fields += [("cell", "<f8", (3, 3))] if cells else []
        fields += [("error", "S200"), ("checksum", "<u4")]
        self.kind: np.dtype = np.dtype(fields)
        self._n_bursts = n_bursts
        self._rows: dict[int, int] = {}  # burst -> row of the file
        self._handle, self._size, self._synced = -1, 0, time.monotonic()

    def __enter__(self) -> Finished:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self._find()
        except OSError as error:
            self.__exit__()
            raise write_error(self.store, error) from error
        return self

    def __exit__(self, *error: object) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __contains__(self, index: int) -> bool:
        return index in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.void:
        """A finished burst, a record of :attr:`kind`.

        Raises
        ------
        DataError
            If it is not there any more.
        """
        row = self._read(self._rows[index])
        if row is None:
            raise DataError(f"{str(self.path)!r} was changed during the harvest; call harvest again")
        return row

    def write(self, index: int, time_ps: float, burst: Burst) -> None:
        """Keep a burst.

        Raises
        ------
        DataError
            If the disk is full; the bursts before are kept.
        """
        row = np.zeros(1, dtype=self.kind)[0]
        row["index"], row["time"] = index, time_ps
        for name in self.kind.names or ():
            if name in ("kinetic", "energies", "cell", *_VECTORS):
                row[name] = getattr(burst, name)
        row["error"] = burst.error.encode()[:200]
        row["checksum"] = _checksum(row)
        content = row.tobytes()
        try:
            self._append(content)
        except OSError as error:
            raise DataError(f"{write_error(self.store, error)}; the {len(self)} bursts before are kept") from error
        self._rows[index] = self._size // self.kind.itemsize
        self._size += len(content)

    def _append(self, content: bytes) -> None:
        try:
            done = 0
            while done < len(content):
                done += os.pwrite(self._handle, content[done:], self._size + done)
            if time.monotonic() > self._synced + _SYNC_SECONDS:
                os.fsync(self._handle)
                self._synced = time.monotonic()
        except OSError:
            os.ftruncate(self._handle, self._size)
            raise

    def _find(self) -> None:
        """Which bursts are whole; the space of those that are not is used anew where they are the last."""
        size = self.kind.itemsize
        for row in range(os.fstat(self._handle).st_size // size):
            found = self._read(row)
            if found is not None and 0 <= found["index"] < self._n_bursts:
                self._rows[int(found["index"])] = row
                self._size = (row + 1) * size

    def _read(self, row: int) -> np.void | None:
        content = os.pread(self._handle, self.kind.itemsize, row * self.kind.itemsize)
        if len(content) < self.kind.itemsize:
            return None
        found = np.frombuffer(content, dtype=self.kind)[0]
        return found if found["checksum"] == _checksum(found) else None


def _checksum(row: np.void) -> int:
    return zlib.crc32(row.tobytes()[: -row.dtype["checksum"].itemsize])
