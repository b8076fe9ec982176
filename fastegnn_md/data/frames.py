"""Single frames of an MDAnalysis trajectory: copied, and checked for what no frame of a simulation should hold."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import MDAnalysis as mda
import numpy as np
from MDAnalysis.exceptions import NoDataError
from MDAnalysis.lib.mdamath import triclinic_vectors

from .. import units
from ..errors import DataError
from .topology import describe

OVERLAP = 1e-3  # Å; atoms closer than this are one atom written twice, no chemistry brings them there
_COLDEST, _HOTTEST = 1.0, 3e4  # K; 300 K in another unit is 0.7 K or 125,000 K by the factor of AKMA
_AKMA = 20.455  # Å/ps per Å/AKMA time, the unit of CHARMM and NAMD
_APART = 8.0  # positions of few digits, a fs apart, make speeds of their own
_NO_UNIT = 1e5  # atoms that do not move at all are not a matter of units
_CORRELATED = 0.004  # ps, in which an atom goes where its velocity points
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
    return Frame(index=ts.frame, time=time, positions=x, cell=cell_of(ts, where), **fields)


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


def seek(reader: Any, index: int) -> None:
    """Go to a frame of a trajectory.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        reader[index]
    except READ_ERRORS as error:
        raise unreadable(reader, index, error) from error


def read_frame(atoms: mda.AtomGroup, index: int) -> Frame:
    """Go to a frame, copy and check it.

    Raises
    ------
    DataError
        If the frame cannot be read or holds impossible values.
    """
    seek(atoms.universe.trajectory, index)
    return copy_frame(atoms)


# What readers of MDAnalysis raise on damaged files.
READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    StopIteration,
    ValueError,
    LookupError,
    TypeError,
    NoDataError,
    RuntimeError,
)


def unreadable(reader: Any, index: int, error: BaseException) -> DataError:
    """The error of a frame that cannot be read."""
    return DataError(
        f"frame {index} of {reader.n_frames} cannot be read ({error}); the trajectory is truncated or damaged"
    )


def file_has_times(reader: Any) -> bool:
    """Whether a trajectory says when its frames are.

    MDAnalysis takes 1 ps where a file has no time and only warns. Some readers (LAMMPS dump) even make frame times
    from it, so the warning itself is what tells. Equal times of the first two frames say nothing either.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        times = []
        for index in range(min(2, reader.n_frames)):
            seek(reader, index)
            times.append(float(reader.time))
    seek(reader, 0)
    return len(set(times)) == len(times) and not any("no dt information" in str(one.message) for one in caught)


@contextlib.contextmanager
def keeping_frame(reader: Any) -> Iterator[None]:
    """Leave the reader of the user at the frame it was at."""
    frame = reader.frame
    try:
        yield
    finally:
        with contextlib.suppress(*READ_ERRORS):
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
        K; AKMA for 300 K: 0.7 K, or 1e5 K).
    """
    v = velocities.astype(np.float64)
    temperature = float((masses * (v**2).sum(-1)).mean() / (3 * units.BOLTZMANN))
    if temperature == 0.0:
        raise DataError("all stored velocities are zero: they count as missing")
    if not _COLDEST < temperature < _HOTTEST:
        raise DataError(f"the stored velocities belong to a temperature of {temperature:.3g} K, so {_WRONG_UNIT}")


def check_speeds(positions: np.ndarray, velocities: np.ndarray, dt: float) -> None:
    """Hold stored velocities against the way that atoms go between frames.

    The mean of a velocity over a time is no larger than its RMS, so positions never outrun velocities; and over a few
    fs they do not lag behind.

    Parameters
    ----------
    positions : ndarray, shape (F, 2, N, 3), Å
        Of frames and of those after them, unwrapped.
    velocities : ndarray, shape (F, N, 3), Å/ps
        Of the former.
    dt : float, ps
        Time between the two.

    Raises
    ------
    DataError
        If they differ by as much as a wrong unit makes.
    """
    way = positions[:, 1].astype(np.float64) - positions[:, 0]
    ratio = float(np.sqrt(np.mean(velocities.astype(np.float64) ** 2) / max(np.mean((way / dt) ** 2), 1e-30)))
    if ratio * _APART < 1 or (dt <= _CORRELATED and _APART < ratio < _NO_UNIT):
        which = f"{ratio:.3g} times as fast as" if ratio > 1 else f"{1 / ratio:.3g} times slower than"
        raise DataError(
            f"the stored velocities are {which} the atoms go in the {units.format_time(dt)} between frames: that time "
            f"is wrong, or {_WRONG_UNIT}"
        )


_WRONG_UNIT = (
    "they are not in Å/ps (formats like the LAMMPS dump carry no unit; a factor of "
    f"{_AKMA} either way is that of AKMA, in which CHARMM and NAMD count); scale them while reading, with a "
    "transformation: universe.trajectory.add_transformations(...)"
)


def cell_of(ts: Any, where: str) -> np.ndarray | None:
    """Cell (3, 3) of a frame, Å; None if it has none."""
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
