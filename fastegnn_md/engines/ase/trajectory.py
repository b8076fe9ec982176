"""Counting and removing frames of ASE trajectories, for restarts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..._extras import naming_extras
from ...errors import CheckpointError, brief

with naming_extras(__name__):
    from ase.io.trajectory import TrajectoryReader, TrajectoryWriter


def count_frames(trajectory: Any) -> int | None:
    """Frames written so far to what an ASE dynamics was given as trajectory: a path, an open trajectory or None."""
    if trajectory is None:
        return None
    if hasattr(trajectory, "write"):
        return len(trajectory) if hasattr(trajectory, "__len__") else None
    if not Path(trajectory).exists():
        return 0
    try:
        with TrajectoryReader(trajectory) as frames:
            return len(frames)
    except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError) as error:  # what its reader raises
        raise CheckpointError(
            f"the trajectory {trajectory} cannot be read ({brief(error, quoted=False)}); give that of the interrupted "
            "run, or none"
        ) from error


def check_frames(path: str | Path, frames: int) -> int:
    """Number of frames of a .traj file, which must be ``frames`` or more.

    Raises
    ------
    CheckpointError
        If it is less.
    """
    present = count_frames(path) or 0
    if present < frames:
        raise CheckpointError(
            f"the trajectory {path} has {present} frames, the restart file was written after {frames}; give the "
            "trajectory of the interrupted run, or none"
        )
    return present


def truncate_trajectory(path: str | Path, frames: int) -> None:
    """Remove the frames after the first ``frames`` of a .traj file.

    Raises
    ------
    CheckpointError
        If the file has fewer frames, or cannot be rewritten (it is then unchanged).
    """
    path = Path(path)
    if check_frames(path, frames) == frames:
        return
    if frames == 0:
        path.unlink()
        return
    shorter = path.with_name(f".{path.name}.shorter")
    try:
        with TrajectoryReader(path) as old, TrajectoryWriter(shorter, mode="w") as new:
            new.set_description(old.description or {})
            for index in range(frames):
                new.write(old[index])
        os.replace(shorter, path)
    except OSError as error:
        shorter.unlink(missing_ok=True)
        raise CheckpointError(f"cannot remove later frames of {path}: {error.strerror or error}") from error
