"""Files that ASE reads and MDAnalysis does not, or not whole: .traj, extended XYZ, POSCAR, CIF become a universe.

ASE has Å, eV, amu and the time unit Å √(amu/eV); MDAnalysis Å, ps and kJ/mol. Frames are kept in memory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import MDAnalysis as mda
import numpy as np
from MDAnalysis.coordinates.memory import MemoryReader
from MDAnalysis.lib.mdamath import triclinic_box, triclinic_vectors

from .. import units
from .._extras import naming_extras
from ..errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

# How a frame says its time, in ps: neither format has a place for it. Written by this package.
TIME = "time_ps"
# How a frame of a run that learns says what that was doing; frames before FROZEN are of weights that still changed.
PHASE, FROZEN = "phase", "frozen"

_SUFFIXES = {".traj": "traj", ".extxyz": "extxyz", ".vasp": "vasp", ".poscar": "vasp"}
_NAMES = ("POSCAR", "CONTCAR")
_HEAD = 65536  # bytes of a text file that show what it is


class UnfrozenFramesWarning(UserWarning):
    """Frames come from a run that was still learning, so they are no sample of one ensemble."""


def ase_format(path: str | os.PathLike[str]) -> str | None:
    """ASE's name for the format of a file that is ASE's business; None where it is MDAnalysis'.

    Formats with one suffix are told apart by what is in them: a .xyz file is extended if its second line has a cell or
    columns, a .cif file is of a crystal unless its items have the dots of mmCIF.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if path.name.upper().startswith(_NAMES):
        return "vasp"
    if suffix == ".xyz":
        lines = _head(path).splitlines()
        comment = lines[1].lower() if len(lines) > 1 else ""
        return "extxyz" if "lattice=" in comment or "properties=" in comment else None
    if suffix == ".cif":
        return None if "_atom_site." in _head(path) else "cif"
    return None


def ase_universe(
    topology: str | os.PathLike[str], trajectories: Sequence[str | os.PathLike[str]] = (), *, dt: float | None = None
) -> mda.Universe:
    """A universe of files of which one at least is ASE's business.

    Velocities (from momenta) and forces are there if every frame has them. A cell whose first vector is not along x is
    turned there, and everything with it, because MDAnalysis knows lengths and angles only.

    Parameters
    ----------
    topology : path
        Atoms, of any format that MDAnalysis or ASE reads.
    trajectories : sequence of path
        Frames, all of ASE's formats or none; without any those of the topology.
    dt : float, ps, optional
        Time between frames. Default: what a .traj file says of the dynamics that wrote it, or the times that this
        package wrote; else the universe has no times.

    Raises
    ------
    DataError
        If a file cannot be read, the atoms differ, or some directions are periodic and others not.
    """
    ours = [path for path in trajectories if ase_format(path)]
    if ours and len(ours) < len(trajectories):
        raise DataError(f"{ours[0]} is a format of ASE and others are not; convert the trajectories to one format")
    start = _read(topology) if ase_format(topology) else None
    universe = mda.Universe(os.fspath(topology)) if start is None else _topology(start[0])
    if trajectories and not ours:
        options = {} if dt is None else {"dt": dt}
        universe.load_new([os.fspath(path) for path in trajectories], **options)
        return universe
    files = [(path, _read(path)) for path in ours] if ours else [(topology, start or [])]
    for path, frames in files:
        _check_atoms(universe, topology, path, frames)
    universe.trajectory = _reader(files, dt)
    return universe


def file_constraints(path: str | os.PathLike[str]) -> list[Any]:
    """Constraints of ASE that the first frame of a file has; none where the format knows none."""
    return list(_read(path, "0")[0].constraints) if ase_format(path) else []


def file_labels(path: str | os.PathLike[str]) -> tuple[dict[str, Any], np.ndarray | None]:
    """What the first frame of a file of ASE says of charge and spin, and its initial magnetic moments (N,)."""
    if not ase_format(path):
        return {}, None
    atoms = _read(path, "0")[0]
    said = {name: atoms.info[name] for name in ("charge", "multiplicity", "spin") if name in atoms.info}
    return said, atoms.arrays.get("initial_magmoms")


