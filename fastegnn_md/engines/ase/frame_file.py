"""Frames of a roll-out in ASE's own files: .traj and extended XYZ, with the cell as it is and pbc by direction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from ..._extras import naming_extras
from ...data.ase_files import TIME
from ...state import State
from .atoms import FORCE, PICOSECOND
from .trajectory import truncate_trajectory

with naming_extras(__name__):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io.extxyz import write_xyz
    from ase.io.trajectory import TrajectoryWriter

SUFFIXES = (".traj", ".extxyz")


class TrajFile:
    """A .traj file; it has an index of its frames, so that frames and not bytes say how to continue it.

    Parameters
    ----------
    path : Path
    forces : bool
        Whether states have forces to keep.
    frames : int, optional
        Continue after so many frames; later ones are removed. Default: a new file.
    """

    def __init__(self, path: Path, forces: bool, frames: int | None):
        self._path, self._forces = path, forces
        self._labels: dict[str, str] = {}
        if frames is not None:
            truncate_trajectory(path, frames)
        self._writer = TrajectoryWriter(path, mode="w" if frames is None else "a")
        self.n_bytes: int | None = path.stat().st_size

    def write(self, state: State, time: float, frame: int) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        handle = self._writer.backend.fd.fileno()
        size = os.fstat(handle).st_size
        try:
            self._writer.write(_atoms(state, time, self._forces, self._labels))
            self._writer.backend.fd.flush()
            self.n_bytes = os.fstat(handle).st_size
        except OSError:
            # The index of the frames, written last, knows nothing of this one. What waits in the buffer goes nowhere.
            os.ftruncate(handle, size)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, handle)
            os.close(nowhere)
            raise

    def label(self, labels: Mapping[str, str]) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        self._labels = dict(labels)

    def sync(self) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        os.fsync(self._writer.backend.fd.fileno())

    def close(self) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        self._writer.close()


class ExtxyzFile:
    """A file of extended XYZ, frame after frame.

    Parameters
    ----------
    path : Path
    forces : bool
        Whether states have forces to keep.
    n_bytes : int, optional
        Continue after so many bytes; the rest is cut off. Default: a new file.
    """

    def __init__(self, path: Path, forces: bool, n_bytes: int | None):
        self._forces = forces
        self._labels: dict[str, str] = {}
        self.n_bytes: int | None = n_bytes or 0
        self._file: Any = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        self._cut()

    def write(self, state: State, time: float, frame: int) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        text = StringIO()
        write_xyz(text, [_atoms(state, time, self._forces, self._labels)])
        rest = memoryview(text.getvalue().encode())
        whole = (self.n_bytes or 0) + len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._cut()
            raise
        self.n_bytes = whole

    def label(self, labels: Mapping[str, str]) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        self._labels = dict(labels)

    def sync(self) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """See :class:`~fastegnn_md.engines.frame_files.FrameFile`."""
        self._file.close()

    def _cut(self) -> None:
        os.ftruncate(self._file.fileno(), self.n_bytes or 0)


def _atoms(state: State, time: float, forces: bool, labels: Mapping[str, str]) -> Atoms:
    """Atoms of a state, whose frame says its time."""
    here = state.to("cpu")
    atoms = Atoms(
        here.numbers.numpy(),
        here.positions.detach().double().numpy(),
        cell=None if here.cell is None else here.cell[0].double().numpy(),
        pbc=here.pbc[0].numpy(),  # type: ignore[index]
        info={TIME: float(time), **labels},
    )
    masses = here.masses.double().numpy()
    if not np.allclose(masses, atoms.get_masses(), rtol=1e-4):
        atoms.set_masses(masses)
    atoms.set_momenta(here.velocities.detach().double().numpy() * masses[:, None] / PICOSECOND)
    if forces and here.forces is not None:
        atoms.calc = SinglePointCalculator(atoms, forces=here.forces.detach().double().numpy() / FORCE)
    return atoms
