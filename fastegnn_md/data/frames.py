"""From an MDAnalysis trajectory to a store: every frame is read once, copied, checked and unwrapped in order."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from MDAnalysis.exceptions import NoDataError
from MDAnalysis.lib.mdamath import triclinic_vectors
from tqdm import tqdm

from .. import units
from ..errors import DataError
from .split import segments_from_times
from .store import Store
from .store_writer import StoreWriter
from .topology import Topology, describe, quiet, read_topology
from .unwrap import JumpFound, Unwrapper

OVERLAP = 1e-3  # Å; atoms closer than this are one atom written twice, no chemistry brings them there
_COLDEST, _HOTTEST = 0.1, 1e6  # K
_NO_UNITS = ("LAMMPSDUMP",)  # formats whose forces come in a unit the file does not name


@dataclass(frozen=True, eq=False)
class Frame:
    """One checked frame; arrays are copies.

    Attributes
    ----------
    index : int
        Frame of the trajectory.
    time : float or None, ps
        Time, None where the file carries none.
    positions : ndarray of float64, shape (N, 3), Å
    velocities : ndarray of float32, shape (N, 3), Å/ps, or None
    forces : ndarray of float64, shape (N, 3), amu Å/ps², or None
    cell : ndarray of float64, shape (3, 3), Å, or None
        Cell vectors in rows.
    """

    index: int
    time: float | None
    positions: np.ndarray
    velocities: np.ndarray | None
    forces: np.ndarray | None
    cell: np.ndarray | None


def copy_frame(atoms: mda.AtomGroup, *, velocities: bool = True, forces: bool = True) -> Frame:
    """Copy and check the current frame of a trajectory for a group of atoms.

    Raises
    ------
    DataError
        If a coordinate is NaN or infinite, two atoms overlap, the cell has no volume, or the frame has another number
        of atoms than the topology.
    """
    ts = atoms.universe.trajectory.ts
    where = f"frame {ts.frame}"
    if ts.n_atoms != atoms.universe.atoms.n_atoms:
        raise DataError(
            f"{where} has {ts.n_atoms} atoms but the topology has {atoms.universe.atoms.n_atoms}; give the topology "
            "the trajectory was written with"
        )
    if not ts.has_positions:
        raise DataError(f"{where} has no positions; write them to every frame")
    fields: dict[str, np.ndarray | None] = {"velocities": None, "forces": None}
    x = ts.positions[atoms.ix].astype(np.float64)
    _check_finite(x, "positions", atoms, where)
    if velocities and ts.has_velocities:
        fields["velocities"] = ts.velocities[atoms.ix]
    if forces and ts.has_forces and getattr(atoms.universe.trajectory, "format", None) not in _NO_UNITS:
        fields["forces"] = ts.forces[atoms.ix].astype(np.float64) * units.KJ_PER_MOL
    for name, value in fields.items():
        if value is not None:
            _check_finite(value, name, atoms, where)
    pair = find_overlap(x)
    if pair is not None:
        raise DataError(
            f"{where}: {describe(atoms, pair[0])} and {describe(atoms, pair[1])} overlap (closer than {OVERLAP:g} Å); "
            "the frame is corrupt or an atom is in the file twice"
        )
    time = ts.data.get("time")
    if time is not None:
        time = float(time) + float(ts.data.get("time_offset", 0.0))
    return Frame(index=ts.frame, time=time, positions=x, cell=_cell(ts, where), **fields)


def write_trajectory(
    atoms: mda.AtomGroup,
    path: str | os.PathLike,
    *,
    stride: int = 1,
    dt: float | None = None,
    unwrap: bool = True,
    need_velocities: bool = False,
    progress: bool = True,
) -> Store:
    """Write the frames of a trajectory to a store, or open the store if it already holds just these frames.

    Parameters
    ----------
    atoms : AtomGroup
        Atoms to keep.
    path : path
        Where the store is or will be.
    stride : int
        Keep every stride-th frame.
    dt : float, ps, optional
        Time between frames of the file, for files that carry none.
    unwrap : bool
        Follow atoms through periodic boundaries. With False a jump of more than half the box is an error.
    need_velocities : bool
        Whether a frame without velocities is an error.
    progress : bool
        Show a progress bar.

    Raises
    ------
    DataError
        If the frames cannot give pairs or the store cannot be written; the message says which frame and why.
    """
    reader = atoms.universe.trajectory
    if stride < 1:
        raise DataError(f"stride is {stride}; expected 1 or more")
    with quiet(), keeping_frame(reader):
        n_frames = len(range(0, reader.n_frames, stride))
        if n_frames < 2:
            raise DataError(
                f"the trajectory has {reader.n_frames} frame(s), {n_frames} with stride {stride}; a pair needs two: "
                "give a trajectory, or harvest bursts from the frame"
            )
        spacing = _time_between_frames(reader, dt)
        topology = read_topology(atoms)
        settings = {"stride": stride, "dt": spacing, "unwrap": unwrap}
        source = _source_key(atoms, topology, settings)
        path = Path(path)
        if path.exists():
            store = Store(path)
            if store.provenance.get("source") != source:
                raise DataError(
                    f"store {str(path)!r} was made from other data or with other settings ({store.provenance}); choose "
                    "another name or delete it"
                )
            if not need_velocities or store.has_velocities:
                return store
        provenance = settings | {"source": source, "files": _file_names(reader), "atoms": topology.n_atoms}
        provenance |= {f"{key} of atoms": note for key, note in topology.notes.items()}
        reader[0]
        first = copy_frame(atoms)
        keep = {"velocities": first.velocities is not None, "forces": first.forces is not None}
        while True:
            try:
                return _write(atoms, path, topology, n_frames, stride, spacing, unwrap, keep, provenance, progress)
            except _FieldMissingError as error:
                if error.field == "velocities" and need_velocities:
                    raise
                keep[error.field] = False
                provenance[error.field] = f"left out: {error}"


class _FieldMissingError(DataError):
    """Some frames have a field and some have not."""

    def __init__(self, field: str, frame: int):
        super().__init__(
            f"frame {frame} has no {field} although frame 0 has; save them with every frame"
            + (", or choose velocities='central' or 'none'" if field == "velocities" else "")
        )
        self.field = field


def _write(
    atoms: mda.AtomGroup,
    path: Path,
    topology: Topology,
    n_frames: int,
    stride: int,
    spacing: float | None,
    unwrap: bool,
    keep: dict[str, bool],
    provenance: dict[str, Any],
    progress: bool,
) -> Store:
    reader = atoms.universe.trajectory
    reader[0]
    periodic = copy_frame(atoms).cell is not None
    follow = Unwrapper(move=unwrap)
    times = np.empty(n_frames)
    writer = StoreWriter(
        path,
        topology,
        n_frames,
        velocities=keep["velocities"],
        forces=keep["forces"],
        cells=periodic,
        kind="trajectory",
        provenance=provenance,
    )
    with writer:
        bar = tqdm(total=n_frames, desc="reading frames", unit="frame", disable=not progress, delay=2)
        for row, frame in enumerate(_frames(atoms, stride, **keep)):
            for field, kept in keep.items():
                if kept and getattr(frame, field) is None:
                    raise _FieldMissingError(field, frame.index)
            if (frame.cell is not None) != periodic:
                raise DataError(
                    f"only one of frame 0 and frame {frame.index} has a cell; write the box to all or to none"
                )
            if frame.time is None or spacing is not None:
                times[row] = frame.index * (spacing or 0.0)
            else:
                times[row] = frame.time
            try:
                x = follow(frame.positions, frame.cell)
            except JumpFound as jump:
                raise DataError(
                    f"{describe(atoms, jump.atom)} moves {jump.distance:.1f} Å between the frame before and frame "
                    f"{frame.index}, more than half the box: the coordinates are wrapped; use unwrap=True"
                ) from jump
            writer.write(x, times[row], velocities=frame.velocities, forces=frame.forces, cell=frame.cell)
            bar.update()
        bar.close()
        dt, segments = segments_from_times(times, _file_starts(reader, stride) if spacing is not None else ())
        return writer.finish(dt, segments)


def find_overlap(positions: np.ndarray, distance: float = OVERLAP) -> tuple[int, int] | None:
    """First pair of points closer than a distance, without periodic images; None if there is none.

    Points are sorted along x, so that candidates are near neighbours in that order.
    """
    order = np.argsort(positions[:, 0], kind="stable")
    x = positions[order]
    for step in range(1, len(x)):
        near = np.flatnonzero(x[step:, 0] - x[:-step, 0] < distance)
        if not len(near):
            return None
        apart = np.linalg.norm(x[near + step] - x[near], axis=1)
        hit = np.flatnonzero(apart < distance)
        if len(hit):
            i, j = sorted((int(order[near[hit[0]]]), int(order[near[hit[0]] + step])))
            return i, j
    return None


def read_frame(atoms: mda.AtomGroup, index: int) -> Frame:
    """Go to a frame, copy and check it.

    Raises
    ------
    DataError
        If the frame cannot be read or holds impossible values.
    """
    reader = atoms.universe.trajectory
    try:
        reader[index]
    except _READ_ERRORS as error:
        raise _unreadable(reader, index, error) from error
    return copy_frame(atoms)


_READ_ERRORS = (OSError, EOFError, StopIteration, ValueError, IndexError, NoDataError, RuntimeError)


def _unreadable(reader: Any, index: int, error: BaseException) -> DataError:
    return DataError(
        f"frame {index} of {reader.n_frames} cannot be read ({error}); the trajectory is truncated or damaged"
    )


def _frames(atoms: mda.AtomGroup, stride: int, *, velocities: bool, forces: bool) -> Iterator[Frame]:
    reader = atoms.universe.trajectory
    for index in range(0, reader.n_frames, stride):
        try:
            # next() is a sequential read and cheaper than seeking in formats without an index
            reader.next() if index and stride == 1 else reader[index]
        except _READ_ERRORS as error:
            raise _unreadable(reader, index, error) from error
        yield copy_frame(atoms, velocities=velocities, forces=forces)


def file_has_times(reader: Any) -> bool:
    """Whether a trajectory says when its frames are.

    MDAnalysis takes 1 ps where a file has no time and only warns. Some readers (LAMMPS dump) even make frame times
    from it, so the warning itself is what tells. Equal times of the first two frames say nothing either.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        times = [float(reader[index].time) for index in range(min(2, reader.n_frames))]
    reader[0]
    return len(set(times)) == len(times) and not any("no dt information" in str(one.message) for one in caught)


