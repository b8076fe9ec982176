"""What a validation compares: learned runs and independent reference runs of the same atoms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .._progress import progress_bar
from ..data.frames import keeping_frame, read_frame
from ..data.topology import quiet, read_topology
from ..errors import DataError
from .observables.constraints import RigidPairs
from .run import Run
from .statistics import Comparison, Distance, Sample, compare, pool

if TYPE_CHECKING:
    from ase import Atoms

    from ..data import TrajectoryPairs
    from ..propagator.learned_map import LearnedMap
    from .rollouts import RollOuts
    from .torsion_runs import TorsionRuns

PIECES = 5  # of a single reference run, and blocks of each learned one
_FRAMES_FOR_RIGID = 200


@dataclass
class Case:
    """Everything the checks of a validation may ask for.

    Attributes
    ----------
    propagator : LearnedMap
    reference : list of Run
        Independent runs, two or more.
    learned : list of Run
    pairs : TrajectoryPairs, or a function that makes them, optional
        For one-step errors.
    rollouts : RollOuts, optional
        What was recorded while the learned runs were made.
    atoms : ase.Atoms, optional
        With the calculator and the constraints of the classical engine.
    bonds : ndarray of int, shape (M, 2), optional
        All that are known, where the topology has not all of them.
    temperature : float, optional
        K, of the thermostat of the learned runs.
    tica_lag : float, optional
        ps.
    classical_timestep : float
        ps.
    factor : float
        How many times the mean spread of the reference still counts as within it.
    rng : numpy.random.Generator
    progress : bool
    torsion_runs : tuple of TorsionRuns, optional
        Of the reference and the learned runs; filled in where a check first asks for them.
    """

    propagator: LearnedMap
    reference: list[Run]
    learned: list[Run]
    pairs: TrajectoryPairs | Callable[[], TrajectoryPairs] | None = None
    rollouts: RollOuts | None = None
    atoms: Atoms | None = None
    bonds: np.ndarray | None = None
    temperature: float | None = None
    tica_lag: float | None = None
    classical_timestep: float = 1e-3
    factor: float = 1.5
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    progress: bool = False
    torsion_runs: tuple[TorsionRuns, TorsionRuns] | None = field(default=None, repr=False)
    _samples: dict[str, tuple[list[Sample], list[Sample]]] = field(default_factory=dict, repr=False)

    @property
    def periodic(self) -> bool:
        """Whether the reference has a cell."""
        return self.reference[0].periodic

    @cached_property
    def rigid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of atoms (M, 2) that the reference holds at fixed distance, and their lengths in Å."""
        run = self.reference[0]
        some = dataclasses.replace(run, stop=min(run.stop, run.start + _FRAMES_FOR_RIGID))
        found = some.analyse(RigidPairs(run.atoms)).results
        return found.pairs, found.lengths

    @cached_property
    def symbols(self) -> list[str]:
        """Elements that are there, by atomic number."""
        from MDAnalysis.guesser.tables import Z2SYMB

        with quiet():
            return [Z2SYMB[int(z)] for z in np.unique(read_topology(self.reference[0].atoms).numbers)]

    def both_have_velocities(self) -> bool:
        """Whether reference and learned runs have velocities; a DataError names learned ones without."""
        if not all(run.has_velocities for run in self.learned):
            raise DataError("the learned trajectories have no velocities; save them as TRR, NCDF or H5MD")
        return all(run.has_velocities for run in self.reference)

    def in_step(self) -> tuple[float, list[Run], list[Run]]:
        """Reference and learned runs with the same time between frames: that time in ps, and both.

        Raises
        ------
        DataError
            If neither spacing is a multiple of the other.
        """
        spacings = {round(run.spacing, 9) for run in self.reference}, {round(run.spacing, 9) for run in self.learned}
        ours = [max(one) for one in spacings]
        if any(max(one) - min(one) > 1e-3 * max(one) for one in spacings):
            raise DataError("the runs of one kind have different times between frames")
        spacing = max(ours)
        steps = [round(spacing / one) for one in ours]
        if any(abs(step * one - spacing) > 1e-3 * spacing for step, one in zip(steps, ours, strict=True)):
            raise DataError(
                f"reference frames are {ours[0]:g} ps apart and learned ones {ours[1]:g} ps; neither is a multiple of "
                "the other: choose another --every"
            )
        strided = [
            [dataclasses.replace(run, step=run.step * step) for run in runs]
            for runs, step in zip((self.reference, self.learned), steps, strict=True)
        ]
        return spacing, strided[0], strided[1]

    def samples(
        self,
        key: str,
        measure: Callable[[Run], np.ndarray],
        reference: Sequence[Run] | None = None,
        learned: Sequence[Run] | None = None,
    ) -> tuple[list[Sample], list[Sample]]:
        """An observable of the blocks of the learned runs, and of each reference run; measured once for each key."""
        if key not in self._samples:
            blocks = [block for run in (learned or self.learned) for block in run.cut(PIECES)]
            runs = [*blocks, *(reference or self.reference)]
            found = [
                Sample(np.asarray(measure(run)), run.n_frames)
                for run in progress_bar(runs, desc=key, unit="run", disable=not self.progress, leave=False)
            ]
            self._samples[key] = found[: len(blocks)], found[len(blocks) :]
        return self._samples[key]

    def compare(self, samples: tuple[list[Sample], list[Sample]], distance: Distance) -> Comparison:
        """Learned samples against the spread of the reference."""
        return compare(*samples, distance, self.rng, factor=self.factor)


def pools(samples: tuple[list[Sample], list[Sample]]) -> tuple[np.ndarray, np.ndarray]:
    """Means of learned and of reference samples."""
    return pool(samples[0]), pool(samples[1])


def check_frames(runs: Sequence[Run], progress: bool = False) -> None:
    """Read every frame once.

    Raises
    ------
    DataError
        If a frame cannot be read or holds impossible values.
    """
    for run in runs:
        reader = run.atoms.universe.trajectory
        with quiet(), keeping_frame(reader):
            for frame in progress_bar(range(run.stop), desc="reading", unit="frame", disable=not progress, leave=False):
                read_frame(run.atoms, frame)


def independent(runs: list[Run]) -> list[Run]:
    """Reference runs as they are, or pieces of a single one.

    Raises
    ------
    DataError
        If there are too few frames.
    """
    if len(runs) > 1:
        if min(run.n_frames for run in runs) < 2:
            raise DataError("a reference run has a single frame; give trajectories")
        return runs
    if runs[0].n_frames < 2 * PIECES:
        raise DataError(f"the reference has {runs[0].n_frames} frames; give {2 * PIECES} or more")
    return runs[0].cut(PIECES)
