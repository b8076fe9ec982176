"""The lag of drawn jumps: processes of known time scale, transitions that are counted, what is refused, the command."""

from __future__ import annotations

import json
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.cli import main
from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs, read_topology, suggest_flow_lag
from fastegnn_md.data.flow_lag import transitions_note
from fastegnn_md.data.internal import InternalCoordinates, fit_components
from fastegnn_md.errors import DataError

FAST, SLOW = 3.0, 40.0  # ps, of the two distances


@pytest.fixture(autouse=True)
def deeptime(require) -> None:
    require("deeptime")


def wander(frames: int, timescale: float, dt: float, rng: np.random.Generator) -> np.ndarray:
    """An Ornstein-Uhlenbeck process of variance 1, exact at its times."""
    keep = np.exp(-dt / timescale)
    kick = np.sqrt(1 - keep**2) * rng.standard_normal(frames)
    x = np.empty(frames)
    x[0] = rng.standard_normal()
    for k in range(1, frames):
        x[k] = keep * x[k - 1] + kick[k]
    return x


def in_a_row(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Three atoms with these distances, turned and shifted at random: (frames, 3, 3)."""
    x = np.zeros((len(first), 3, 3))
    x[:, 1, 0], x[:, 2, 0] = first, first + second
    rng = np.random.default_rng(9)
    turned, _ = np.linalg.qr(rng.standard_normal((len(x), 3, 3)))
    return x @ turned + rng.standard_normal((len(x), 1, 3))


def pairs_of(path: Path, runs: list[np.ndarray], dt: float, cell: float | None = None) -> TrajectoryPairs:
    topology = Topology(numbers=np.array([6, 6, 8]), masses=np.array([12.011, 12.011, 15.999]))
    frames = sum(map(len, runs))
    options = {"velocities": False, "forces": False, "cells": cell is not None, "kind": "trajectory", "provenance": {}}
    with StoreWriter(path, topology, frames, **options) as writer:
        for k, x in enumerate(np.concatenate(runs)):
            writer.write(x, k * dt, cell=None if cell is None else cell * np.eye(3))
        ends = np.cumsum([len(run) for run in runs])
        writer.finish(dt, np.stack([ends - [len(run) for run in runs], ends], axis=1))
    return TrajectoryPairs(path, lag=dt, velocities="none", progress=False)


def test_time_scales_of_independent_distances_are_found_with_their_intervals(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    runs = [
        in_a_row(4 + 0.2 * wander(20_000, SLOW, 1.0, rng), 4 + 0.2 * wander(20_000, FAST, 1.0, rng)) for _ in range(2)
    ]
    found = suggest_flow_lag(pairs_of(tmp_path / "a.h5md", runs, 1.0))
    for process, exact in zip(found.processes, (SLOW, FAST), strict=False):
        assert process.timescale == pytest.approx(exact, rel=0.15)
        assert process.interval[0] < exact < process.interval[1]
        assert process.interval[1] / process.interval[0] < 1.6
    assert found.memory < 0  # displacements of an overdamped coordinate come back
    assert found.length == pytest.approx(39_998)
    assert found.lag == pytest.approx(found.processes[0].timescale / 5, rel=0.2)
    assert found.lag <= found.processes[0].timescale / 5
    assert found.enough
    assert "learned as kinetics" in found.reason
    assert "enough to train on" in found.reason


def test_transitions_are_counted_run_by_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    runs, expected = [], 0
    for start in (0, 1):  # a step between two runs is no transition
        state = (start + np.cumsum(rng.random(3000) < 1 / 400)) % 2
        expected += int(np.count_nonzero(np.diff(state)))
        runs.append(in_a_row(4 + state + 0.1 * rng.standard_normal(3000), 4 + 0.1 * rng.standard_normal(3000)))
    found = suggest_flow_lag(pairs_of(tmp_path / "a.h5md", runs, 2.0))
    assert found.transitions == expected
    assert not found.enough
    assert f"{expected} transitions in 12 ns are too few" in found.reason
    assert "simulate until there are 100" in found.reason


def test_training_says_when_transitions_are_too_few_to_learn_from(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(5)

    def switching(name: str, share: float) -> tuple[TrajectoryPairs, int]:
        state = np.cumsum(rng.random(3000) < share) % 2
        run = in_a_row(4 + state + 0.1 * rng.standard_normal(3000), 4 + 0.1 * rng.standard_normal(3000))
        return pairs_of(tmp_path / name, [run], 2.0), int(np.count_nonzero(np.diff(state)))

    often, times = switching("often.h5md", 1 / 12)
    assert times > 100
    assert transitions_note(often) == ""
    seldom, times = switching("seldom.h5md", 1 / 300)
    told = f"{times} transitions in 6 ns, too few"
    assert told in transitions_note(seldom)
    short = [in_a_row(*(4 + 0.1 * rng.standard_normal((2, 30))))]
    assert transitions_note(pairs_of(tmp_path / "short.h5md", short, 2.0)) == ""  # cannot be told
    settings = [f"--set=propagator.{one}" for one in ("hidden=8", "layers=1", "radial_functions=4", "virtual_nodes=1")]
    settings += ["--set=updates=2", "--set=validate_every=2", "-o", str(tmp_path / "flow.safetensors")]
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "seldom.h5md"), "--kind", "flow", "--lag", "2 ps", *settings])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert told in said.err


def test_a_molecule_that_does_not_move_has_no_slow_process(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path / "rigid.h5md", [in_a_row(*np.full((2, 300), 4.0))], 2.0)
    assert transitions_note(pairs) == ""
    with pytest.raises(DataError, match="the same in all frames"):
        fit_components([np.ones((300, 2))], 1)


def test_a_slow_process_shorter_than_five_frames_is_named_an_equilibrium_draw(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    runs = [in_a_row(4 + 0.2 * wander(20_000, 8.0, 5.0, rng), 4 + 0.2 * wander(20_000, FAST, 5.0, rng))]
    found = suggest_flow_lag(pairs_of(tmp_path / "a.h5md", runs, 5.0))
    assert found.lag == 5.0
    assert found.processes[0].timescale == pytest.approx(8.0, rel=0.1)
    assert "even this lag comes near an equilibrium draw" in found.reason


@pytest.mark.parametrize(("dt", "smooth"), [(0.002, False), (1.0, True)])
def test_frames_that_follow_velocities_get_no_drawn_jumps(dt: float, smooth: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    first, second = (wander(4000, 500.0, 1.0, rng) for _ in range(2))
    if smooth:
        first, second = (np.convolve(one, np.ones(30) / 30, mode="same") for one in (first, second))
    found = suggest_flow_lag(pairs_of(tmp_path / "a.h5md", [in_a_row(5 + 0.5 * first, 5 + 0.5 * second)], dt))
    assert found.lag is None
    assert "follow the velocities" in found.reason


def test_atoms_that_fill_their_box_are_refused_and_a_solute_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    runs = [in_a_row(4 + 0.2 * wander(3000, 20.0, 1.0, rng), 4 + 0.2 * wander(3000, FAST, 1.0, rng))]
    with pytest.raises(DataError, match=r"the 3 atoms fill their periodic box.*without its solvent"):
        suggest_flow_lag(pairs_of(tmp_path / "a.h5md", runs, 1.0, cell=4.0))
    assert suggest_flow_lag(pairs_of(tmp_path / "b.h5md", runs, 1.0, cell=40.0)).lag is not None


def test_few_frames_and_two_molecules_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    few = in_a_row(4 + 0.2 * rng.standard_normal(30), 4 + 0.2 * rng.standard_normal(30))
    with pytest.raises(DataError, match="30 frames, too few"):
        suggest_flow_lag(pairs_of(tmp_path / "a.h5md", [few], 1.0))


def test_torsions_leave_methyl_out_and_find_the_backbone() -> None:
    universe = mda.Universe.empty(10, trajectory=True)  # butane without eight of its hydrogens: methyls of 2 H
    universe.add_TopologyAttr("elements", list("CCCCHHHHHH"))
    universe.add_TopologyAttr("masses", [12.011] * 4 + [1.008] * 6)
    universe.add_TopologyAttr("bonds", [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (3, 6), (3, 7), (1, 8), (2, 9)])
    coordinates = InternalCoordinates(read_topology(universe.atoms))
    assert coordinates.quadruples.tolist() == [[0, 1, 2, 3]]
    x = np.zeros((1, 10, 3))
    x[0, :4] = [[1, 1, 0], [0, 0, 0], [0, 0, 1.5], [1, 1, 2]]
    assert coordinates.angles(x) == pytest.approx(0.0, abs=1e-5)
    assert coordinates(x).shape == (1, 2 + 6)


@pytest.mark.slow
def test_the_command_on_a_real_trajectory(require, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require("openmm")
    import openmm
    from openmm import app, unit

    pdb = app.PDBFile(str(Path(__file__).parents[1] / "fastegnn_md" / "assets" / "ala2.pdb"))
    system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(pdb.topology, constraints=app.HBonds)
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.004)
    integrator.setRandomNumberSeed(1)  # few nanoseconds are as unlucky as to have no transition
    simulation = app.Simulation(pdb.topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    with open(tmp_path / "topology.pdb", "w") as file:
        app.PDBFile.writeFile(pdb.topology, pdb.positions, file)
    simulation.reporters.append(app.DCDReporter(str(tmp_path / "md.dcd"), 250))
    simulation.step(250 * 1000)
    simulation.reporters.clear()
    with pytest.raises(SystemExit) as ended:
        main(["suggest-lag", str(tmp_path / "topology.pdb"), str(tmp_path / "md.dcd"), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["flow"]
    assert found["frame_distance"] == pytest.approx(1.0, rel=1e-3)
    # 20 ps in 20 ns of the same system; a nanosecond has some tens of transitions
    assert 8 < found["processes"][0]["timescale"] < 60
    assert 5 < found["transitions"] < 100
    assert not found["enough"]
    assert 1.0 <= found["lag"] <= 12.0
