"""Writing a store from a trajectory: frames are read once, in order, checked, unwrapped and timed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from MDAnalysis.coordinates.memory import MemoryReader

from .._progress import progress_bar
from ..errors import DataError, Remedy
from .bonds import check_bond_lengths
from .frames import READ_ERRORS, Frame, cell_of, copy_frame, file_has_times, keeping_frame, read_frame, unreadable
from .split import segments_from_times
from .store import Store
from .store_writer import StoreWriter
from .topology import Topology, describe, quiet, read_topology
from .unwrap import JumpFound, Unwrapper, make_whole, spanning_tree
from .xdr import check_reader


def write_trajectory(
    atoms: mda.AtomGroup,
    path: str | os.PathLike[str],
    *,
    stride: int = 1,
    dt: float | None = None,
    unwrap: bool = True,
    isolated: bool = False,
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
    isolated : bool
        Take the atoms as one molecule without a box: put together across it in each frame, along its bonds, or atom by
        atom where it has none.
    need_velocities : bool
        Whether a frame without velocities is an error.
    progress : bool
        Show a progress bar.

    Raises
    ------
    DataError
        If the frames cannot give pairs, bonds are not as long as bonds are, or the store cannot be written; the message
        says which frame and why.
    """
    reader = atoms.universe.trajectory
    if stride < 1:
        raise DataError(f"stride is {stride}; expected 1 or more")
    check_reader(reader)
    with quiet(), keeping_frame(reader):
        n_frames = len(range(0, reader.n_frames, stride))
        if n_frames < 2:
            raise DataError(
                f"the trajectory has {reader.n_frames} frame(s), {n_frames} with stride {stride}; a pair needs two: "
                "give a trajectory, or harvest bursts from the frame"
            )
        spacing = _time_between_frames(reader, dt)
        topology = read_topology(atoms)
        settings = {"stride": stride, "dt": spacing, "unwrap": unwrap} | ({"isolated": True} if isolated else {})
        first = read_frame(atoms, 0)
        tree = _one_molecule(topology) if isolated and first.cell is not None else None
        source = _source_key(atoms, topology, settings)
        path = Path(path)
        if path.exists():
            store = Store(path)
            if store.provenance.get("source") != source:
                raise DataError(
                    f"store {str(path)!r} is there and was made from other frames, atoms or settings; choose another "
                    "name, or delete it to make it anew"
                )
            if not need_velocities or store.has_velocities:
                return store
        provenance = settings | {"source": source, "files": _file_names(reader), "atoms": topology.n_atoms}
        provenance |= {f"{key} of atoms": note for key, note in topology.notes.items()}
        keep = {"velocities": first.velocities is not None, "forces": first.forces is not None}
        while True:
            try:
                return _write(
                    atoms, path, topology, n_frames, stride, spacing, unwrap, tree, keep, provenance, progress
                )
            except _FieldMissingError as error:
                if error.field == "velocities" and need_velocities:
                    raise
                keep[error.field] = False
                provenance[error.field] = f"left out: {error}"


class _FieldMissingError(DataError):
    """Some frames have a field and some have not."""

    def __init__(self, field: str, frame: int):
        ways = (", or choose velocities='central' or 'none'", ", or choose --velocities central or none")
        super().__init__(
            Remedy(
                f"frame {frame} has no {field} although frame 0 has; save them with every frame",
                *(ways if field == "velocities" else ()),
            )
        )
        self.field = field


def molecule_alone(atoms: mda.AtomGroup) -> Callable[[Any], np.ndarray]:
    """Positions (N, 3), Å, of a molecule in a frame, put together across the box if there is one.

    Parameters
    ----------
    atoms : AtomGroup

    Returns
    -------
    callable
        Takes a Timestep of the trajectory. DataError if it has a box without volume, or one with several molecules.
    """
    tree: np.ndarray | None = None

    def of(ts: Any) -> np.ndarray:
        nonlocal tree
        positions: np.ndarray = ts.positions[atoms.ix].astype(np.float64)
        cell = cell_of(ts, f"frame {ts.frame}")
        if cell is None:
            return positions
        if tree is None:
            with quiet():
                tree = _one_molecule(read_topology(atoms))
        return make_whole(positions, cell, tree)

    return of


def leave_box(atoms: mda.AtomGroup) -> bool:
    """Put a molecule together across the box in every frame, and leave the box out; whether there was one.

    Other frames are changed as they are read.

    Raises
    ------
    DataError
        If the atoms are several molecules, or the box has no volume.
    """
    reader = atoms.universe.trajectory
    alone = molecule_alone(atoms)
    with quiet():
        if copy_frame(atoms).cell is None:
            return False
        alone(reader.ts)

    def change(ts: Any) -> Any:
        ts.positions[atoms.ix] = alone(ts)
        ts.dimensions = None
        return ts

    reader.add_transformations(change)
    if isinstance(reader, MemoryReader):  # whose frames were all changed now, but for their boxes
        reader.dimensions_array[:] = 0
    return True


