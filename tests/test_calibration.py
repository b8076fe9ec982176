"""Calibration of spreads on errors of a known distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastegnn_md.errors import DataError
from fastegnn_md.training.calibration import calibrate

N = 20_000


def errors_and_spreads(factor: float = 1.0, components: int = 3, seed: int = 0):
    """Normal errors whose standard deviation is ``factor`` times spreads between 0.1 and 10."""
    rng = np.random.default_rng(seed)
    spreads = 10 ** rng.uniform(-1, 1, N)
    return factor * spreads[:, None] * rng.standard_normal((N, components)), spreads


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("components", [1, 3])
def test_normal_errors_have_the_shares_of_the_normal_distribution(factor, components):
    """Bounds of five standard errors."""
    found = calibrate(*errors_and_spreads(factor, components), bins=8)
    n = N * components
    assert found.count == N
    assert abs(found.z_rms - factor) < 5 * factor / math.sqrt(2 * n)
    for share, spreads in ((found.within_one, 1), (found.within_two, 2)):
        expected = math.erf(spreads / factor / math.sqrt(2))
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / n)
    ratio = np.array(found.error) / np.array(found.spread)
    # Spreads of a bin differ by up to 10^(1/4), which makes the fourth moment larger than that of one spread.
    assert np.abs(ratio - factor).max() < 5 * factor / math.sqrt(2 * n / 8) * 1.3
    assert abs(found.slope - factor) < 5 * factor / math.sqrt(2 * n / 8) * 1.3


def test_a_spread_in_units_of_the_true_one_is_the_ideal():
    found = calibrate(*errors_and_spreads())
    assert found.within_one == pytest.approx(0.683, abs=0.01)
    assert found.within_two == pytest.approx(0.954, abs=0.005)


def test_bins_hold_as_many_errors_each_and_their_rms():
    spreads = np.array([4.0, 1.0, 3.0, 2.0])
    errors = np.array([-1.0, 3.0, 7.0, -5.0])
    found = calibrate(errors, spreads, bins=2)
    assert found.spread == pytest.approx((math.sqrt(2.5), math.sqrt(12.5)))
    assert found.error == pytest.approx((math.sqrt(17), 5.0))
    expected = (math.sqrt(2.5 * 17) + 5 * math.sqrt(12.5)) / 15
    assert found.slope == pytest.approx(expected)
    assert found.rank_correlation == pytest.approx(-0.2)  # ranks 4 1 3 2 and 1 2 4 3: 1 - 6 · 12 / (4 · 15)
    assert (found.within_one, found.within_two) == (0.25, 0.25)
    assert found.z_rms == pytest.approx(math.sqrt((1 / 16 + 9 + 49 / 9 + 25 / 4) / 4))


def test_ranks_follow_a_monotonic_relation_and_not_an_unrelated_one():
    spreads = np.random.default_rng(1).uniform(1, 2, N)
    assert calibrate(spreads**3, spreads).rank_correlation == pytest.approx(1.0)
    unrelated = np.random.default_rng(2).standard_normal(N)
    assert abs(calibrate(unrelated, spreads).rank_correlation) < 5 / math.sqrt(N)
    assert math.isnan(calibrate(unrelated, np.ones(N)).rank_correlation)


@pytest.mark.parametrize(
    ("errors", "spreads", "bins", "words"),
    [
        (np.ones(3), np.ones(4), 1, r"errors have shape \(3,\), spreads \(4,\)"),
        (np.ones((3, 2)), np.ones((3, 2)), 1, r"spreads \(3, 2\); expected"),
        (np.ones(3), np.ones(3), 4, "3 errors cannot fill 4 bins"),
        (np.ones(3), np.ones(3), 0, "cannot fill 0 bins"),
        (np.ones(0), np.ones(0), 1, "0 errors cannot fill"),
        (np.array([1.0, np.nan]), np.ones(2), 1, "NaN or infinite"),
        (np.ones(2), np.array([1.0, np.inf]), 1, "NaN or infinite"),
        (np.ones(2), np.array([1.0, 0.0]), 1, r"spread 1 is 0\.0; expected spreads > 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(errors, spreads, bins, words):
    with pytest.raises(DataError, match=words):
        calibrate(errors, spreads, bins)
