"""Lags in frames, segments of uniform step, and splits that share no frame: held for drawn examples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fastegnn_md.data.split import frames_per_lag, segments_from_times, split_windows
from fastegnn_md.errors import DataError

FRACTIONS = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(lambda parts: [p / sum(parts) for p in parts])


def windows_of(lengths: list[int]) -> np.ndarray:
    ends = np.cumsum(lengths)
    return np.stack([ends - lengths, ends], axis=1)


def frames_of(part: np.ndarray) -> np.ndarray:
    return np.concatenate([np.arange(start, stop) for start, stop in part])


class TestSplit:
    @given(
        lengths=st.lists(st.integers(2, 400), min_size=1, max_size=6),
        fractions=FRACTIONS,
        lag=st.integers(1, 20),
        neighbours=st.integers(0, 2),
        gap=st.sampled_from([0.5, 1.0, 7.0, -100.0]),
    )
    @example(lengths=[10], fractions=[0.8, 0.1, 0.1], lag=1, neighbours=0, gap=1.0)
    def test_no_frame_is_in_two_parts_and_no_pair_straddles(self, lengths, fractions, lag, neighbours, gap):
        windows = windows_of(lengths)
        # one frame per unit of time; files follow each other after a pause, or with their clock set back
        times = np.concatenate([np.arange(n) + 0.0 for n in lengths])
        times += np.repeat(np.cumsum([0, *[n - 1 + gap for n in lengths[:-1]]]), lengths)
        span = lag + neighbours
        try:
            parts = split_windows(windows, times, fractions, span=span, lag=float(lag), whole=False)
        except DataError:
            # only ever for want of data
            assert sum(n for n in lengths if n > span) < 60 * (span + 1) * len(fractions)
            return
        frames = [frames_of(part) for part in parts]
        assert len(np.unique(np.concatenate(frames))) == sum(map(len, frames))
        for before, after in itertools.pairwise(frames):
            assert before.max() < after.min()
            elapsed = times[after.min()] - times[before.max()]
            assert elapsed < 0 or elapsed >= lag
        for part in parts:
            assert np.all(part[:, 1] - part[:, 0] > span)
            # each window stays inside one segment
            owner = np.searchsorted(windows[:, 1], part[:, 0], side="right")
            assert np.all(part[:, 1] <= windows[owner, 1])

    @given(
        n=st.integers(500, 5000),
        fractions=FRACTIONS,
        lag=st.integers(1, 10),
    )
    def test_fractions_of_a_long_trajectory_are_respected(self, n, fractions, lag):
        parts = split_windows(np.array([[0, n]]), np.arange(n), fractions, span=lag, lag=float(lag), whole=False)
        usable = n - (len(fractions) - 1) * lag
        for part, fraction in zip(parts, fractions, strict=True):
            assert len(part) == 1
            assert abs(len(frames_of(part)) - fraction * usable) <= 2

    @given(n=st.integers(1, 300), length=st.integers(2, 6), fractions=FRACTIONS)
    def test_bursts_stay_whole_and_in_order(self, n, length, fractions):
        windows = windows_of([length] * n)
        times = np.concatenate([100.0 * i + np.arange(length) for i in range(n)])
        assume(min(fractions) * n > 1)
        parts = split_windows(windows, times, fractions, span=1, lag=1.0, whole=True)
        np.testing.assert_array_equal(np.concatenate(parts), windows)
        for part, fraction in zip(parts, fractions, strict=True):
            assert abs(len(part) - fraction * n) <= 1

    @pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (1.0, 0.0), (1.5, -0.5), (0.5, float("nan"))])
    def test_wrong_fractions(self, fractions):
        with pytest.raises(DataError, match="positive with sum 1"):
            split_windows(np.array([[0, 100]]), np.arange(100), fractions, span=1, lag=1.0, whole=False)

    def test_too_short(self):
        with pytest.raises(DataError, match="too few for a split"):
            split_windows(np.array([[0, 6]]), np.arange(6), (0.8, 0.1, 0.1), span=2, lag=2.0, whole=False)
        with pytest.raises(DataError, match="too few for a split"):
            split_windows(windows_of([4, 4]), np.arange(8), (0.8, 0.1, 0.1), span=1, lag=1.0, whole=True)


class TestLag:
    @given(frames=st.integers(1, 2000), dt=st.sampled_from([0.1, 0.002, 0.9999999119200186, 0.04888821, 1 / 3]))
    def test_multiples_are_found_in_spite_of_rounding(self, frames, dt):
        assert frames_per_lag(frames * dt, dt) == frames
        assert frames_per_lag(float(f"{frames * dt:.6g}"), dt) == frames

    @given(frames=st.integers(0, 100), off=st.floats(0.06, 0.94))
    def test_anything_between_is_refused(self, frames, off):
        with pytest.raises(DataError, match=r"shorter than|nearest possible lags"):
            frames_per_lag((frames + off) * 0.5, 0.5)


class TestSegments:
    @given(
        st.lists(st.integers(2, 50), min_size=1, max_size=5), st.sampled_from([0.002, 1.0, 100.0]), st.floats(0, 5e3)
    )
    def test_runs_are_found_again(self, lengths, dt, origin):
        # a clock that is set back at the start of each run; times rounded to single precision as XTC has them
        assume(sum(n - 1 for n in lengths) > len(lengths))
        runs = [origin + dt * (np.arange(n) + 0.37 * i - 10 * i) for i, n in enumerate(lengths)]
        times = np.concatenate(runs).astype(np.float32).astype(float)
        assume(np.spacing(np.float32(np.abs(times).max())) < 0.02 * dt)
        found, segments = segments_from_times(times)
        assert found == pytest.approx(dt, rel=0.05)
        assert segments.tolist() == windows_of(lengths).tolist()

    def test_single_frames_are_left_out(self):
        dt, segments = segments_from_times(np.array([0, 1, 2, 10, 20, 21, 22, 23.0]))
        assert dt == 1.0
        assert segments.tolist() == [[0, 3], [4, 8]]

    def test_times_that_stand_still(self):
        with pytest.raises(DataError, match="no usable time"):
            segments_from_times(np.zeros(5))
