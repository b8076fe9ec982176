"""Confidence intervals and the comparison of a learned ensemble with the spread of reference runs."""

from __future__ import annotations

import numpy as np
import pytest

from fastegnn_md.errors import ConfigError
from fastegnn_md.validation import Sample, bootstrap_interval, compare


def correlated(rng, n, a=0.9):
    """An AR(1) process of variance one and correlation time 1 / (1 − a)."""
    x = np.empty(n)
    x[0] = rng.standard_normal()
    noise = np.sqrt(1 - a * a) * rng.standard_normal(n)
    for t in range(1, n):
        x[t] = a * x[t - 1] + noise[t]
    return x


def test_block_bootstrap_covers_the_mean_of_a_correlated_series_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        blocks = [Sample(np.array([block.mean()]), len(block)) for block in np.split(correlated(rng, 2000), 10)]
        low, high = bootstrap_interval(blocks, lambda values: float(values[0]), rng)
        hits += low <= 0 <= high
    # 95 % of 200, within four standard deviations of a binomial variable
    assert abs(hits / 200 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 200)


def test_frames_taken_for_independent_would_not():
    """What the blocks are for: the same series, frame by frame, misses the mean far more often."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(50):
        frames = [Sample(np.array([x])) for x in correlated(rng, 400)]
        low, high = bootstrap_interval(frames, lambda values: float(values[0]), rng)
        hits += low <= 0 <= high
    assert hits < 35


def test_blocks_weigh_as_many_frames_as_they_have():
    rng = np.random.default_rng(2)
    blocks = [Sample(np.array([1.0]), 30), Sample(np.array([5.0]), 10)]
    low, high = bootstrap_interval(blocks, lambda values: float(values[0]), rng)
    assert (low + high) / 2 == pytest.approx(2.0)
    assert bootstrap_interval(blocks[:1], lambda values: float(values[0]), rng) is None


def absolute(a, b):
    return float(np.abs(a - b).sum())


def runs(rng, n, mean=0.0):
    return [Sample(np.array([mean + 0.1 * rng.standard_normal()])) for _ in range(n)]


def test_an_equal_ensemble_lies_within_the_spread_and_a_shifted_one_outside():
    rng = np.random.default_rng(3)
    reference = runs(rng, 8)
    equal = compare(runs(rng, 5), reference, absolute, rng)
    shifted = compare(runs(rng, 5, mean=0.5), reference, absolute, rng)
    assert equal.within
    assert not shifted.within
    assert shifted.value == pytest.approx(0.5, abs=0.3)
    assert shifted.interval[0] < shifted.value < shifted.interval[1]
    assert equal.interval[0] >= 0.0
    assert len(equal.spread) == 8
    assert equal.limit == pytest.approx(1.5 * np.mean(equal.spread))


@pytest.mark.parametrize(
    ("references", "learned", "outside"), [(4, 1, 0.28), (4, 4, 0.12), (10, 4, 0.06), (10, 10, 0.02)]
)
def test_an_equal_figure_of_one_number_is_outside_by_chance_as_often_as_the_docs_say(references, learned, outside):
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1500):
        runs = [Sample(rng.standard_normal(1)) for _ in range(references)]
        ours = Sample(rng.standard_normal((learned, 1)).mean(axis=0))
        wrong += not compare([ours], runs, absolute, rng).within
    assert abs(wrong / 1500 - outside) < 4 * np.sqrt(outside * (1 - outside) / 1500)


def test_each_reference_run_is_compared_with_the_others_alone():
    reference = [Sample(np.array([x])) for x in (0.0, 1.0, 5.0)]
    found = compare([Sample(np.array([2.0]))], reference, absolute, np.random.default_rng(0), factor=2.0)
    assert found.spread == pytest.approx([3.0, 1.5, 4.5])
    assert found.limit == pytest.approx(2 * 3.0)
    assert found.value == pytest.approx(0.0, abs=1e-14)  # the mean of 0, 1 and 5 may be rounded
    assert found.interval is None


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(4)
    learned, reference = runs(rng, 5), runs(rng, 4)
    first, second = (compare(learned, reference, absolute, np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_one_reference_run_has_no_spread():
    with pytest.raises(ConfigError, match="two runs"):
        compare([Sample(np.zeros(1))], [Sample(np.zeros(1))], absolute, np.random.default_rng(0))
