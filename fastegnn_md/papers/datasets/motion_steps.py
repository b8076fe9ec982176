"""The motion-capture benchmark of EGHN: where the joints of a subject are some frames later.

Han et al., NeurIPS 2022; Huang et al., ICLR 2022. Subject 35 walks in 23 trials, subject 9 runs in 11.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import DataError
from .mocap import read_motion, read_skeleton


@dataclass(frozen=True)
class MotionBenchmark:
    """Which trials are learned, and how starts are drawn from them.

    Attributes
    ----------
    subject : str
        Two digits, as in the names of the files.
    trials : tuple of three int
        Trials for training, validation and test.
    window, starts : int
        Starts drawn from the first frames of each trial, and of how many.
    ahead : int
        Frames from input to target, at 120 per second.
    """

    subject: str
    trials: tuple[int, int, int]
    window: int
    starts: int
    ahead: int = 30


WALK = MotionBenchmark("35", (11, 6, 6), window=300, starts=100)
RUN = MotionBenchmark("09", (5, 3, 3), window=90, starts=80)


@dataclass(frozen=True, eq=False)
class MotionSteps:
    """Joints at several times, and some frames later.

    Attributes
    ----------
    x, v, target : ndarray of float32, shape (systems, joints, 3)
        Positions, forward differences x(t + 1) − x(t) (they look into the future), positions some frames later; in the
        unit of the skeleton.
    bones : ndarray of int64, shape (joints − 1, 2)
    """

    x: np.ndarray
    v: np.ndarray
    target: np.ndarray
    bones: np.ndarray


def motion_files(folder: str | os.PathLike[str], benchmark: MotionBenchmark) -> list[Path]:
    """The ``.amc`` files of the trials of a benchmark, by name.

    Raises
    ------
    DataError
        If there are fewer or more than the benchmark has.
    """
    folder = Path(folder)
    motions = sorted(folder.glob(f"{benchmark.subject}_*.amc"))
    wanted = sum(benchmark.trials)
    if len(motions) != wanted:
        raise DataError(
            f"{folder} has {len(motions)} files {benchmark.subject}_*.amc, the benchmark has {wanted}; fetch them and "
            f"{benchmark.subject}.asf from http://mocap.cs.cmu.edu, subject {int(benchmark.subject)}"
        )
    return motions


def motion_steps(
    folder: str | os.PathLike[str], benchmark: MotionBenchmark, *, seed: int = 43
) -> dict[str, MotionSteps]:
    """Starts of the trials of one subject.

    The published split numbers trials in an order that it does not keep; here they are shuffled with the seed.

    Parameters
    ----------
    folder : path
        With ``35.asf`` and ``35_*.amc``, or those of another subject.
    benchmark : MotionBenchmark
    seed : int
        Of the split and of the starts.

    Returns
    -------
    dict of MotionSteps
        ``train``, ``valid`` and ``test``.

    Raises
    ------
    DataError
        If files are missing or damaged, or a trial is too short.
    """
    folder, motions = Path(folder), motion_files(folder, benchmark)
    skeleton = read_skeleton(folder / f"{benchmark.subject}.asf")
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.permutation(len(motions))
    parts, begin = {}, 0
    for name, count in zip(("train", "valid", "test"), benchmark.trials, strict=True):
        drawn = []
        for trial in sorted(order[begin : begin + count]):
            joints = read_motion(motions[trial], skeleton)
            last = min(benchmark.window, len(joints) - benchmark.ahead)
            if last < 1:
                raise DataError(
                    f"{motions[trial]} has {len(joints)} frames; targets {benchmark.ahead} frames ahead need more"
                )
            starts = np.sort(rng.permutation(last)[: benchmark.starts])
            start = joints[starts]
            drawn.append(np.stack([start, joints[starts + 1] - start, joints[starts + benchmark.ahead]]))
        x, v, target = np.concatenate(drawn, axis=1).astype(np.float32)
        parts[name] = MotionSteps(x, v, target, skeleton.edges)
        begin += count
    return parts
