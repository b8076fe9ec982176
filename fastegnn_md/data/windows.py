"""Where runs of frames begin that belong together: windows of stores, and which run an index is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Windows:
    """Runs of ``steps`` lags in the windows of one or more stores, counted store after store.

    An index is found by bisection, and not from a list of all runs.

    Parameters
    ----------
    ranges : sequence of ndarray of int, shape (W, 2)
        Windows of each store: half-open ranges of frames.
    lag_frames : sequence of int
        Frames per lag, of each store.
    neighbours : (int, int)
        Frames that a run needs before its first and after its last one.
    steps : int
        Lags that a run spans.
    """

    ranges: list[np.ndarray]
    steps: int

    def __init__(
        self,
        ranges: Sequence[np.ndarray],
        lag_frames: Sequence[int],
        neighbours: tuple[int, int] = (0, 0),
        steps: int = 1,
    ):
        self.ranges, self.steps = list(ranges), steps
        self._lag_frames, self._neighbours = lag_frames, neighbours
        tables = []
        for index in range(len(self.ranges)):
            first, count = self._starts(index, steps)
            tables.append(np.stack([np.full(len(first), index), first, count], axis=1)[count > 0])
        self._table = np.concatenate(tables)  # store, first start frame, number of runs
        self._ends = np.cumsum(self._table[:, 2])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def frames(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Store (n,) and frames (n, 1 + steps) of runs."""
        row = np.searchsorted(self._ends, indices, side="right")
        which, first, count = self._table[row].T
        start = first + indices - (self._ends[row] - count)
        return which, start[:, None] + np.asarray(self._lag_frames)[which][:, None] * np.arange(self.steps + 1)

    def spread(self, index: int, multiple: int, limit: int) -> np.ndarray:
        """Up to ``limit`` evenly spread frames of one store with a frame ``multiple`` lags later in the same window."""
        first, counts = self._starts(index, multiple)
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        chosen = np.linspace(0, total, min(limit, total), endpoint=False).astype(np.int64)
        row = np.searchsorted(ends, chosen, side="right")
        return first[row] + chosen - (ends[row] - counts[row])

    def with_steps(self, steps: int) -> Windows:
        """The same windows with runs of so many lags."""
        return Windows(self.ranges, self._lag_frames, self._neighbours, steps)

    def with_ranges(self, ranges: Sequence[np.ndarray]) -> Windows:
        """Runs of as many lags in other windows of the stores."""
        return Windows(ranges, self._lag_frames, self._neighbours, self.steps)

    def _starts(self, index: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """First frame of each window of a store that a run of so many lags can begin at, and how many do."""
        before, after = self._neighbours
        window = self.ranges[index]
        first = window[:, 0] + before
        return first, np.maximum(window[:, 1] - after - steps * self._lag_frames[index] - first, 0)
