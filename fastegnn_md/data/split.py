"""Which frames belong together: segments of uniform time step, and splits into blocks with a gap between them.

A *window* is a half-open range of frames ``[start, stop)`` inside one segment; a pair lies in a window with both its
frames. Arrays of windows have shape (W, 2).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..errors import DataError, Remedy
from ..units import format_time


def segments_from_times(times: np.ndarray, cuts: Sequence[int] = ()) -> tuple[float, np.ndarray]:
    """Cut a list of frame times where the step changes.

    Times of many formats are rounded to float32, so a step counts as equal to the common one if it differs by less
    than a thousandth or by what float32 cannot resolve.

    Parameters
    ----------
    times : ndarray, shape (n_frames,), ps
        Time of each frame.
    cuts : sequence of int
        Frames that begin a new segment whatever their time (the first frame of each file of a chain).

    Returns
    -------
    dt : float, ps
        The common step.
    segments : ndarray of int64, shape (S, 2)
        Segments of two frames or more.

    Raises
    ------
    DataError
        If there are fewer than two frames, no time passes, or no step is common to most frames.
    """
    if len(times) < 2:
        raise DataError("the trajectory has one frame; a pair needs two: give a trajectory, or harvest bursts from it")
    steps = np.diff(np.asarray(times, dtype=np.float64))
    forward = steps[steps > 0]
    if not len(forward):
        raise DataError(
            Remedy(
                f"the times of all {len(times)} frames are the same ({times[0]:g} ps): the file carries no usable "
                "time; ",
                "open it with Universe(..., dt=<ps>)",
                "write the trajectory with its times, or in a format without, which takes --dt",
            )
        )
    dt = float(np.median(forward))
    rounding = 2.0 * float(np.spacing(np.float32(np.abs(times).max())))
    uniform = np.abs(steps - dt) <= min(1e-3 * dt + rounding, 0.25 * dt)
    if uniform.sum() < 0.5 * len(steps):
        raise DataError(
            Remedy(
                f"the times between frames are not uniform: they range from {steps.min():g} to {steps.max():g} ps and "
                f"the middle one is {dt:g} ps; write the trajectory at a fixed interval",
                ", or, if the times are wrong, open it with Universe(..., dt=<ps>)",
            )
        )
    begins = np.flatnonzero(~uniform) + 1
    bounds = np.unique(np.concatenate([[0], begins, np.asarray(cuts, dtype=np.int64), [len(times)]]))
    segments = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return float(steps[uniform].mean()), segments[segments[:, 1] - segments[:, 0] > 1]


def frames_per_lag(lag: float, dt: float) -> int:
    """Number of frames a lag spans.

    Raises
    ------
    DataError
        If the lag is not positive, shorter than a frame, or not a whole number of frames; the message names the
        nearest lags that are.
    """
    if not (np.isfinite(lag) and lag > 0):
        raise DataError(f"lag is {lag} ps; expected a positive time")
    ratio = lag / dt
    frames = round(ratio)
    if frames < 1:
        raise DataError(
            Remedy(
                f"lag {format_time(lag)} is shorter than the {format_time(dt)} between frames; the nearest possible "
                f"lag is {format_time(dt)}. For shorter lags harvest bursts from these frames: ",
                "fastegnn_md.harvest.harvest",
                "fastegnn-md harvest",
            )
        )
    if abs(ratio - frames) > min(1e-3 * frames, 0.05):
        below = max(1, int(np.floor(ratio)))
        near = sorted({below, below + 1})
        raise DataError(
            f"lag {format_time(lag)} is not a whole number of frames, which are {format_time(dt)} apart; the nearest "
            "possible lags are " + " and ".join(format_time(k * dt) for k in near)
        )
    return frames


def split_windows(
    windows: np.ndarray,
    times: np.ndarray,
    fractions: Sequence[float],
    *,
    span: int,
    lag: float,
    whole: bool,
) -> list[np.ndarray]:
    """Divide windows into contiguous blocks of time with a gap of at least ``lag`` between blocks.

    Parameters
    ----------
    windows : ndarray of int, shape (W, 2)
        Windows in order.
    times : ndarray, shape (n_frames,), ps
        Time of each frame, to hold the gap between windows that follow each other in time.
    fractions : sequence of float
        Share of frames of each block, positive, with sum 1.
    span : int
        Frames a pair spans (the lag in frames, plus neighbours needed for difference velocities).
    lag : float, ps
        Time of the gap.
    whole : bool
        Never cut inside a window (harvested bursts).

    Returns
    -------
    list of ndarray, each of shape (W_i, 2)
        Every frame is in at most one of them; each can hold at least one pair.

    Raises
    ------
    DataError
        If the fractions are wrong or the data too short.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if not len(shares) or np.any(~(shares > 0)) or abs(shares.sum() - 1) > 1e-6:
        raise DataError(f"fractions {tuple(fractions)} must be positive with sum 1")
    windows = windows[windows[:, 1] - windows[:, 0] > span]
    parts = _share_whole(windows, shares) if whole else _share_frames(windows, shares, span)
    for before, after in itertools.pairwise(parts):
        _open_gap(before, after, times, lag)
    parts = [[w for w in part if w[1] - w[0] > span] for part in parts]
    if any(not part for part in parts):
        total = int((windows[:, 1] - windows[:, 0]).sum())
        raise DataError(
            f"{total} usable frames in {len(windows)} segments are too few for a split into {tuple(fractions)} with "
            f"gaps of {format_time(lag)}; give more data, fewer parts or a shorter lag"
        )
    return [np.array(part, dtype=np.int64).reshape(-1, 2) for part in parts]


def _share_whole(windows: np.ndarray, shares: np.ndarray) -> list[list[list[int]]]:
    filled = np.cumsum(windows[:, 1] - windows[:, 0])
    total = filled[-1] if len(filled) else 0
    middle = filled - 0.5 * (windows[:, 1] - windows[:, 0])
    owner = np.searchsorted(np.cumsum(shares)[:-1] * total, middle, side="right")
    return [windows[owner == part].tolist() for part in range(len(shares))]


def _share_frames(windows: np.ndarray, shares: np.ndarray, span: int) -> list[list[list[int]]]:
    """Fill the parts one after the other; a cut inside a window costs ``span`` frames."""
    remaining = [list(window) for window in windows.tolist()]
    parts: list[list[list[int]]] = []
    for index, share in enumerate(shares):
        cuts_left = len(shares) - 1 - index
        usable = sum(stop - start for start, stop in remaining) - cuts_left * span
        wanted = round(usable * share / shares[index:].sum())
        part: list[list[int]] = []
        while remaining and (wanted > 0 or not cuts_left):
            start, stop = remaining[0]
            take = stop - start if not cuts_left else min(wanted, stop - start)
            part.append([start, start + take])
            wanted -= take
            if start + take + span < stop:
                remaining[0] = [start + take + span, stop]
            else:
                remaining.pop(0)
        parts.append(part)
    return parts


def _open_gap(before: list[list[int]], after: list[list[int]], times: np.ndarray, lag: float) -> None:
    """Take frames off the start of a part that come less than a lag after the end of the one before."""
    if not before:
        return
    end = times[before[-1][1] - 1]
    while after:
        start, stop = after[0]
        elapsed = times[start:stop] - end
        if elapsed[0] < 0:  # another run, or a clock that was set back: not neighbours in time
            return
        late = np.flatnonzero(elapsed > lag * (1 - 1e-6))
        if len(late):
            after[0][0] = start + int(late[0])
            return
        after.pop(0)