class FileFrames(MemoryReader):
    """Frames in memory that know their times, or that they have none.

    Parameters
    ----------
    coordinates : ndarray, shape (F, N, 3), Å
    times : ndarray, shape (F,), ps, optional
        None where nobody knows.
    starts : sequence of int
        Frames at which files begin.
    friction : float, 1/ps, optional
        Of the Langevin dynamics that wrote the file, if one did.
    **options
        Those of MemoryReader.
    """

    format = "ASEFRAMES"

    def __init__(
        self,
        coordinates: np.ndarray,
        times: np.ndarray | None = None,
        starts: Sequence[int] = (),
        friction: float | None = None,
        **options: Any,
    ):
        self.friction = friction
        self._times, self._start_frames = times, list(starts)
        options.pop("dt", None)
        dt = float(times[1] - times[0]) if times is not None and len(times) > 1 and times[1] > times[0] else 1.0
        super().__init__(coordinates, dt=dt, **options)
        self._kwargs |= {"times": times, "starts": starts, "friction": friction}  # for copies
        if times is None:
            del self.ts.data["dt"]  # MDAnalysis warns from now on that it takes 1 ps

    def _read_next_timestep(self, ts: Any = None) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Reader has no dt information")
            ts = super()._read_next_timestep(ts)
        if self._times is not None:
            ts.time = float(self._times[ts.frame])
        elif "dt" not in ts.data:
            del ts.data["time"]  # who asks for it is warned
        return ts


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: str | os.PathLike[str], index: str = ":") -> list[Atoms]:
    with naming_extras(f"reading {path}"):
        from ase.io import read
    try:
        found = read(os.fspath(path), index=slice(1) if index == "0" else index, format=ase_format(path))
    except Exception as error:  # whatever ASE's readers raise on what is no such file
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"ASE cannot read {str(path)!r} ({said}); the file is damaged or of another format") from error
    frames = found if isinstance(found, list) else [found]
    if not frames or not len(frames[0]):
        raise DataError(f"{str(path)!r} holds no atoms")
    return frames


def _topology(atoms: Atoms) -> mda.Universe:
    n = len(atoms)
    universe = mda.Universe.empty(n, n_residues=1, atom_resindex=np.zeros(n, dtype=int), trajectory=True)
    symbols = np.array(atoms.get_chemical_symbols(), dtype=object)
    for name in ("names", "types", "elements"):
        universe.add_TopologyAttr(name, symbols)
    universe.add_TopologyAttr("masses", atoms.get_masses())
    universe.add_TopologyAttr("resnames", ["MOL"])
    universe.add_TopologyAttr("resids", [1])
    charges = atoms.get_initial_charges()
    if charges.any():
        universe.add_TopologyAttr("charges", charges)
    return universe


def _check_atoms(
    universe: mda.Universe, topology: str | os.PathLike[str], path: str | os.PathLike[str], frames: list[Atoms]
) -> None:
    n = len(universe.atoms)
    known = getattr(universe.atoms, "elements", None)
    symbols = [str(one).capitalize() for one in known] if known is not None and all(known) else None
    for index, atoms in enumerate(frames):
        if len(atoms) != n:
            raise DataError(
                f"frame {index} of {str(path)!r} has {len(atoms)} atoms, {str(topology)!r} has {n}: they need the same "
                "number of atoms in every frame"
            )
        if symbols is not None and atoms.get_chemical_symbols() != symbols:
            wrong = next(k for k, (a, b) in enumerate(zip(atoms.symbols, symbols, strict=True)) if a != b)
            raise DataError(
                f"atom {wrong} of frame {index} of {str(path)!r} is {atoms.symbols[wrong]}, in {str(topology)!r} it is "
                f"{symbols[wrong]}: give files with the same order of atoms"
            )
        if atoms.pbc.any() != atoms.pbc.all():
            raise DataError(
                f"{str(path)!r} is periodic along {', '.join(np.array(['a', 'b', 'c'])[atoms.pbc])} only; files are "
                "read as periodic in all directions or in none. Set pbc to one of these, or work with Atoms in Python: "
                "LearnedDynamics takes the pbc of each direction"
            )
        if atoms.pbc.all() and abs(atoms.cell.volume) < 1e-6:
            raise DataError(f"frame {index} of {str(path)!r} is periodic, its cell has no volume; give three vectors")
        if atoms.pbc.all() != frames[0].pbc.all():
            raise DataError(f"only one of frames 0 and {index} of {str(path)!r} is periodic")


