"""The lag chosen from velocity autocorrelations: closed forms, limits of what frames show, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.cli import main
from fastegnn_md.data import LagSuggestion, StoreWriter, Topology, TrajectoryPairs, suggest_lag
from fastegnn_md.errors import DataError
from fastegnn_md.units import BOLTZMANN

MASSES = {1: 1.008, 6: 12.011, 8: 15.999}
THERMAL = BOLTZMANN * 300.0


def write(path: Path, numbers: Sequence[int], velocities: np.ndarray, dt: float, segment: int | None = None) -> Path:
    """A store of velocities (frames, N, 3) at fixed positions, in segments of some frames."""
    topology = Topology(numbers=np.array(numbers), masses=np.array([MASSES[number] for number in numbers]))
    frames, atoms = velocities.shape[:2]
    positions = 3.0 * np.arange(atoms)[:, None] * np.ones(3)
    options = {"velocities": True, "forces": False, "cells": False, "kind": "bursts", "provenance": {}}
    with StoreWriter(path, topology, frames, **options) as writer:
        for frame, v in enumerate(velocities):
            writer.write(positions, frame * dt, velocities=v)
        starts = np.arange(0, frames, segment or frames)
        writer.finish(dt, np.stack([starts, np.minimum(starts + (segment or frames), frames)], axis=1))
    return path


def vibrations(numbers: Sequence[int], periods: Sequence[float], dt: float, length: int, bursts: int) -> np.ndarray:
    """Thermal oscillators of one period for each atom, with phases drawn anew for every burst."""
    rng = np.random.default_rng(3)
    sigma = np.sqrt(THERMAL / np.array([MASSES[number] for number in numbers]))[:, None]
    a, b = sigma * rng.standard_normal((2, bursts, 1, len(numbers), 3))
    angle = 2 * np.pi * dt * np.arange(length)[:, None] / np.array(periods)
    c, s = np.cos(angle)[..., None], np.sin(angle)[..., None]
    return (a * c + b * s).reshape(bursts * length, len(numbers), 3)


def suggestion(path: Path, dt: float, **options: float) -> LagSuggestion:
    return suggest_lag(TrajectoryPairs(path, lag=dt, progress=False), **options)


def test_oscillators_have_cosines_and_half_of_the_shortest_period_is_the_limit(tmp_path: Path) -> None:
    numbers, periods, dt = [1, 8, 8], [0.011, 0.023, 0.023], 0.001
    found = suggestion(write(tmp_path / "a.h5md", numbers, vibrations(numbers, periods, dt, 24, 400), dt, 24), dt)
    assert [row.lag for row in found.rows] == pytest.approx([dt * k for k in range(1, 24)])
    for row in found.rows:
        # amplitudes are drawn: each C_v is a mean over 1,200 or 2,400 vibrations
        for element, period, count in (("H", 0.011, 1200), ("O", 0.023, 2400)):
            exact = math.cos(2 * math.pi * row.lag / period)
            assert row.correlation[element] == pytest.approx(exact, abs=4 / math.sqrt(count))
        assert row.free_flight == pytest.approx(
            row.lag * math.sqrt(sum(3 * THERMAL / MASSES[number] for number in numbers) / 3), rel=0.05
        )
    assert found.periods == pytest.approx({"H": 0.011, "O": 0.023}, rel=0.03)
    assert found.shortest_period == found.periods["H"]
    assert found.lag == pytest.approx(0.005)
    assert "of H, has a period of about 1" in found.reason


def test_what_a_linear_predictor_explains_is_weighted_by_kinetic_energy(tmp_path: Path) -> None:
    numbers, dt = [1, 8], 0.004
    velocities = vibrations(numbers, [0.016, 4.0], dt, 2, 500)  # H forgets all in a quarter of its period
    (row,) = suggestion(write(tmp_path / "a.h5md", numbers, velocities, dt, 2), dt).rows
    end = velocities[1::2]
    kinetic = [mass * np.square(end[:, atom]).sum() for atom, mass in enumerate((MASSES[1], MASSES[8]))]
    left = kinetic[0] * (1 - row.correlation["H"] ** 2) + kinetic[1] * (1 - row.correlation["O"] ** 2)
    assert row.explained == pytest.approx(1 - left / sum(kinetic), rel=1e-5)
    assert row.explained == pytest.approx(0.5, abs=0.05)


def test_langevin_velocities_decay_exponentially_and_the_limit_is_their_memory(tmp_path: Path) -> None:
    gamma, dt, frames, atoms = 5.0, 0.02, 2500, 20
    rng = np.random.default_rng(0)
    sigma, keep = math.sqrt(THERMAL / MASSES[6]), math.exp(-gamma * dt)
    v = np.empty((frames, atoms, 3))
    v[0] = sigma * rng.standard_normal((atoms, 3))
    for frame in range(1, frames):
        v[frame] = keep * v[frame - 1] + math.sqrt(1 - keep**2) * sigma * rng.standard_normal((atoms, 3))
    path = write(tmp_path / "a.h5md", [6] * atoms, v, dt)
    found = suggestion(path, dt, friction=gamma)
    independent = frames * dt * gamma / 2 * 3 * atoms  # samples a correlation time of v apart, 1/γ on both sides
    for row in found.rows:
        assert row.correlation["C"] == pytest.approx(math.exp(-gamma * row.lag), abs=4 / math.sqrt(independent))
        assert row.noise_floor == pytest.approx(math.sqrt(1 - math.exp(-2 * gamma * row.lag)))
    assert found.periods == {"C": None}
    # e^(-2γτ) = 0.05 at τ = 0.30 ps
    assert found.lag == pytest.approx(0.30, abs=0.021)
    assert "velocity of C is forgotten" in found.reason
    assert "harvest NVE bursts" in found.reason
    assert "harvest" not in suggestion(path, dt).reason


def test_short_bursts_are_enough(tmp_path: Path) -> None:
    numbers, dt = [1] * 4, 0.008
    found = suggestion(write(tmp_path / "a.h5md", numbers, vibrations(numbers, [0.028] * 4, dt, 5, 500), dt, 5), dt)
    assert len(found.rows) == 4
    assert found.shortest_period == pytest.approx(0.028, rel=0.1)
    assert found.lag == pytest.approx(0.008)


@pytest.mark.parametrize("period", [0.016, 0.022])
def test_frames_too_far_apart_to_tell_a_vibration_from_a_faster_one_give_no_lag(period: float, tmp_path: Path) -> None:
    numbers, dt = [1] * 4, 0.010
    found = suggestion(write(tmp_path / "a.h5md", numbers, vibrations(numbers, [period] * 4, dt, 8, 500), dt, 8), dt)
    assert found.lag is None
    assert found.shortest_period is None
    assert "10 fs apart are too far from each other to follow the velocity of H" in found.reason


def test_velocities_forgotten_within_a_frame_give_no_lag(tmp_path: Path) -> None:
    forgotten = np.random.default_rng(0).standard_normal((400, 4, 3)) * 15.0
    found = suggestion(write(tmp_path / "b.h5md", [1] * 4, forgotten, 1.0), 1.0)
    assert found.lag is None
    assert found.periods == {"H": None}
    assert "harvest bursts with a shorter interval" in found.reason


def test_several_stores_and_particles_at_rest(tmp_path: Path) -> None:
    dt = 0.001
    first = write(tmp_path / "a.h5md", [1, 6], vibrations([1, 6], [0.011, 0.04], dt, 12, 200), dt, 12)
    moving = vibrations([1, 8], [0.011, 0.04], dt, 30, 200)
    moving[:, 1] = 0.0
    second = write(tmp_path / "b.h5md", [1, 8], moving, dt, 30)
    found = suggest_lag(TrajectoryPairs([first, second], lag=dt, progress=False))
    assert len(found.rows) == 11
    assert list(found.rows[0].correlation) == ["H", "C", "O"]
    assert {row.correlation["O"] for row in found.rows} == {1.0}
    assert found.lag == pytest.approx(0.005)


def test_pairs_without_velocities_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5md", [1] * 2, vibrations([1] * 2, [0.01] * 2, 0.001, 8, 10), 0.001, 8)
    with pytest.raises(DataError, match="chosen from velocities, these pairs have none"):
        suggest_lag(TrajectoryPairs(path, lag=0.001, velocities="none", progress=False))


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(["suggest-lag", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


def test_the_command_prints_a_table_or_json(tmp_path: Path, command: Command) -> None:
    numbers, dt = [1, 8], 0.001
    path = write(tmp_path / "a.h5md", numbers, vibrations(numbers, [0.011, 0.023], dt, 20, 200), dt, 20)
    code, out, _ = command(path, "--friction", "1/ps")
    assert code == 0
    head, *rows, last = out.strip().splitlines()
    assert head.split()[:3] == ["lag/fs", "C_v", "H"]
    assert head.split()[-1] == "floor"
    assert [row.split()[0] for row in rows] == [str(k) for k in range(1, 20)]
    assert last.startswith("suggested lag: 5 fs; the fastest vibration, of H")
    code, out, _ = command(path, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["lag"] == pytest.approx(0.005)
    assert report["rows"][4]["lag"] == pytest.approx(0.005)
    assert report["rows"][4]["noise_floor"] is None


def test_the_command_reads_trajectories_and_says_what_positions_alone_lack(tmp_path: Path, command: Command) -> None:
    v = vibrations([1, 8], [0.011, 0.023], 0.001, 200, 1)
    universe = mda.Universe.empty(2, trajectory=True, velocities=True)
    universe.add_TopologyAttr("elements", ["H", "O"])
    universe.add_TopologyAttr("masses", [MASSES[1], MASSES[8]])
    for name, kept in (("with.trr", v), ("without.xtc", None)):
        positions = np.broadcast_to(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]), v.shape)
        universe.load_new(positions, dt=0.001, velocities=kept)
        universe.atoms.write(tmp_path / name, frames="all")
    (tmp_path / "oh.xyz").write_text("2\n\nH 0 0 0\nO 3 0 0\n")
    code, out, err = command(tmp_path / "oh.xyz", tmp_path / "with.trr")
    assert code == 0, err
    assert "suggested lag: 5 fs" in out
    code, _, err = command(tmp_path / "oh.xyz", tmp_path / "without.xtc")
    assert code == 2
    assert "has no velocities" in err
    assert "harvest short bursts" in err