@contextlib.contextmanager
def keeping_frame(reader: Any) -> Iterator[None]:
    """Leave the reader of the user at the frame it was at."""
    frame = reader.frame
    try:
        yield
    finally:
        with contextlib.suppress(*_READ_ERRORS):
            reader[frame]


def check_velocities(velocities: np.ndarray, masses: np.ndarray) -> None:
    """Find velocities that are all zero or in another unit than Å/ps.

    Parameters
    ----------
    velocities : ndarray, shape (..., N, 3), Å/ps
    masses : ndarray, shape (N,), amu

    Raises
    ------
    DataError
        If the temperature they belong to is zero, or one that only a wrong unit makes (Å/fs for Å/ps: 1e-4 K; m/s: 1e6
        K).
    """
    v = velocities.astype(np.float64)
    temperature = float((masses * (v**2).sum(-1)).mean() / (3 * units.BOLTZMANN))
    if temperature == 0.0:
        raise DataError("all stored velocities are zero: they count as missing")
    if not _COLDEST < temperature < _HOTTEST:
        raise DataError(
            f"the stored velocities belong to a temperature of {temperature:.3g} K, so they are not in Å/ps (formats "
            "like the LAMMPS dump carry no unit); scale them while reading, with a transformation: "
            "universe.trajectory.add_transformations(...)"
        )


