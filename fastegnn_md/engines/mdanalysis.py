"""The border to MDAnalysis: frames in, roll-outs out, in any format MDAnalysis reads or writes.

MDAnalysis has Å, ps, Å/ps and amu like the inside of this package; only forces differ (kJ/mol/Å). Its writers turn
these into the units of each format.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import MDAnalysis as mda
import numpy as np
import torch

from .. import units
from ..data.ase_files import PHASE
from ..data.frames import copy_frame
from ..data.topology import load_universe, quiet, read_topology
from ..errors import DataError
from ..state import State
from .frame_files import OF_ASE, UNIFORM, FrameFile, open_frames, writing

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["RolloutWriter", "load_universe", "state_from_universe"]


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
    if not isinstance(source, (mda.Universe, mda.AtomGroup)):
        raise DataError(
            f"a {type(source).__name__} was given where an MDAnalysis Universe or AtomGroup is expected; states of ASE "
            "Atoms are made by fastegnn_md.engines.ase.state_from_atoms"
        )
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


@dataclass(frozen=True)
class Written:
    """How far a trajectory file is written.

    Attributes
    ----------
    frames : int
        Whole frames.
    size : int
        Their bytes.
    time : float, ps
        Time of the last one.
    """

    frames: int
    size: int
    time: float


class RolloutWriter:
    """Write a roll-out, state after state, in a format MDAnalysis writes, or as .traj or .extxyz of ASE.

    Use it in a ``with`` block. A frame is whole in the file when :meth:`write` has returned (the first one with the
    second, where ``dt`` is not given), so that a kill or a full disk costs the frame in flight and no other.
    Velocities, forces and the box are written where the format carries them (TRR, NCDF, H5MD and those of ASE do); XTC
    and DCD keep positions, box and time. DCD has one time step for all frames: there frames have to be evenly spaced.
    MDAnalysis turns a cell to stand along x; ASE keeps it as it is, and which directions are periodic.

    Parameters
    ----------
    path : path
        The format is that of the suffix.
    atoms : AtomGroup, optional
        Atoms with their names, for formats that write them (PDB, XYZ). Default: elements.
    forces : bool
        Write the forces of the states; every state must then have them.
    dt : float, ps, optional
        Time between frames, for formats that have it in their head. Default: the first two frames tell.
    after : Written, optional
        Continue a file after these frames of it; what stands behind them is cut off. Not H5MD. Default: a new file.

    Raises
    ------
    DataError
        If neither MDAnalysis nor ASE writes many frames in this format.
    """

    n_frames: int

    def __init__(
        self,
        path: str | os.PathLike[str],
        atoms: mda.AtomGroup | None = None,
        *,
        forces: bool = False,
        dt: float | None = None,
        after: Written | None = None,
    ):
        self.path: Path = Path(path)
        self.forces = forces
        self.n_frames = 0 if after is None else after.frames
        self.format: str = self.path.suffix[1:].upper()
        self._group, self._after = atoms, after
        self._file: FrameFile | None = None
        self._first: tuple[State, float, dict[str, str]] | None = None  # held back until the second tells the time step
        self._dt = dt
        self._n_atoms = None if atoms is None else len(atoms)
        self._last_time = 0.0 if after is None else after.time
        try:
            # the class alone is looked up, nothing is written yet
            if self.format not in OF_ASE:
                mda.core._get_readers.get_writer_for(str(self.path), multiframe=True)
        except (ValueError, TypeError) as error:
            known = ", ".join(sorted(name.lower() for name in mda._MULTIFRAME_WRITERS if name != "NULL"))
            raise DataError(
                f"MDAnalysis cannot write a trajectory to {str(path)!r}; it writes {known}, extxyz, traj"
            ) from error

    def __enter__(self) -> RolloutWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def written(self) -> Written | None:
        """The frames that are whole on disk, from which the file can be continued; None where it cannot.

        Disk means disk: they outlast a failure of the machine.
        """
        if self._file is None:
            return (self._after or Written(0, 0, 0.0)) if self._first is None else None
        if self._file.n_bytes is None:
            return None
        with writing(self.path, self.n_frames):
            self._file.sync()
        return Written(self.n_frames, self._file.n_bytes, self._last_time)

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
            the file cannot be written; the frames before are then whole.
        """
        labels = {}
        if not isinstance(state, State):
            from .ase.atoms import state_from_atoms

            labels = {PHASE: str(state.info[PHASE])} if PHASE in state.info else {}
            state = state_from_atoms(state)
        if state.n_systems != 1:
            raise DataError(f"the state holds {state.n_systems} systems; write one per file, see State.split()")
        if self.forces and state.forces is None:
            raise DataError(f"frame {self.n_frames} has no forces; pass forces=False, or evaluate them before writing")
        if self._n_atoms is not None and state.n_atoms != self._n_atoms:
            raise DataError(f"frame {self.n_frames} has {state.n_atoms} atoms, expected {self._n_atoms}")
        if self.n_frames and time <= self._last_time:
            raise DataError(
                f"frame {self.n_frames} is of {time:g} ps, not later than the one before ({self._last_time:g})"
            )
        if self.n_frames == 0 and self._dt is None:
            self._first = (state, time, labels)
        else:
            if self.n_frames:
                self._check_step(time)
            self._write_first(time - self._last_time)
            self._append(state, time, self.n_frames, labels)
        self._n_atoms = state.n_atoms
        self._last_time = time
        self.n_frames += 1

    def close(self) -> None:
        """Finish the file; a writer that was given no frame leaves none."""
        self._write_first(1.0)
        file, self._file = self._file, None
        if file is not None:
            with writing(self.path, self.n_frames):
                file.close()

    def _check_step(self, time: float) -> None:
        step = time - self._last_time
        if self._dt is not None and self.format in UNIFORM and abs(step - self._dt) > 1e-3 * self._dt:
            raise DataError(
                f"{self.format} assumes evenly spaced frames, but after {units.format_time(self._dt)} comes "
                f"{units.format_time(step)}; choose XTC, TRR or H5MD, which keep the time of every frame"
            )

    def _write_first(self, dt: float) -> None:
        if self._first is None:
            return
        (state, time, labels), self._first = self._first, None
        self._dt = dt
        self._append(state, time, 0, labels)

    def _append(self, state: State, time: float, frame: int, labels: dict[str, str]) -> None:
        if self._dt is None:
            self._dt = time - self._last_time
        with writing(self.path, frame):
            if self._file is None:
                self._file = open_frames(
                    self.path,
                    state,
                    self._group,
                    forces=self.forces,
                    dt=self._dt,
                    time=time,
                    n_bytes=None if self._after is None else self._after.size,
                    frames=self.n_frames,
                )
            self._file.label(labels)
            try:
                self._file.write(state, time, frame)
            except OSError:
                file, self._file = self._file, None
                with contextlib.suppress(OSError):
                    file.close()
                raise
