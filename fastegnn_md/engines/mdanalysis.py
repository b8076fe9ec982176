"""The border to MDAnalysis: frames in, roll-outs out, in any format MDAnalysis reads or writes.

MDAnalysis has Å, ps, Å/ps and amu like the inside of this package; only forces differ (kJ/mol/Å). Its writers turn
these into the units of each format.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import MDAnalysis as mda
import numpy as np
import torch
from MDAnalysis.coordinates.XDR import offsets_filename
from MDAnalysis.guesser.tables import Z2SYMB
from MDAnalysis.lib.mdamath import triclinic_box, triclinic_vectors

from .. import units
from ..data.frames import copy_frame
from ..data.store import write_error
from ..data.topology import load_universe, quiet, read_topology
from ..errors import DataError
from ..state import State

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["RolloutWriter", "load_universe", "state_from_universe"]

_UNIFORM = ("DCD", "LAMMPS")  # formats whose header holds one time step for all frames


def state_from_universe(
    source: mda.Universe | mda.AtomGroup,
    *,
    velocities: Literal["stored", "zero"] = "stored",
    forces: bool = False,
    dtype: torch.dtype = torch.float64,
) -> State:
    """Copy the current frame of a universe, or of some of its atoms, into a state.

    Parameters
    ----------
    source : Universe or AtomGroup
        Positions are copied; later frames do not change the state.
    velocities : {"stored", "zero"}
        ``"zero"`` for files without velocities, where they are drawn afterwards. Stored velocities must be those of
        the time of the frame, which a file does not tell.
    forces : bool
        Take the forces of the frame along.
    dtype : torch.dtype
        Floating-point type of the state.

    Returns
    -------
    State
        With bonds, charges and types (numbered in alphabetical order of their names) where the topology has them.

    Raises
    ------
    DataError
        If velocities or forces are asked for and missing, an element or mass is unknown, a coordinate is NaN, atoms
        overlap, or the cell has no volume.
    """
    if velocities not in ("stored", "zero"):
        raise DataError(f"velocities={velocities!r}; expected 'stored' or 'zero'")
    with quiet():
        topology = read_topology(source.atoms)
        frame = copy_frame(source.atoms, velocities=velocities == "stored", forces=forces)
    if velocities == "stored" and frame.velocities is None:
        raise DataError("the frame has no velocities; pass velocities='zero' and draw them at a temperature")
    if forces and frame.forces is None:
        raise DataError("the frame has no forces of known unit; pass forces=False")
    types = None if topology.types is None else np.unique(topology.types, return_inverse=True)[1]

    def tensor(values: np.ndarray | None, kind: torch.dtype = dtype) -> torch.Tensor | None:
        return None if values is None else torch.tensor(values, dtype=kind)

    v = np.zeros_like(frame.positions) if frame.velocities is None else frame.velocities
    return State(
        positions=torch.tensor(frame.positions, dtype=dtype),
        velocities=torch.tensor(v, dtype=dtype),
        numbers=torch.tensor(topology.numbers, dtype=torch.int64),
        masses=torch.tensor(topology.masses, dtype=dtype),
        forces=tensor(frame.forces),
        cell=None if frame.cell is None else torch.tensor(frame.cell[None], dtype=dtype),
        charges=tensor(topology.charges),
        types=tensor(types, torch.int64),
        bonds=tensor(topology.bonds, torch.int64),
    )


class RolloutWriter:
    """Write a roll-out, state after state, in a format MDAnalysis writes.

    Use it in a ``with`` block. Velocities, forces and the box are written where the format carries them (TRR, NCDF and
    H5MD do); XTC and DCD keep positions, box and time. DCD has one time step for all frames: there frames have to
    be evenly spaced.

    Parameters
    ----------
    path : path
        The format is that of the suffix.
    atoms : AtomGroup, optional
        Atoms with their names, for formats that write them (PDB, XYZ). Default: elements.
    forces : bool
        Write the forces of the states; every state must then have them.

    Raises
    ------
    DataError
        If MDAnalysis cannot write many frames in this format.
    """

    def __init__(self, path: str | os.PathLike, atoms: mda.AtomGroup | None = None, *, forces: bool = False):
        self.path = Path(path)
        self.forces = forces
        self.n_frames = 0
        self.format = self.path.suffix[1:].upper()
        self._group = atoms
        self._universe: mda.Universe | None = None
        self._writer: Any = None
        self._first: tuple[State, float] | None = None  # held back until the second tells the time step
        self._dt: float | None = None
        self._last_time = 0.0
        try:
            # the class alone is looked up, nothing is written yet
            mda.core._get_readers.get_writer_for(str(self.path), multiframe=True)
        except (ValueError, TypeError) as error:
            known = ", ".join(sorted(name.lower() for name in mda._MULTIFRAME_WRITERS if name != "NULL"))
            raise DataError(f"MDAnalysis cannot write a trajectory to {str(path)!r}; it writes {known}") from error

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, state: State | Atoms, time: float) -> None:
        """Append one frame.

        Parameters
        ----------
        state : State or ase.Atoms
            One system. Its calculator, if any, is not asked.
        time : float, ps
            Time of the frame, later than that of the frame before.

        Raises
        ------
        DataError
            If the state is a batch, has another number of atoms, lacks the forces, the times do not suit the format, or
            the file cannot be written.
        """
        if not isinstance(state, State):
            from .ase.atoms import state_from_atoms

            state = state_from_atoms(state)
        if state.n_systems != 1:
            raise DataError(f"the state holds {state.n_systems} systems; write one per file, see State.split()")
        if self.forces and state.forces is None:
            raise DataError(f"frame {self.n_frames} has no forces; pass forces=False, or evaluate them before writing")
        expected = self._n_atoms
        if expected is not None and state.n_atoms != expected:
            raise DataError(f"frame {self.n_frames} has {state.n_atoms} atoms, expected {expected}")
        if self.n_frames and time <= self._last_time:
            raise DataError(
                f"frame {self.n_frames} is of {time:g} ps, not later than the one before ({self._last_time:g})"
            )
        if self.n_frames == 0:
            self._first = (state, time)
        else:
            self._check_step(time)
            self._write_first(time - self._last_time)
            self._write(state, time)
        self._last_time = time
        self.n_frames += 1

    def close(self) -> None:
        """Finish the file; a writer that was given no frame leaves none."""
        self._write_first(1.0)
        if self._writer is not None:
            with self._io():
                self._writer.close()
            self._writer = None

    @property
    def _n_atoms(self) -> int | None:
        if self._group is not None:
            return len(self._group)
        return None if self._universe is None else len(self._universe.atoms)

    def _check_step(self, time: float) -> None:
        step = time - self._last_time
        if self._dt is not None and self.format in _UNIFORM and abs(step - self._dt) > 1e-3 * self._dt:
            raise DataError(
                f"{self.format} assumes evenly spaced frames, but after {units.format_time(self._dt)} comes "
                f"{units.format_time(step)}; choose XTC, TRR or H5MD, which keep the time of every frame"
            )

    def _write_first(self, dt: float) -> None:
        if self._first is None:
            return
        (state, time), self._first = self._first, None
        self._dt = dt
        self._universe = _scratch(state, self._group, self.forces)
        options: dict[str, Any] = {"n_atoms": state.n_atoms, "multiframe": True}
        if self.format in _UNIFORM:
            options |= {"dt": dt, "istart": round(time / dt)}
        elif self.format in ("NC", "NCDF"):
            options |= {"velocities": True, "forces": self.forces}
        elif self.format == "H5MD":
            options |= {
                "timeunit": "ps",
                "lengthunit": "Angstrom",
                "velocityunit": "Angstrom/ps",
                "forceunit": "kJ/(mol*Angstrom)",
            }
        with self._io():
            # MDAnalysis' writers fail badly, or late, where they may not write
            open(self.path, "wb").close()
            # MDAnalysis keeps the frame offsets of XTC and TRR beside the file; those of an earlier file mislead it.
            Path(offsets_filename(str(self.path))).unlink(missing_ok=True)
            self._writer = mda.Writer(str(self.path), **options)
        self._write(state, time, frame=0)

    def _write(self, state: State, time: float, frame: int | None = None) -> None:
        universe = self._universe
        assert universe is not None  # made with the first frame
        ts = universe.trajectory.ts
        box, turn = _box(state)
        ts.dimensions = box
        ts.positions = state.positions.detach().cpu().double().numpy() @ turn
        ts.velocities = state.velocities.detach().cpu().double().numpy() @ turn
        if self.forces and state.forces is not None:
            ts.forces = state.forces.detach().cpu().double().numpy() @ turn / units.KJ_PER_MOL
        ts.frame = self.n_frames if frame is None else frame
        ts.time, ts.dt = time, self._dt
        ts.data["step"] = ts.frame
        with self._io():
            self._writer.write(universe.atoms)

    @contextmanager
    def _io(self) -> Iterator[None]:
        with warnings.catch_warnings():
            # about names, boxes and optional libraries that the format has and the state has not
            warnings.simplefilter("ignore")
            try:
                yield
            except OSError as error:
                raise write_error(self.path, error) from error
            except NotImplementedError as error:
                raise DataError(
                    f"MDAnalysis cannot write this to {self.format}: {error}; choose XTC, TRR or H5MD"
                ) from error


def _scratch(state: State, group: mda.AtomGroup | None, forces: bool) -> mda.Universe:
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
