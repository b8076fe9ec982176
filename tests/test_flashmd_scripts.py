"""The measurement beside FlashMD, without FlashMD: roll-outs, errors, g(r) and the table of the page."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastegnn_md.state import State

FOLDER = Path(__file__).parents[1] / "benchmarks" / "flashmd"


@pytest.fixture
def script(require: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for component in ("ase", "openmm", "lightning"):
        require(component)
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("run", "cases"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module("run")
    for name in ("run", "cases"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    return found


def hydrogen() -> State:
    """One bond, at rest."""
    return State(
        positions=torch.tensor([[0.0, 0, 0], [1.1, 0, 0]], dtype=torch.float64),
        velocities=torch.zeros(2, 3, dtype=torch.float64),
        numbers=torch.tensor([6, 1]),
        masses=torch.tensor([12.011, 1.008], dtype=torch.float64),
        bonds=torch.tensor([[0, 1]]),
    )


def flight(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    return state.positions + 0.008 * state.velocities, state.velocities


def test_free_flight_is_thermal_and_breaks_the_bond_unless_it_is_held(script: Any) -> None:
    case = script.CASES["ala2"]
    held = script.roll_out(case, flight, hydrogen(), True, 8.0)
    assert held["ends"] == "8 ps"
    assert held["jumps"] == 1000
    assert held["temperature, K"] == pytest.approx(300, rel=0.15)
    free = script.roll_out(case, flight, hydrogen(), False, 8.0)
    assert free["ends"].startswith("a bond to hydrogen is broken after")
    assert free["jumps"] < 1000


def test_a_jump_that_is_not_finite_ends_the_run(script: Any) -> None:
    found = script.roll_out(script.CASES["ala2"], lambda state: (state.positions * np.nan,) * 2, hydrogen(), True, 1.0)
    assert found["ends"] == "not finite after 1 jumps"
    assert found["temperature, K"] is None


def test_errors_are_mass_scaled(script: Any) -> None:
    start = hydrogen()
    moved = start.replace(positions=start.positions + 0.1)
    found = script.errors_of(lambda states: [flight(state) for state in states], [(start, moved)], [0])
    assert found["x"] == pytest.approx(0.1 * np.sqrt((12.011 + 1.008) / 2))
    assert found["v"] == 0


def test_the_distribution_of_distances_is_one_in_a_gas(script: Any) -> None:
    rng = np.random.default_rng(0)
    boxes = [script.cases.radial(7.3 * rng.random((32, 3)), 7.3 * np.eye(3)) for _ in range(400)]
    assert np.mean(boxes, axis=0) == pytest.approx(np.ones(42), abs=0.2)


def test_the_table_is_over_the_best_baseline(script: Any, tmp_path: Path) -> None:
    (tmp_path / "copper").mkdir()
    row = {
        "case": "copper, 32 atoms, EMT",
        "parameters": 1000,
        "updates": 10,
        "RMSE": {"x": 0.1, "v": 0.3},
        "roll-out": {"ends": "20 ps", "CPU ms per jump": 1.0, "temperature, K": 600.0, "g(r)": [1.0, 3.0]},
    }
    baselines = {"zero motion": {"x": 0.4, "v": 0.6}, "best linear": {"x": 0.2, "v": 0.9}}
    (tmp_path / "copper" / "ours.json").write_text(json.dumps({**row, "baselines": baselines}))
    (tmp_path / "copper" / "theirs.json").write_text(json.dumps({**row, "RMSE": {"x": 0.2, "v": 0.6}}))
    classical = {"g(r)": [1.0, 2.0], "halves": [[1.0, 1.0], [1.0, 1.2]]}
    (tmp_path / "copper" / "classical.json").write_text(json.dumps(classical))
    rows = script.table(tmp_path)
    assert [one["over the best baseline"] for one in rows] == [
        {"x": pytest.approx(0.5), "v": pytest.approx(0.5)},
        {"x": pytest.approx(1.0), "v": pytest.approx(1.0)},
    ]
    text = script.markdown(rows)
    assert "| copper | theirs | 1,000 | 10 | 1.000, 1.000 | 1.00 | 600 | 20 ps; g(r) off by 0.707" in text
