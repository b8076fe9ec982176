"""Writing a store, so that neither a kill nor a full disk leaves half of one under its name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import h5py
import numpy as np

from .. import units
from .._files import held_partial, name_finally, remove_left
from ..errors import DataError
from .store import DATASETS, FORMAT_VERSION, GROUP, IDENTITY, TRAJECTORY, Store, write_error
from .topology import Topology

_SLACK = 1_000_000  # bytes for the identity of the atoms and HDF5's own bookkeeping


class StoreWriter:
    """Write a store frame by frame; the file appears under its name only when it is complete.

    Frames go to ``.<name>.<random>.partial``, whose space is claimed at the start, so that a full disk is met
    before the work and not after it. :meth:`finish` renames the file. Leaving the ``with`` block without it deletes
    the partial file.

    Parameters
    ----------
    path : path
        Where the store will be. An existing file is replaced when the new one is complete.
    topology : Topology
        Identity of the atoms.
    n_frames : int
        Number of frames that will be written.
    velocities, forces, cells : bool
        Which fields the frames have besides positions.
    kind : {"trajectory", "bursts"}
        ``"bursts"`` for segments of a harvest.
    provenance : mapping
        Where the data come from; must be JSON.
    midpoint : float, ps, optional
        Frames have forces at x ± v ``midpoint``/2 as well.

    Raises
    ------
    DataError
        If the folder cannot be written to or the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        topology: Topology,
        n_frames: int,
        *,
        velocities: bool,
        forces: bool,
        cells: bool,
        kind: str,
        provenance: Mapping[str, Any],
        midpoint: float | None = None,
    ):
        self.path: Path = Path(path)
        self.topology = topology
        self.n_frames = n_frames
        self.kind = kind
        self.midpoint = midpoint
        self.provenance: dict[str, Any] = dict(provenance)
        n = topology.n_atoms
        self._shapes: dict[str, tuple[int, ...]] = {"positions": (n_frames, n, 3)}
        if velocities:
            self._shapes["velocities"] = (n_frames, n, 3)
        if forces:
            self._shapes["forces"] = (n_frames, n, 3)
        if cells:
            self._shapes["cells"] = (n_frames, 3, 3)
        if midpoint is not None:
            self._shapes |= dict.fromkeys(("forces_ahead", "forces_behind"), (n_frames, n, 3))
        self._partial: Path | None = None
        self._held = -1  # descriptor whose lock tells others that the partial file is not one that was left
        self._files: dict[str, BinaryIO] = {}
        self._times = np.zeros(n_frames)
        self._written = 0
        self._first_cell: np.ndarray | None = None
        self._cell_varies = False
        self._hash = hashlib.sha256(topology.sha256.encode())

    def __enter__(self) -> StoreWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_left(self.path)
            self._partial, self._held = held_partial(self.path)
            self._create(self._partial)
        except OSError as error:
            self.abort()
            raise write_error(self.path, error) from error
        except BaseException:
            self.abort()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _create(self, partial: Path) -> None:
        identity = [getattr(self.topology, name) for name in (*IDENTITY, "types")]
        size = _SLACK + 2 * self._times.nbytes + sum(array.nbytes for array in identity if array is not None)
        size += sum(_n_bytes(name, shape) for name, shape in self._shapes.items())
        # HDF5 ends the process where it cannot write, so plain calls ask for the space before it does
        with open(partial, "wb") as file:
            _claim(file, size)
        with h5py.File(partial, "w", locking=False) as layout:  # HDF5's own lock is of the same kind as ours
            offsets = self._lay_out(layout)
        for name, offset in offsets.items():
            self._files[name] = open(partial, "r+b")  # noqa: SIM115 - one handle per field, closed in abort()
            self._files[name].seek(offset)
        _claim(self._files["positions"], size)

    def _lay_out(self, file: h5py.File) -> dict[str, int]:
        file.create_group("h5md").attrs["version"] = np.array([1, 1])
        file["h5md"].create_group("author").attrs["name"] = "fastegnn_md"
        creator = file["h5md"].create_group("creator")
        creator.attrs["name"] = "fastegnn_md"
        creator.attrs["version"] = f"store format {FORMAT_VERSION}"
        box = file.create_group(f"{TRAJECTORY}/box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = 3 * ["periodic" if "cells" in self._shapes else "none"]
        file[f"{TRAJECTORY}/time"] = self._times
        file[f"{TRAJECTORY}/time"].attrs["unit"] = "ps"
        file[f"{TRAJECTORY}/step"] = np.arange(self.n_frames)
        offsets = {}
        for name, shape in self._shapes.items():
            path, unit, dtype = DATASETS[name]
            offsets[name] = _contiguous(file, path, shape, dtype)
            file[path].attrs["unit"] = unit
            parent = file[path].parent
            parent["time"] = file[f"{TRAJECTORY}/time"]
            parent["step"] = file[f"{TRAJECTORY}/step"]
        # H5MD knows no elements of this name below a particles group; the hard links above keep the data
        del file[f"{TRAJECTORY}/time"], file[f"{TRAJECTORY}/step"]
        group = file.require_group(GROUP)
        for name in IDENTITY:
            value = getattr(self.topology, name)
            if value is not None:
                group[name] = value
        if self.topology.types is not None:
            group["types"] = np.array(self.topology.types, dtype="S")
        group.attrs["format_version"] = FORMAT_VERSION
        if self.midpoint is not None:
            group.attrs["midpoint"] = self.midpoint
        return offsets

    def write(
        self,
        positions: np.ndarray,
        time: float,
        *,
        velocities: np.ndarray | None = None,
        forces: np.ndarray | None = None,
        cell: np.ndarray | None = None,
        ahead: np.ndarray | None = None,
        behind: np.ndarray | None = None,
    ) -> None:
        """Append one frame.

        Parameters
        ----------
        positions : ndarray, shape (N, 3), Å
        time : float, ps
        velocities : ndarray, shape (N, 3), Å/ps
        forces : ndarray, shape (N, 3), amu Å/ps²
        cell : ndarray, shape (3, 3), Å
            Cell vectors in rows.
        ahead, behind : ndarray, shape (N, 3), amu Å/ps²
            Forces at x + v lag/2 and x - v lag/2.

        Raises
        ------
        DataError
            If the fields or shapes are not the announced ones, or the disk is full.
        """
        frame = {"positions": positions, "velocities": velocities, "cells": cell}
        for name, value in (("forces", forces), ("forces_ahead", ahead), ("forces_behind", behind)):
            frame[name] = None if value is None else np.asarray(value) / units.KJ_PER_MOL
        if self._written >= self.n_frames:
            raise DataError(f"the store was announced with {self.n_frames} frames; another one came")
        for name, value in frame.items():
            if (value is not None) != (name in self._shapes):
                raise DataError(
                    f"frame {self._written} {'has' if value is not None else 'lacks'} {name}, unlike announced"
                )
            if value is None:
                continue
            data = np.ascontiguousarray(value, dtype=DATASETS[name][2])
            if data.shape != self._shapes[name][1:]:
                raise DataError(
                    f"frame {self._written}: {name} has shape {data.shape}, expected {self._shapes[name][1:]}"
                )
            try:
                self._files[name].write(data.data)
            except OSError as error:
                raise write_error(self.path, error) from error
            self._hash.update(data.data)
        if cell is not None:
            if self._first_cell is None:
                self._first_cell = np.array(cell, dtype=np.float64)
            self._cell_varies |= bool(np.any(np.abs(self._first_cell - cell) > 1e-5))
        self._times[self._written] = time
        self._written += 1

    def finish(self, dt: float, segments: np.ndarray) -> Store:
        """Complete the file and give it its name.

        Parameters
        ----------
        dt : float, ps
            Time between neighbouring frames of a segment.
        segments : ndarray of int, shape (S, 2)
            First frame and end of each run of frames ``dt`` apart.

        Raises
        ------
        DataError
            If fewer frames were written than announced, or the disk is full.
        """
        if self._written != self.n_frames:
            raise DataError(f"{self._written} frames were written, {self.n_frames} were announced")
        partial = self._partial
        if partial is None:
            raise DataError("the store is not open for writing; use the writer in a 'with' block")
        segments = np.ascontiguousarray(segments, dtype=np.int64).reshape(-1, 2)
        self._hash.update(
            self._times.astype("<f8").tobytes() + segments.astype("<i8").tobytes() + repr(float(dt)).encode()
        )
        try:
            self._close_files()
            with open(partial, "r+b") as claimed:
                _claim(claimed, partial.stat().st_size + segments.nbytes + _SLACK)
            with h5py.File(partial, "r+", locking=False) as file:
                file[DATASETS["positions"][0]].parent["time"][...] = self._times
                group = file[GROUP]
                group["segments"] = segments
                group.attrs["dt"] = float(dt)
                group.attrs["kind"] = self.kind
                group.attrs["cell_varies"] = self._cell_varies
                group.attrs["content"] = self._hash.hexdigest()
                group.attrs["provenance"] = json.dumps(self.provenance, sort_keys=True)
                group.attrs["complete"] = True
            os.fsync(self._held)
            name_finally(partial, self.path)
            self._release()
        except OSError as error:
            self.abort()
            raise write_error(self.path, error) from error
        return Store(self.path)

    def abort(self) -> None:
        """Close and delete the partial file; nothing happens after :meth:`finish`."""
        try:
            self._close_files()
        except OSError:
            self._files = {}
        if self._partial is not None:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._held >= 0:
            os.close(self._held)
        self._partial, self._held = None, -1

    def _close_files(self) -> None:
        errors = []
        for file in self._files.values():
            try:
                file.close()
            except OSError as error:  # buffered data that a full disk did not take
                errors.append(error)
        self._files = {}
        if errors:
            raise errors[0]


def _n_bytes(name: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(DATASETS[name][2]).itemsize


def _claim(file: BinaryIO, size: int) -> None:
    """Make a file so large, with blocks on the disk behind every byte; OSError if there are not enough."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(os.path.dirname(os.path.abspath(file.name))).free < size - os.fstat(file.fileno()).st_size:
        raise OSError(errno.ENOSPC, "No space left on device")


def _contiguous(file: h5py.File, path: str, shape: tuple[int, ...], dtype: str) -> int:
    """Create a dataset whose space is allocated, unfilled, at once; return its offset in the file."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    dataset = h5py.h5d.create(file.id, path.encode(), kind, h5py.h5s.create_simple(shape), settings, links)
    return int(dataset.get_offset())