def _time_between_frames(reader: Any, dt: float | None) -> float | None:
    """Time between file frames where the user must give it; None where the file carries the times."""
    missing = not file_has_times(reader)
    if dt is not None and not (np.isfinite(dt) and dt > 0):
        raise DataError(f"dt is {dt} ps; expected a positive time")
    if not missing:
        first, second = float(reader[0].time), float(reader[1].time)
        if dt is not None and abs(second - first - dt) > 1e-3 * dt:
            raise DataError(
                f"dt={dt:g} ps was given but the file says {second - first:g} ps between its first frames; leave dt "
                "out, or, if the file is wrong, open it with Universe(..., dt=<ps>)"
            )
        return None
    if dt is None:
        raise DataError(
            f"the trajectory ({', '.join(_file_names(reader))}) does not say how much time lies between its frames; "
            "give it, dt=<ps> (MDAnalysis would take 1 ps)"
        )
    return float(dt)


def _file_starts(reader: Any, stride: int) -> list[int]:
    """Rows at which the files of a chain begin, for chains without times."""
    starts = getattr(reader, "_start_frames", [])
    return [int(-(-int(start) // stride)) for start in starts if 0 < start < reader.n_frames]


def _file_names(reader: Any) -> list[str]:
    names = getattr(reader, "filenames", None)
    names = [reader.filename] if names is None else list(names)
    return ["memory" if name is None else os.path.basename(str(name)) for name in names]


def _source_key(atoms: mda.AtomGroup, topology: Topology, settings: dict[str, Any]) -> str:
    """Hash that tells whether a store was made from these frames: identity, settings and three frames."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    reader = atoms.universe.trajectory
    digest.update(str(reader.n_frames).encode() + atoms.ix.tobytes())
    digest.update(topology.sha256.encode())
    for index in (0, reader.n_frames // 2, reader.n_frames - 1):
        digest.update(read_frame(atoms, index).positions.tobytes())
    return digest.hexdigest()


def _cell(ts: Any, where: str) -> np.ndarray | None:
    dimensions = ts.dimensions
    if dimensions is None:
        return None
    with np.errstate(invalid="ignore"):
        cell = triclinic_vectors(dimensions, dtype=np.float64)  # zeros for an impossible box
    if not np.all(np.isfinite(cell)) or abs(np.linalg.det(cell)) < 1e-6:
        raise DataError(
            f"{where}: the cell has no volume (lengths and angles {np.array(dimensions).tolist()}); write the box "
            "with the trajectory, or for a system without a box write none"
        )
    return cell


def _check_finite(values: np.ndarray, name: str, atoms: mda.AtomGroup, where: str) -> None:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        atom = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"{where}: {name} of {describe(atoms, atom)} are {values[atom].tolist()}; the simulation blew up or the "
            "file is damaged: leave these frames out"
        )
