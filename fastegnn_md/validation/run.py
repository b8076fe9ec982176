"""A stretch of a trajectory, and what can be read off it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..data.frames import file_has_times, keeping_frame, seek
from ..data.topology import quiet, static
from ..errors import DataError
from .observables.vdos import even_spacing

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup
    from MDAnalysis.analysis.base import AnalysisBase


@dataclass(frozen=True)
class Run:
    """A stretch of a trajectory.

    Attributes
    ----------
    atoms : AtomGroup
    start, stop, step : int
        Frames.
    """

    atoms: AtomGroup
    start: int
    stop: int
    step: int = 1

    @classmethod
    def whole(cls, atoms: AtomGroup) -> Run:
        """All frames of a trajectory."""
        return cls(static(atoms), 0, len(atoms.universe.trajectory))

    @property
    def n_frames(self) -> int:
        """Frames that an analysis sees."""
        return len(range(self.start, self.stop, self.step))

    def cut(self, pieces: int) -> list[Run]:
        """Stretches of equal length, fewer where there are fewer frames."""
        ends = np.linspace(self.start, self.stop, min(pieces, max(1, self.n_frames)) + 1).astype(int)
        return [dataclasses.replace(self, start=int(a), stop=int(b)) for a, b in itertools.pairwise(ends)]

    def analyse(self, analysis: AnalysisBase) -> AnalysisBase:
        """Run an analysis of :attr:`atoms` over these frames."""
        with quiet(), keeping_frame(self.atoms.universe.trajectory):
            return analysis.run(start=self.start, stop=self.stop, step=self.step)

    @contextmanager
    def first_frame(self) -> Iterator[None]:
        """Show the first frame, and afterwards that of before."""
        reader = self.atoms.universe.trajectory
        with quiet(), keeping_frame(reader):
            seek(reader, self.start)
            yield

    @cached_property
    def has_velocities(self) -> bool:
        """Whether the first frame has velocities that are not all zero."""
        with self.first_frame():
            moving = bool(self.atoms.universe.trajectory.ts.has_velocities)
            return moving and bool(np.any(self.atoms.velocities))

    @cached_property
    def periodic(self) -> bool:
        """Whether the first frame has a cell."""
        with self.first_frame():
            return self.atoms.dimensions is not None

    @cached_property
    def spacing(self) -> float:
        """Time between frames, ps.

        Raises
        ------
        DataError
            If the file has no times, or not evenly spaced ones.
        """
        reader = self.atoms.universe.trajectory
        with quiet(), keeping_frame(reader):
            if not file_has_times(reader):
                raise DataError("the trajectory does not say how much time lies between its frames; give --dt")
            times = []
            for frame in range(self.start, self.stop)[:3]:
                seek(reader, frame)
                times.append(reader.time)
        return even_spacing(np.array(times, dtype=np.float64)) * self.step
