"""Files of a roll-out's frames: each frame is whole on disk when it was written, and a file can be continued.

MDAnalysis encodes frames, one at a time; what comes out is appended here, where a full disk is noticed, half a frame is
taken back, and a kill leaves all frames but the one in flight.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import MDAnalysis as mda
import numpy as np
from MDAnalysis.coordinates.XDR import offsets_filename
from MDAnalysis.guesser.tables import Z2SYMB
from MDAnalysis.lib.mdamath import triclinic_box, triclinic_vectors

from .. import units
from ..data.store import write_error
from ..data.topology import quiet
from ..errors import DataError
from ..state import State

OF_ASE = ("TRAJ", "EXTXYZ")  # MDAnalysis does not write them
UNIFORM = ("DCD", "LAMMPS")  # formats whose header holds one time step for all frames
# Formats that are a head and frames one after the other: where the head counts them, and how.
_COUNTS: dict[str, tuple[int, str] | None] = {
    "XTC": None,
    "TRR": None,
    "XYZ": None,
    "TRZ": None,
    "PDB": None,
    "ENT": None,
    "DCD": (8, "=i"),
    "LAMMPS": (8, "=i"),
    "NC": (4, ">i"),
    "NCDF": (4, ">i"),
}
_HEADLESS = ("XTC", "TRR", "XYZ")
_TEXT = {"PDB": "pdbfile", "ENT": "pdbfile", "XYZ": "_xyz"}  # the writers' attribute of the open file
_SLACK = 1_000_000  # bytes for HDF5's own bookkeeping


class FrameFile(Protocol):
    """Frames of one system on disk.

    Attributes
    ----------
    n_bytes : int or None
        Size of the whole frames, from which the file can be continued; None where it cannot.
    """

    n_bytes: int | None

    def write(self, state: State, time: float, frame: int) -> None:
        """Append a frame: it is whole when this returns. OSError if there is no room, and the file then ends before."""
        ...

    def label(self, labels: Mapping[str, str]) -> None:
        """What the next frames say of themselves, in formats that have a place for it."""
        ...

    def sync(self) -> None:
        """Have the disk itself hold what was written."""
        ...

    def close(self) -> None:
        """Finish the file; a second time does nothing."""
        ...


def open_frames(
    path: Path,
    state: State,
    atoms: mda.AtomGroup | None,
    *,
    forces: bool,
    dt: float,
    time: float,
    n_bytes: int | None,
    frames: int = 0,
) -> FrameFile:
    """Open a file in the format of its suffix.

    Parameters
    ----------
    path : Path
    state : State
        The first frame that will be written.
    atoms : AtomGroup, optional
        With names, for formats that have some.
    forces : bool
    dt, time : float, ps
        Time between frames, and of the first one; of formats that hold them in their head.
    n_bytes : int, optional
        Continue the file after so many bytes, which are whole frames; the rest is cut off. Default: a new file.
    frames : int
        How many frames these are.

    Raises
    ------
    DataError
        If files of this format cannot be continued, or this one is shorter.
    OSError
        If it cannot be written.
    """
    kind = path.suffix[1:].upper()
    options: dict[str, Any] = {"n_atoms": state.n_atoms, "multiframe": True}
    if kind in UNIFORM:
        options |= {"dt": dt, "istart": round(time / dt)}
    elif kind in ("NC", "NCDF"):
        options |= {"velocities": True, "forces": forces}
    elif kind == "H5MD":
        options |= {
            "timeunit": "ps",
            "lengthunit": "Angstrom",
            "velocityunit": "Angstrom/ps",
            "forceunit": "kJ/(mol*Angstrom)",
            "chunks": (1, state.n_atoms, 3),
        }
    elif kind == "EXTXYZ":
        from .ase.frame_file import ExtxyzFile

        return ExtxyzFile(path, forces, n_bytes)
    elif kind == "TRAJ":
        from .ase.frame_file import TrajFile

        return TrajFile(path, forces, None if n_bytes is None else frames)
    scene = _Scene(state, atoms, forces, dt)
    # MDAnalysis keeps the frame offsets of XTC and TRR beside the file; those of an earlier file mislead it.
    Path(offsets_filename(str(path))).unlink(missing_ok=True)
    if kind in _COUNTS:
        return _Appended(path, kind, options, scene, n_bytes)
    if n_bytes is not None:
        raise DataError(
            f"a file of this format cannot be continued ({path}); extxyz, traj, "
            f"{', '.join(sorted(_COUNTS)).lower()} can: "
            "write the rest to another file"
        )
    return _Library(path, options, scene, forces)


class _Appended:
    """Frames that MDAnalysis encodes as a file of one frame, in memory, and that are appended to the real one."""

    def __init__(self, path: Path, kind: str, options: dict[str, Any], scene: _Scene, n_bytes: int | None):
        self._kind, self._options, self._scene = kind, options, scene
        self._count, self._head, self._tail = _COUNTS[kind], 0 if kind in _HEADLESS else -1, b""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self.n_bytes: int | None = n_bytes or 0
        try:
            if os.fstat(self._handle).st_size < self.n_bytes:
                raise DataError(f"{path} is shorter than the {n_bytes} bytes after which it is to be continued")
            os.ftruncate(self._handle, self.n_bytes)
        except BaseException:
            self.close()
            raise

    def write(self, state: State, time: float, frame: int) -> None:
        self._scene.set(state, time, frame)
        whole = self._encode(frame, 1)
        if self._head < 0:
            self._head = (
                whole.index(b"MODEL ") if self._kind in ("PDB", "ENT") else 2 * len(whole) - len(self._encode(frame, 2))
            )
        assert self.n_bytes is not None
        begin = self.n_bytes
        content = whole[self._head :] if begin else whole
        try:
            _write_all(self._handle, content, begin)
            if self._count is not None and begin:
                place, kind = self._count
                os.pwrite(self._handle, struct.pack(kind, frame + 1), place)
        except OSError:
            os.ftruncate(self._handle, begin)
            raise
        self.n_bytes = begin + len(content)

    def label(self, labels: Mapping[str, str]) -> None:
        pass

    def sync(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle < 0:
            return
        try:
            if self._tail and self.n_bytes:
                _write_all(handle, self._tail, self.n_bytes)
        except OSError:
            os.ftruncate(handle, self.n_bytes or 0)
            raise
        finally:
            os.close(handle)

    def _encode(self, frame: int, copies: int) -> bytes:
        """The file that has this frame alone, so many times."""
        with _memory_file() as name:
            writer: Any = mda.Writer(name, format=self._kind, **self._options)
            try:
                if self._kind in ("PDB", "ENT"):
                    writer.frames_written = frame  # its number
                for _ in range(copies):
                    writer.write(self._scene.atoms)
                if self._kind in _TEXT:
                    getattr(writer, _TEXT[self._kind]).flush()
                    size = os.stat(name).st_size
            finally:
                writer.close()
            with open(name, "rb") as file:
                content = file.read()
        if self._kind in _TEXT:
            content, self._tail = content[:size], content[size:]  # what ends the file
        return content


class _Library:
    """A file that MDAnalysis writes itself, flushed after every frame."""

    n_bytes: int | None = None

    def __init__(self, path: Path, options: dict[str, Any], scene: _Scene, forces: bool):
        self._scene, self._path = scene, path
        self._frame = 4 * 3 * options["n_atoms"] * (3 if forces else 2)
        with open(path, "wb"):
            pass  # MDAnalysis' writers fail badly, or late, where they may not write
        self._writer: Any = mda.Writer(str(path), **options)

    def write(self, state: State, time: float, frame: int) -> None:
        # HDF5 ends the process where it cannot write: the room is asked for before it does.
        with open(self._path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), size, self._frame + _SLACK)
            finally:
                os.ftruncate(file.fileno(), size)
        self._scene.set(state, time, frame)
        self._writer.write(self._scene.atoms)
        for part in vars(self._writer).values():
            if callable(flush := getattr(part, "flush", None)):
                flush()

    def label(self, labels: Mapping[str, str]) -> None:
        pass

    def sync(self) -> None:
        with open(self._path, "r+b") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class _Scene:
    """A universe of one frame in memory, which the writers read from."""

    def __init__(self, state: State, group: mda.AtomGroup | None, forces: bool, dt: float):
        self._universe, self._forces, self._dt = _universe(state, group, forces), forces, dt

    @property
    def atoms(self) -> mda.AtomGroup:
        return self._universe.atoms

    def set(self, state: State, time: float, frame: int) -> None:
        ts = self._universe.trajectory.ts
        box, turn = _box(state)
        ts.dimensions = box
        ts.positions = state.positions.detach().cpu().double().numpy() @ turn
        ts.velocities = state.velocities.detach().cpu().double().numpy() @ turn
        if self._forces and state.forces is not None:
            ts.forces = state.forces.detach().cpu().double().numpy() @ turn / units.KJ_PER_MOL
        ts.frame, ts.time, ts.dt = frame, time, self._dt
        ts.data["step"] = frame


@contextlib.contextmanager
def writing(path: Path, n_frames: int) -> Iterator[None]:
    """Errors of writing in the words of this package, and MDAnalysis' advice left out."""
    with warnings.catch_warnings():
        # about names, boxes and optional libraries that the format has and the state has not
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError as error:
            kept = f"; its {n_frames} frames before are whole" if n_frames else ""
            raise DataError(f"{write_error(path, error)}{kept}") from error
        except NotImplementedError as error:
            kind = path.suffix[1:].upper()
            raise DataError(f"MDAnalysis cannot write this to {kind}: {error}; choose XTC, TRR or H5MD") from error