def _reader(files: list[tuple[str | os.PathLike[str], list[Atoms]]], dt: float | None) -> FileFrames:
    from ase import units as ase_units

    picosecond = 1000.0 * ase_units.fs
    frames = [atoms for _, part in files for atoms in part]
    _warn_of_unfrozen(files)
    turned = [_standard(atoms) for atoms in frames]
    moving = all(atoms.has("momenta") for atoms in frames)
    forces = [_forces(atoms) for atoms in frames]
    turns = [turn for _, turn in turned]
    counts = [len(part) for _, part in files]
    return FileFrames(
        np.array([atoms.positions @ turn for atoms, turn in zip(frames, turns, strict=True)], dtype=np.float32),
        times=_times(files, dt, picosecond),
        starts=np.cumsum([0, *counts[:-1]]).tolist() if len(files) > 1 else (),
        dimensions=None if turned[0][0] is None else np.array([box for box, _ in turned]),
        velocities=np.array([atoms.get_velocities() @ turn for atoms, turn in zip(frames, turns, strict=True)])
        * picosecond
        if moving
        else None,
        forces=np.array([force @ turn for force, turn in zip(forces, turns, strict=True)])
        * (units.EV / units.KJ_PER_MOL)
        if all(force is not None for force in forces)
        else None,
        friction=_described_friction(files, picosecond),
        filename=os.fspath(files[0][0]),
    )


def _warn_of_unfrozen(files: list[tuple[str | os.PathLike[str], list[Atoms]]]) -> None:
    for path, frames in files:
        phases = [str(atoms.info[PHASE]) for atoms in frames if PHASE in atoms.info]
        early = sum(phase != FROZEN for phase in phases)
        if early and len(frames) > 1:
            warnings.warn(
                f"{early} of {len(frames)} frames of {os.fspath(path)!r} are of a run that was still learning: no "
                "sample of one ensemble. Take statistics of the frames after it was frozen",
                UnfrozenFramesWarning,
                stacklevel=2,
            )


def _times(files: list[tuple[str | os.PathLike[str], list[Atoms]]], dt: float | None, picosecond: float) -> Any:
    """Times of all frames, ps; None where a file does not say them."""
    times: list[float] = []
    for path, frames in files:
        if dt is None and all(TIME in atoms.info for atoms in frames):
            times += [float(atoms.info[TIME]) for atoms in frames]
            continue
        step = dt if dt is not None else _described_step(path, picosecond)
        if step is None:
            return None
        times += [step * index for index in range(len(frames))]
    return np.array(times)


def _described_step(path: str | os.PathLike[str], picosecond: float) -> float | None:
    """Time between the frames of a .traj file by the dynamics that wrote it, ps; None where it does not say."""
    if ase_format(path) != "traj":
        return None
    said = _description(path)
    schedule = said.get("schedule") or {}
    even = not schedule.get("classical_steps") and "jumps" not in said  # steps of several lengths, or of no time
    if said.get("type") != "molecular-dynamics" or not even:
        return None
    try:
        step = float(said["timestep"]) * float(said["interval"]) / picosecond
    except (KeyError, TypeError, ValueError):
        return None
    return step if np.isfinite(step) and step > 0 else None


def _described_friction(files: list[tuple[str | os.PathLike[str], list[Atoms]]], picosecond: float) -> float | None:
    """Largest friction of the Langevin dynamics of ASE that wrote .traj files, 1/ps; 0 of velocity Verlet."""
    found = []
    for path, _ in files:
        said = _description(path) if ase_format(path) == "traj" else {}
        if said.get("md-type") == "VelocityVerlet":
            found.append(0.0)
        elif said.get("md-type") == "Langevin" and said.get("friction") is not None:
            found.append(float(np.mean(said["friction"])) * picosecond)
        else:
            return None
    return max(found)


def _description(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the header of a .traj file says."""
    from ase.io.trajectory import TrajectoryReader

    with TrajectoryReader(os.fspath(path)) as reader:
        return reader.description or {}


def _forces(atoms: Atoms) -> np.ndarray | None:
    """Forces that the file brought along, eV/Å, without those of constraints; nothing is computed."""
    forces = None if atoms.calc is None else getattr(atoms.calc, "results", {}).get("forces")
    return None if forces is None else np.asarray(forces, dtype=np.float64)


def _standard(atoms: Atoms) -> tuple[np.ndarray | None, np.ndarray]:
    """Lengths and angles of the cell, and the rotation (3, 3) of rows that takes a along x and b into the xy plane."""
    if not atoms.pbc.any():
        return None, np.eye(3)
    cell = np.array(atoms.cell)
    if np.linalg.det(cell) < 0:  # the same lattice, right-handed
        cell = cell[[1, 0, 2]]
    box = triclinic_box(*cell)
    standard = triclinic_vectors(box, dtype=np.float64)
    if np.allclose(cell, standard, atol=1e-4):
        return box, np.eye(3)
    u, _, vt = np.linalg.svd(np.linalg.solve(cell, standard))
    return box, u @ vt
