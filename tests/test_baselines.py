"""The samplers that a learned one has to beat do what they say."""

from __future__ import annotations

import numpy as np
import pytest
from known_processes import DoubleWell

from fastegnn_md.errors import DataError
from fastegnn_md.validation.baselines import GaussianJump, MarkovEmulator, independent_draws, turned_onto, unmoved


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def turns(count: int) -> np.ndarray:
    """Proper rotations (count, 3, 3)."""
    q = np.linalg.qr(rng().normal(size=(count, 3, 3)))[0]
    return q * np.sign(np.linalg.det(q))[:, None, None]


def test_draws_know_nothing_of_the_frame_before_and_the_unmoved_nothing_else():
    frames = np.arange(10.0)
    drawn = independent_draws(frames, 50, 400, rng())
    assert drawn.shape == (50, 401)
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.03
    assert set(drawn.ravel()) == set(frames)
    still = unmoved(frames[:3], 5)
    assert still.shape == (3, 6)
    assert (still == frames[:3, None]).all()


def test_turning_takes_out_rotation_and_shift_and_no_reflection():
    x = rng().normal(size=(20, 6, 3))
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(turned_onto(x, x @ turns(20) + 3.0), centred, atol=1e-10)
    assert np.abs(turned_onto(x, -x) - centred).max() > 0.5


def test_gaussian_jump_has_the_covariance_of_displacements():
    covariance = np.array([[0.3, 0.2, 0, 0], [0.2, 0.3, 0, 0], [0, 0, 0.1, 0], [0, 0, 0, 0.05]])
    x0 = 30 * rng().normal(size=(4, 3))  # so large that turning takes out little of the displacements
    steps = np.linalg.cholesky(covariance) @ rng().normal(size=(4000, 4, 3))
    pairs = [np.stack([x0, x0 + step]) for step in steps]
    jump = GaussianJump.fit(pairs, 1)
    shift = np.eye(4) - 0.25
    # centring takes out the motion of all, and turning 3 of the other 9 degrees of freedom
    expected = np.trace(shift @ covariance @ shift)
    assert 0.55 * expected < np.trace(jump.factor @ jump.factor.T) < expected
    chains = jump.trajectories(np.repeat(x0[None], 500, axis=0), 8, rng())
    assert chains.shape == (500, 9, 4, 3)
    moved = chains[:, 8] - chains[:, 0]
    found = np.einsum("fik,fjk->ij", moved, moved) / (3 * 500)
    np.testing.assert_allclose(found, 8 * jump.factor @ jump.factor.T, atol=0.3)
    with pytest.raises(DataError, match="lag"):
        GaussianJump.fit(pairs, 2)


def test_markov_emulator_has_the_populations_and_transitions_of_its_data(require):
    require("deeptime")
    well = DoubleWell()
    chains = well.trajectories(20, 1000, 0.5, rng())
    features = [well.x[one][:, None] for one in chains]
    emulator = MarkovEmulator.fit(features, 1, clusters=30)
    frames = emulator.trajectories(40, 1000, rng())
    points = chains.ravel()[frames]
    data = well.basin[chains]
    assert well.basin[points].mean() == pytest.approx(data.mean(), abs=0.06)
    crossing = np.mean(well.basin[points][:, 1:] != well.basin[points][:, :-1])
    assert crossing == pytest.approx(np.mean(data[:, 1:] != data[:, :-1]), rel=0.25)
