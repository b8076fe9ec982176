"""Noise of a thermostat in the pairs of a trajectory is said where pairs are made or judged, useless limits too."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.data import NoiseFloorWarning, Store, TrajectoryPairs
from fastegnn_md.data.noise import thermostat_note
from fastegnn_md.errors import DataError
from fastegnn_md.validation import rows
from fastegnn_md.validation.ensemble_rows import joint_torsions, torsions
from fastegnn_md.validation.statistics import Comparison


def universe(dt: float = 0.001) -> mda.Universe:
    """Two atoms that swing."""
    t = dt * np.arange(60)[:, None, None]
    rate = 2 * np.pi * 15.0
    amplitude = np.array([[[0.1, 0.02, 0.0]], [[-0.1, 0.0, 0.02]]]).reshape(1, 2, 3)
    x = np.array([[0.0, 0, 0], [1.5, 0, 0]]) + amplitude * np.sin(rate * t)
    v = amplitude * rate * np.cos(rate * t)
    made = mda.Universe.empty(2, trajectory=False)
    made.add_TopologyAttr("elements", ["C", "O"])
    made.add_TopologyAttr("masses", [12.011, 15.999])
    made.load_new(x.astype(np.float32), dt=dt, velocities=v)
    return made


@pytest.mark.parametrize("lag", ["1 fs", "4 fs", "20 fs"])
def test_a_friction_is_warned_of_at_any_lag(lag):
    ps = float(lag.split()[0]) / 1000
    with pytest.warns(NoiseFloorWarning, match=rf"{math.sqrt(1 - math.exp(-2 * ps)):.1%} of the thermal velocity"):
        pairs = TrajectoryPairs(universe(), lag=lag, friction="1/ps", progress=False)
    assert pairs.friction == 1.0
    assert "friction 1/ps" in thermostat_note(pairs)


def test_what_is_not_known_is_asked_and_no_friction_is_an_answer():
    pairs = TrajectoryPairs(universe(), lag="4 fs", progress=False)
    assert "if a thermostat acted" in thermostat_note(pairs)
    assert "if a thermostat acted" in thermostat_note(pairs.split((0.5, 0.25, 0.25))[0])
    assert not thermostat_note(TrajectoryPairs(universe(), lag="4 fs", friction=0, progress=False))
    assert not thermostat_note(TrajectoryPairs(universe(), lag="4 fs", friction="0/ps", progress=False))
    assert not thermostat_note(TrajectoryPairs(universe(), lag="4 fs", velocities="none", progress=False))


@pytest.mark.parametrize("friction", [-1, math.nan, math.inf])
def test_a_friction_that_is_none_is_refused(friction):
    with pytest.raises(DataError, match="friction"):
        TrajectoryPairs(universe(), lag="4 fs", friction=friction, progress=False)


def test_bursts_have_no_thermostat(require, tmp_path):
    require("ase")
    from ase.calculators.lj import LennardJones

    from fastegnn_md.harvest import harvest

    store = harvest(
        universe(),
        LennardJones,
        store=tmp_path / "a.h5md",
        temperature=10,
        frames=range(3),
        burst="2 fs",
        interval="1 fs",
        timestep="0.5 fs",
        progress=False,
    )
    assert Store(store).kind == "bursts"
    assert not thermostat_note(TrajectoryPairs(store, lag="1 fs", progress=False))


@pytest.mark.parametrize("dynamics", ["Langevin", "VelocityVerlet"])
def test_a_file_of_ase_says_its_friction(require, tmp_path, dynamics):
    require("ase")
    from ase import units
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import thermalize_momenta
    from ase.md.verlet import VelocityVerlet

    from fastegnn_md.data import load_universe

    atoms = bulk("Cu", a=3.61, cubic=True) * (2, 2, 2)
    thermalize_momenta(atoms, 600, rng=np.random.default_rng(0))
    atoms.calc = EMT()
    path = str(tmp_path / "a.traj")
    if dynamics == "Langevin":
        options: dict[str, Any] = {"temperature_K": 600, "friction": 0.002 / units.fs, "fixcm": False}
        Langevin(atoms, 2 * units.fs, rng=np.random.default_rng(1), trajectory=path, **options).run(10)
        with pytest.warns(NoiseFloorWarning, match="friction 2/ps"):
            pairs = TrajectoryPairs(load_universe(path), lag="4 fs", progress=False)
        assert pairs.friction == pytest.approx(2.0)
    else:
        VelocityVerlet(atoms, 2 * units.fs, trajectory=path).run(10)
        pairs = TrajectoryPairs(load_universe(path), lag="4 fs", progress=False)
        assert pairs.friction == 0
        assert not thermostat_note(pairs)


def test_train_asks_or_says(require, tmp_path: Path, capsys):
    require("lightning")
    from fastegnn_md.cli import main

    universe().atoms.write(str(tmp_path / "a.trr"), frames="all")
    (tmp_path / "a.xyz").write_text("2\n\nC 0 0 0\nO 1.5 0 0\n")
    small = (
        "--updates",
        "1",
        "--set",
        "propagator.hidden=4",
        "--set",
        "propagator.layers=1",
        "--split",
        "0.5,0.25,0.25",
    )

    def train(name: str, *friction: str) -> str:
        files = (str(tmp_path / "a.xyz"), str(tmp_path / "a.trr"))
        with pytest.raises(SystemExit):
            main(["train", *files, "--lag", "2 fs", *small, *friction, "-o", str(tmp_path / f"{name}.safetensors")])
        return capsys.readouterr().err

    assert "--friction tells how much" in train("unknown")
    assert "thermostat" not in train("none", "--friction", "0/ps")
    with warnings.catch_warnings():
        warnings.simplefilter("always", NoiseFloorWarning)  # the command prints it
        assert "friction 5/ps" in train("known", "--friction", "5/ps")


def test_the_row_of_one_step_says_where_its_pairs_come_from(monkeypatch):
    from fastegnn_md.propagator import FakePropagator
    from fastegnn_md.validation.engine_rows import one_step

    def flight(state: Any) -> Any:
        return state.positions + 0.002 * state.velocities, state.velocities

    for friction, expected in ((None, "if a thermostat acted"), (0, "")):
        pairs = TrajectoryPairs(universe(), lag="2 fs", friction=friction, progress=False)
        case: Any = SimpleNamespace(
            pairs=pairs, propagator=FakePropagator(flight, 0.002), progress=False, rng=np.random.default_rng(0)
        )
        note = one_step(case).note
        assert (expected in note) if expected else ("thermostat" not in note)


@pytest.mark.parametrize(
    ("limit", "verdict"), [(0.3, "within"), (0.1, "outside"), (1.0, "not measured"), (1.3, "not measured")]
)
def test_a_limit_beyond_the_largest_distance_decides_nothing(limit, verdict):
    comparison = Comparison(0.2, None, (limit / 1.5,), limit)
    found = rows.Finding.of(comparison, 1.5, largest=1.0).row("torsions", "a distance")
    assert found.verdict == verdict
    if verdict == "not measured":
        assert "longer reference" in found.note
        assert found.value is None


def test_reference_runs_in_different_basins_decide_nothing(monkeypatch):
    """Runs that visit no angle twice are as far apart as can be: any learned run would be within 1.5 times that."""
    from fastegnn_md.validation import ensemble_rows

    monkeypatch.setattr(ensemble_rows, "_torsions", lambda run: SimpleNamespace(names=["φ"], pairs=[(0, 0)]))
    apart = np.eye(100)[:4]
    samples = [SimpleNamespace(values=one[None], weight=1) for one in apart]
    comparison = Comparison(0.9, None, (1.0, 1.0), 1.5)
    case: Any = SimpleNamespace(
        reference=[None], factor=1.5, samples=lambda *_: (samples, samples), compare=lambda *_: comparison
    )
    monkeypatch.setattr(ensemble_rows, "pools", lambda _: (apart[:1], apart[1:2]))
    for find in (torsions, joint_torsions):
        assert find(case).row("a", "b").verdict == "not measured"
