"""The store: one H5MD file with the frames of one system, written once, read through memory maps.

The layout is plain H5MD 1.1 (``particles/trajectory/{position,velocity,force,box}``), so that MDAnalysis reads it:
``Universe(topology, "pairs.h5md")``. Datasets are contiguous: a frame lies at a known offset and
:class:`numpy.memmap` fetches it without HDF5. The group ``fastegnn_md`` of the same file holds the identity of the
atoms, the segments and the provenance. Lengths are in Å, times in ps, velocities in Å/ps; forces are in kJ/mol/Å in
the file, as MDAnalysis has them, and in amu Å/ps² everywhere else. Stores of a harvest may hold, in that group too,
the forces at x + v lag/2 ("ahead") and x - v lag/2 ("behind") of one lag.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import DataError, brief
from .scratch import Scratch
from .topology import Topology

FORMAT_VERSION = 1
GROUP = "fastegnn_md"
TRAJECTORY = "particles/trajectory"
DATASETS = {  # name in this package -> (path in the file, H5MD unit, dtype)
    "positions": (f"{TRAJECTORY}/position/value", "Angstrom", "<f4"),
    "velocities": (f"{TRAJECTORY}/velocity/value", "Angstrom ps-1", "<f4"),
    "forces": (f"{TRAJECTORY}/force/value", "kJ mol-1 Angstrom-1", "<f4"),
    "cells": (f"{TRAJECTORY}/box/edges/value", "Angstrom", "<f8"),
    "forces_ahead": (f"{GROUP}/force_ahead/value", "kJ mol-1 Angstrom-1", "<f4"),
    "forces_behind": (f"{GROUP}/force_behind/value", "kJ mol-1 Angstrom-1", "<f4"),
}
IDENTITY = ("numbers", "masses", "charges", "bonds")
_WRITTEN = ("positions", "velocities", "cells", "forces", "forces_ahead", "forces_behind")  # order within a frame
# What h5py, NumPy and json raise on damaged files.
_UNREADABLE = (
    OSError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
_FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class Store:
    """Read a store; arrays are memory maps that are opened when first used.

    A store can be sent to other processes: only the path travels. One that is temporary lives as long as this object,
    its copies in this process, and whatever refers to them.

    Parameters
    ----------
    path : path
        File written by :class:`~fastegnn_md.data.StoreWriter`.

    Attributes
    ----------
    n_frames, n_atoms : int
    dt : float, ps
        Time between neighbouring frames of a segment.
    segments : ndarray of int64, shape (S, 2)
        First frame and end of each segment; pairs never cross segments.
    times : ndarray of float64, shape (n_frames,), ps
    topology : Topology
    kind : {"trajectory", "bursts"}
    content : str
        SHA-256 of identity and frames.
    provenance : dict
    midpoint : float or None, ps
        Lag whose forces ahead and behind the frames carry.
    has_velocities, has_forces, periodic, cell_varies : bool

    Raises
    ------
    DataError
        If the file is missing, truncated, foreign, incomplete, or of a newer format.
    """

    n_frames: int
    n_atoms: int

    def __init__(self, path: str | os.PathLike[str]):
        self.path: Path = Path(path)
        self._maps: dict[str, np.ndarray] = {}
        self._folder: Scratch | None = None
        if not self.path.is_file():
            raise DataError(f"store {str(self.path)!r} does not exist")
        try:
            with h5py.File(self.path, "r") as file:
                self._read_header(file)
            self._check_header()
        except DataError:
            raise
        except _UNREADABLE as error:
            raise DataError(
                f"{str(self.path)!r} is not a readable store, it is truncated or of another kind "
                f"({brief(error, quoted=False)}); write it again"
            ) from error

    def _read_header(self, file: h5py.File) -> None:
        if GROUP not in file:
            raise DataError(
                f"{str(self.path)!r} is HDF5 but not a store of this package; open it with MDAnalysis and pass the "
                "universe: TrajectoryPairs(Universe(topology, trajectory), ...)"
            )
        group = file[GROUP]
        version = int(group.attrs["format_version"])
        if version > FORMAT_VERSION:
            raise DataError(
                f"store {str(self.path)!r} has format {version}, this version reads up to {FORMAT_VERSION}; "
                "update fastegnn_md or write the store again"
            )
        if not group.attrs.get("complete", False):
            raise DataError(f"store {str(self.path)!r} is incomplete: its writer was stopped; write it again")
        size = self.path.stat().st_size
        for name in ("types", "segments", *IDENTITY):
            if name in group and group[name].nbytes > size:  # before memory is taken for it
                raise DataError(f"{name} of store {str(self.path)!r} are larger than the file; write the store again")
        types = group["types"][...].astype(str) if "types" in group else None
        identity = {name: group[name][...] for name in IDENTITY if name in group}
        self.topology: Topology = Topology(types=types, **identity)
        self.segments: Any = group["segments"][...]
        self.dt: float = float(group.attrs["dt"])
        self.kind: str = str(group.attrs["kind"])
        self.content: str = str(group.attrs["content"])
        self.cell_varies: bool = bool(group.attrs["cell_varies"])
        self.midpoint: float | None = float(group.attrs["midpoint"]) if "midpoint" in group.attrs else None
        self.provenance: dict[str, Any] = json.loads(group.attrs["provenance"])
        times = file[DATASETS["positions"][0]].parent["time"]
        if times.nbytes > size:
            raise DataError(f"times of store {str(self.path)!r} are larger than the file; write the store again")
        self.times: Any = times[...]
        self._layout: dict[str, tuple[int, tuple[int, ...]]] = {}
        for name, (path, _, dtype) in DATASETS.items():
            if path not in file:
                continue
            dataset = file[path]
            offset = dataset.id.get_offset()
            if offset is None or dataset.dtype != np.dtype(dtype) or offset + dataset.nbytes > size:
                raise DataError(
                    f"{name} of store {str(self.path)!r} are not laid out as written; write the store again"
                )
            self._layout[name] = (offset, dataset.shape)
        self.n_frames, self.n_atoms = self._layout["positions"][1][:2]

    def _check_header(self) -> None:
        """Hold shapes and types against each other: what is mapped later lies in the file, whatever it says."""
        frames, atoms, topology, segments = self.n_frames, self.n_atoms, self.topology, self.segments
        found: dict[str, tuple[int, ...]] = {name: shape for name, (_, shape) in self._layout.items()}
        expected: dict[str, tuple[int, ...]] = {
            name: (frames, 3, 3) if name == "cells" else (frames, atoms, 3) for name in found
        }
        for name, kind, shape in (
            ("numbers", "iu", (atoms,)),
            ("masses", "f", (atoms,)),
            ("charges", "f", (atoms,)),
            ("types", "U", (atoms,)),
            ("bonds", "iu", (len(topology.bonds) if topology.bonds is not None else 0, 2)),
        ):
            value = getattr(topology, name)
            if value is not None and value.dtype.kind not in kind:
                raise ValueError(f"{name} are of type {value.dtype}")
            if value is not None:
                found[name], expected[name] = value.shape, shape
        found |= {"times": self.times.shape, "segments": segments.shape}
        expected |= {"times": (frames,), "segments": (len(segments), 2)}
        for name, wanted in expected.items():
            if found[name] != wanted:
                raise ValueError(f"{name} have shape {found[name]}, expected {wanted}")
        bonds, ends = topology.bonds, segments
        if bonds is not None and len(bonds) and not (bonds.min() >= 0 and bonds.max() < atoms):
            raise ValueError("bonds name atoms that there are not")
        if ends.dtype.kind not in "iu" or self.times.dtype.kind != "f":
            raise ValueError("segments or times are of another type")
        if len(ends) and not (ends.min() >= 0 and ends.max() <= frames and (ends[:, 0] <= ends[:, 1]).all()):
            raise ValueError("segments name frames that there are not")
        if not (self.dt > 0 and np.isfinite(self.dt) and np.isfinite(topology.masses).all()):
            raise ValueError("the time step or a mass is none")

    def verify(self) -> None:
        """Compare identity and frames with the SHA-256 that they were written with; reads the whole file.

        Raises
        ------
        DataError
            If they differ.
        """
        digest = hashlib.sha256(self.topology.sha256.encode())
        names = [name for name in _WRITTEN if name in self._layout]
        maps = [self._map(name) for name in names]
        for frame in range(self.n_frames):
            for one in maps:
                digest.update(np.ascontiguousarray(one[frame]).data)
        digest.update(self.times.astype("<f8").tobytes() + self.segments.astype("<i8").tobytes())
        digest.update(repr(self.dt).encode())
        if digest.hexdigest() != self.content:
            raise DataError(
                f"store {str(self.path)!r} is damaged: its frames do not have the SHA-256 they were written with; copy "
                "or write it again"
            )

    @property
    def has_velocities(self) -> bool:
        """Whether frames carry velocities."""
        return "velocities" in self._layout

    @property
    def has_forces(self) -> bool:
        """Whether frames carry forces."""
        return "forces" in self._layout

    @property
    def periodic(self) -> bool:
        """Whether frames carry a cell."""
        return "cells" in self._layout

    @property
    def positions(self) -> np.ndarray:
        """Positions, shape (n_frames, N, 3), Å, unwrapped, read-only."""
        return self._map("positions")

    @property
    def velocities(self) -> np.ndarray:
        """Velocities, shape (n_frames, N, 3), Å/ps, read-only."""
        return self._map("velocities")

    @property
    def forces(self) -> np.ndarray:
        """Forces, shape (n_frames, N, 3), **kJ/mol/Å** as in the file, read-only."""
        return self._map("forces")

    @property
    def forces_ahead(self) -> np.ndarray:
        """Forces at x + v :attr:`midpoint`/2; shape and units as :attr:`forces`."""
        return self._map("forces_ahead")

    @property
    def forces_behind(self) -> np.ndarray:
        """Forces at x - v :attr:`midpoint`/2; shape and units as :attr:`forces`."""
        return self._map("forces_behind")

    @property
    def cells(self) -> np.ndarray:
        """Cell vectors in rows, shape (n_frames, 3, 3), Å, read-only."""
        return self._map("cells")

    def _map(self, name: str) -> np.ndarray:
        if name not in self._layout:
            raise DataError(f"store {str(self.path)!r} has no {name}")
        if name not in self._maps:
            offset, shape = self._layout[name]
            try:
                # as a plain array, for every index into a memmap makes another memmap, which takes longer than reading
                self._maps[name] = np.memmap(self.path, DATASETS[name][2], "r", offset, shape).view(np.ndarray)
            except (OSError, ValueError) as error:
                raise DataError(f"store {str(self.path)!r} was changed or removed while in use: {error}") from error
        return self._maps[name]

    def keep(self, folder: Scratch) -> None:
        """Let a temporary folder, in which the file lies, live as long as this object and its copies."""
        self._folder = folder

    def close(self) -> None:
        """Release the memory maps; they open again when needed."""
        self._maps = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __repr__(self) -> str:
        return (
            f"Store({str(self.path)!r}: {self.n_frames} frames of {self.n_atoms} atoms, {len(self.segments)} segments)"
        )


def write_error(path: Path, error: OSError) -> DataError:
    """Say in one sentence why a file could not be written."""
    if error.errno in _FULL_DISK or "no space left" in str(error).lower() or "file too large" in str(error).lower():
        reason, advice = "the disk is full", "free space or choose another folder"
    elif isinstance(error, PermissionError) or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason, advice = "the folder is read-only", "choose a folder you may write to"
    else:
        reason, advice = str(error), "check the path"
    return DataError(f"cannot write {str(path)!r}: {reason}; {advice}")