def _write(
    atoms: mda.AtomGroup,
    path: Path,
    topology: Topology,
    n_frames: int,
    stride: int,
    spacing: float | None,
    unwrap: bool,
    tree: np.ndarray | None,
    keep: dict[str, bool],
    provenance: dict[str, Any],
    progress: bool,
) -> Store:
    reader = atoms.universe.trajectory
    reader[0]
    periodic = copy_frame(atoms).cell is not None
    boxed = periodic and tree is None  # whether the store has a box
    if periodic and not boxed:
        provenance = provenance | {"cell": "left out: one isolated molecule"}
    follow = Unwrapper(move=unwrap)
    times = np.empty(n_frames)
    looked_at = {0, n_frames // 2, n_frames - 1}  # for bonds
    writer = StoreWriter(
        path,
        topology,
        n_frames,
        velocities=keep["velocities"],
        forces=keep["forces"],
        cells=boxed,
        kind="trajectory",
        provenance=provenance,
    )
    with writer:
        bar = progress_bar(total=n_frames, desc="reading frames", unit="frame", disable=not progress, delay=2)
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
            if row in looked_at:
                check_bond_lengths(topology, frame.positions, frame.cell, f"frame {frame.index}", atoms=atoms)
            try:
                if tree is not None and frame.cell is not None:
                    x = make_whole(frame.positions, frame.cell, tree)
                else:
                    x = follow(frame.positions, frame.cell)
            except JumpFound as jump:
                raise DataError(
                    f"{describe(atoms, jump.atom)} moves {jump.distance:.1f} Å between the frame before and frame "
                    f"{frame.index}, more than half the box: the coordinates are wrapped; use unwrap=True"
                ) from jump
            writer.write(
                x, times[row], velocities=frame.velocities, forces=frame.forces, cell=frame.cell if boxed else None
            )
            bar.update()
        bar.close()
        dt, segments = segments_from_times(times, _file_starts(reader, stride) if spacing is not None else ())
        return writer.finish(dt, segments)


def _one_molecule(topology: Topology) -> np.ndarray:
    """The order in which a molecule is put together; see :func:`spanning_tree`."""
    if topology.bonds is None or not len(topology.bonds):
        place = np.arange(1, topology.n_atoms)
        return np.stack([place, place - 1, place], axis=1)
    tree = spanning_tree(topology.bonds, topology.n_atoms)
    pieces = topology.n_atoms - len(tree)
    if pieces > 1:
        raise DataError(
            Remedy(
                f"the {topology.n_atoms} atoms are {pieces} molecules, which a box brings together in more than one "
                "way; take one of them, as ",
                'select="protein"',
                '--select "protein"',
            )
        )
    return tree


def _frames(atoms: mda.AtomGroup, stride: int, *, velocities: bool, forces: bool) -> Iterator[Frame]:
    reader = atoms.universe.trajectory
    for index in range(0, reader.n_frames, stride):
        try:
            # next() is a sequential read and cheaper than seeking in formats without an index
            reader.next() if index and stride == 1 else reader[index]
        except READ_ERRORS as error:
            raise unreadable(reader, index, error) from error
        yield copy_frame(atoms, velocities=velocities, forces=forces)


def _time_between_frames(reader: Any, dt: float | None) -> float | None:
    """Time between file frames where the user must give it; None where the file carries the times."""
    missing = not file_has_times(reader)
    if dt is not None and not (np.isfinite(dt) and dt > 0):
        raise DataError(f"dt is {dt} ps; expected a positive time")
    if not missing:
        first, second = float(reader[0].time), float(reader[1].time)
        if dt is not None and abs(second - first - dt) > 1e-3 * dt:
            raise DataError(
                Remedy(
                    f"{dt:g} ps between frames were given but the file says {second - first:g} ps; leave ",
                    "dt out, or, if the file is wrong, open it with Universe(..., dt=<ps>)",
                    "--dt out, or, if the file is wrong, write it with the right times",
                )
            )
        return None
    if dt is None:
        raise DataError(
            Remedy(
                f"the trajectory ({', '.join(_file_names(reader))}) does not say how much time lies between its "
                "frames (MDAnalysis would take 1 ps); give it, ",
                "dt=<ps>",
                'as --dt "2 ps"',
            )
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