def _write_all(handle: int, content: bytes, place: int) -> None:
    """All of it, or OSError."""
    rest = memoryview(content)
    while rest:
        done = os.pwrite(handle, rest, place)
        rest, place = rest[done:], place + done


@contextlib.contextmanager
def _memory_file() -> Iterator[str]:
    """Name of an empty file, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("frame")
        try:
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder, "frame"))


def _universe(state: State, group: mda.AtomGroup | None, forces: bool) -> mda.Universe:
    """A universe of one frame in memory that the writers read from."""
    n = state.n_atoms
    with quiet():
        if group is not None:
            universe = mda.Merge(group)
        else:
            symbols = [Z2SYMB[int(z)] for z in state.numbers]
            universe = mda.Universe.empty(n, trajectory=True)
            for name in ("names", "types", "elements"):
                universe.add_TopologyAttr(name, symbols)
            universe.add_TopologyAttr("masses", state.masses.detach().cpu().double().numpy())
            universe.add_TopologyAttr("resnames", ["MOL"])
            universe.add_TopologyAttr("resids", [1])
    ts = universe.trajectory.ts
    ts.has_velocities = True
    ts.has_forces = forces
    return universe


def _box(state: State) -> tuple[np.ndarray | None, np.ndarray]:
    """Lengths and angles of the cell, and the rotation into the orientation that formats take for granted.

    Formats keep six numbers: a along x, b in the plane of x and y. Rows of positions are multiplied by the rotation.
    """
    if state.cell is None or not state.periodic:
        return None, np.eye(3)
    cell = state.cell[0].detach().cpu().double().numpy()
    box = triclinic_box(*cell)
    standard = triclinic_vectors(box, dtype=np.float64)
    if not box.any() or np.allclose(cell, standard, atol=1e-3):
        return box, np.eye(3)
    turn = np.linalg.solve(cell, standard)
    if np.linalg.det(turn) < 0:
        raise DataError("the cell vectors are left-handed, which trajectory formats cannot hold; exchange two of them")
    u, _, vt = np.linalg.svd(turn)  # lengths and angles are float32: back to a rotation
    return box, u @ vt
