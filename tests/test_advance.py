"""A jump of a map on another device: what travels there and back."""

from __future__ import annotations

import gpu_cases
import numpy as np
import pytest
import torch

from fastegnn_md import State
from fastegnn_md.propagator.advance import advance
from fastegnn_md.propagator.base import Propagator

ELSEWHERE = torch.device("cpu:0")  # which is not "cpu"


@pytest.fixture
def journeys(monkeypatch):
    """States that travelled with all they have."""
    made, travel = [], State.to

    def to(self, *given, **keywords):
        made.append(self)
        return travel(self, *given, **keywords)

    monkeypatch.setattr(State, "to", to)
    return made


@pytest.mark.parametrize("kind", ["force-free", "force-start"])
def test_only_what_moves_travels_again(kind, journeys, monkeypatch):
    state = gpu_cases.system(periodic=True)
    propagator = gpu_cases.propagator(state, hidden=16, layers=1, kind=kind)
    expected = propagator(state)
    monkeypatch.setattr(Propagator, "device", ELSEWHERE)
    monkeypatch.setattr(Propagator, "predict", lambda self, state, generator=None: self._predict(state))
    rng = np.random.default_rng(0)
    for _ in range(3):
        found = advance(propagator, state, rng)
        torch.testing.assert_close(found.positions, expected.positions)
        torch.testing.assert_close(found.velocities, expected.velocities)
        assert found.numbers is state.numbers
        assert found.forces is None
        state = state.replace(positions=state.positions.clone())
    assert len(journeys) == 1
    other = state.replace(cell=1.01 * state.cell)
    torch.testing.assert_close(advance(propagator, other, rng).positions, propagator(other).positions)
    assert len(journeys) == 2
