"""Training on successive jumps and on noisy starts, and fine-tuning, on oscillators known in closed form."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastegnn_md import Propagator
from fastegnn_md.data import Store, StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError
from fastegnn_md.training import FitResult, TrainingConfig, fit, residual_loss, virtual_node_mmd
from fastegnn_md.training.schedule import draw_generator
from fastegnn_md.training.unrolling import perturbed, unrolled_residuals

LAG = 0.002  # ps
MASSES = {1: 1.008, 8: 15.999, 9: 18.998}


def write_bursts(path: Path, lengths: list[int], other: int = 8, seed: int = 7, growing: bool = False) -> Path:
    """Bursts of H-O (or of H and another element) on a spring, period 11 fs; in a cell that grows if asked for."""
    rng = np.random.default_rng(seed)
    numbers = np.array([1, other])
    masses = np.array([MASSES[number] for number in numbers.tolist()])
    stiffness = 2e5
    omega = math.sqrt(stiffness * masses.sum() / masses.prod())
    share = np.array([[masses[1]], [-masses[0]]]) / masses.sum()
    topology = Topology(numbers=numbers, masses=masses, bonds=np.array([[0, 1]]))
    with StoreWriter(
        path, topology, sum(lengths), velocities=True, forces=True, cells=growing, kind="bursts", provenance={}
    ) as writer:
        for burst, length in enumerate(lengths):
            axis = rng.standard_normal(3)
            axis /= np.linalg.norm(axis)
            a, b = rng.standard_normal(2) * math.sqrt(2494.3 / stiffness)
            for frame in range(length):
                c, s = math.cos(omega * LAG * frame), math.sin(omega * LAG * frame)
                writer.write(
                    30.0 * growing + share * (1.0 + a * c + b * s) * axis,
                    burst + LAG * frame,
                    velocities=share * omega * (b * c - a * s) * axis,
                    forces=np.zeros((2, 3)),
                    cell=(8.0 + 0.01 * frame) * np.eye(3) if growing else None,
                )
        ends = np.cumsum(lengths)
        writer.finish(LAG, np.stack([ends - lengths, ends], axis=1))
    return path


def load(path: Path, **options: Any) -> TrajectoryPairs:
    return TrajectoryPairs(path, **({"lag": LAG, "progress": False} | options))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bursts(tmp_path_factory.mktemp("store") / "bursts.h5md", [5] * 60)


@pytest.fixture(scope="module")
def parts(store: Path) -> tuple[TrajectoryPairs, ...]:
    return load(store, time_reversal=True).split((0.6, 0.2, 0.2))


@pytest.fixture
def _lightning(require: Callable[[str], Any]) -> None:
    require("lightning")


needs_lightning = pytest.mark.usefixtures("_lightning")


def settings(**changes: Any) -> TrainingConfig:
    values = {"updates": 12, "batch_size": 8, "validate_every": 5, "checkpoint_every": 4, "warmup": 5}
    small = {"hidden": 8, "layers": 1}
    return TrainingConfig.from_mapping({**values, "accelerator": "cpu", "propagator": small, **changes})


def quick(parts: tuple[TrajectoryPairs, ...], output: Path | None = None, **changes: Any) -> FitResult:
    options = {name: changes.pop(name) for name in ("initial", "resume") if name in changes}
    return fit(parts[0], parts[1], settings(**changes), output, progress=False, **options)


def weights(propagator: Propagator) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in propagator.state_dict().values()])


def small_propagator(pairs: TrajectoryPairs, seed: int = 3, **options: Any) -> Propagator:
    config = settings(propagator={"hidden": 8, "layers": 2, **options}).propagator
    propagator = Propagator.from_pairs(pairs, config, seed=seed).double()
    for parameter in propagator.parameters():  # the last layers begin at zero
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    return propagator


# data ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_reversal", [False, True])
@pytest.mark.parametrize(("steps", "lag_frames"), [(1, 1), (2, 1), (4, 1), (2, 2)])
def test_a_run_is_frames_of_one_segment_a_lag_apart(
    steps: int, lag_frames: int, time_reversal: bool, tmp_path: Path
) -> None:
    lengths = [5, 2, 7, 4, 5]
    path = write_bursts(tmp_path / "bursts.h5md", lengths)
    runs = load(path, lag=lag_frames * LAG, time_reversal=time_reversal).sequences(steps)
    written, ends = Store(path), np.cumsum(lengths)
    starts = [
        [frame + k * lag_frames for k in range(steps + 1)]
        for length, end in zip(lengths, ends, strict=True)
        for frame in range(end - length, end - steps * lag_frames)
    ]
    expected = [(frames, 1) for frames in starts]
    if time_reversal:
        expected += [(frames[::-1], -1) for frames in starts]
    assert runs.steps == steps
    assert len(runs) == len(expected)
    batch = runs.batch(range(len(runs)))
    assert len(batch) == steps + 1
    for index, (frames, sign) in enumerate(expected):
        assert runs.frame_indices([index]).tolist() == [[0, *frames]]
        for state, frame in zip(batch, frames, strict=True):
            one = state.split()[index]
            np.testing.assert_array_equal(one.positions, written.positions[frame])
            np.testing.assert_array_equal(one.velocities, sign * written.velocities[frame])


@pytest.mark.parametrize("growing", [False, True])
def test_states_of_a_run_are_those_of_pairs_of_one_and_of_two_lags(growing: bool, tmp_path: Path) -> None:
    """Of several stores in one batch too, and where atoms lie cells away from home while the cell changes."""
    paths = [write_bursts(tmp_path / f"{other}.h5md", [5, 3, 4], other, growing=growing) for other in (8, 9)]
    pairs, far = load(paths), load(paths, lag=2 * LAG)  # type: ignore[arg-type]
    runs = pairs.sequences(2)
    assert len(runs) == len(far)
    order = np.random.default_rng(0).permutation(len(runs))
    start, middle, end = runs.batch(order)
    for one, two in zip((start, end), far.batch(order), strict=True):
        assert torch.equal(one.positions, two.positions)
        assert torch.equal(one.velocities, two.velocities)
        assert torch.equal(one.numbers, two.numbers)
    near = {tuple(row): index for index, row in enumerate(pairs.frame_indices(range(len(pairs)))[:, :2].tolist())}
    again = pairs.batch([near[tuple(row)] for row in runs.frame_indices(order)[:, :2].tolist()])[1]
    assert torch.equal(middle.positions, again.positions)


def test_parts_of_runs_keep_bursts_whole_and_runs_of_one_step_are_the_pairs(store: Path) -> None:
    pairs = load(store)
    assert pairs.sequences(1).fingerprint == pairs.fingerprint
    assert pairs.sequences(2).fingerprint != pairs.fingerprint
    parts = pairs.sequences(3).split((0.5, 0.5))
    assert [len(part) for part in parts] == [2 * 30, 2 * 30]


def test_runs_longer_than_every_burst_are_refused(store: Path) -> None:
    with pytest.raises(DataError, match=r"no run of 5 lags of 2 fs .* harvest longer bursts"):
        load(store).sequences(5)


# the map ------------------------------------------------------------------------------------------------------------


def test_errors_of_successive_jumps_are_those_of_the_propagator_applied_again(
    parts: tuple[TrajectoryPairs, ...],
) -> None:
    propagator = small_propagator(parts[0])
    start, *ends = (state.to(dtype=torch.float64) for state in parts[0].sequences(3).batch(range(6)))
    state = start
    for residual, end in zip(unrolled_residuals(propagator, start, ends), ends, strict=True):
        state = propagator(state)
        unit = propagator.residual_scale(end) / end.masses.sqrt()[:, None]
        torch.testing.assert_close(residual.x * unit[:, :1], state.positions - end.positions, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(residual.v * unit[:, 1:], state.velocities - end.velocities, rtol=1e-9, atol=1e-10)


def test_gradients_flow_through_all_jumps(parts: tuple[TrajectoryPairs, ...]) -> None:
    """Central differences along a random direction of the weights, of the loss of the last jump alone."""
    propagator = small_propagator(parts[0])
    start, *ends = (state.to(dtype=torch.float64) for state in parts[0].sequences(3).batch(range(4)))
    parameters = list(propagator.parameters())

    def last_loss() -> torch.Tensor:
        *_, residual = unrolled_residuals(propagator, start, ends)
        return residual_loss(residual)

    gradients = torch.autograd.grad(last_loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    values = []
    with torch.no_grad():
        for shift in (1e-6, -2e-6):
            for parameter, step in zip(parameters, direction, strict=True):
                parameter += shift * step
            values.append(float(last_loss()))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)
    # Without the earlier jumps the gradient is another one.
    states = [start, *ends]
    with torch.no_grad():
        for _ in range(2):
            states[0] = propagator(states[0])
    alone = residual_loss(propagator.residual(states[0], ends[-1]))
    cut = torch.autograd.grad(alone, parameters, allow_unused=True)
    cut_slope = sum(float((g * d).sum()) for g, d in zip(cut, direction, strict=True) if g is not None)
    assert abs(cut_slope - slope) > 1e-2 * abs(slope)


@pytest.mark.parametrize("mode", ["full", "position"])
def test_noise_has_the_size_of_the_residual_scale_and_leaves_the_centre_of_mass(
    mode: str, parts: tuple[TrajectoryPairs, ...]
) -> None:
    propagator = small_propagator(parts[0], mode=mode)
    count = len(parts[0])
    start = parts[0].batch(range(count))[0].to(dtype=torch.float64)
    positions, velocities = start.positions.clone(), start.velocities.clone()
    noisy = perturbed(propagator, start, 0.1, torch.Generator().manual_seed(1))
    assert torch.equal(start.positions, positions)
    assert torch.equal(start.velocities, velocities)
    scale = propagator.residual_scale(start)
    share = start.masses.reshape(-1, 2).flip(1).flatten() / 17.007  # of the other atom in the mass of both
    for kind, shift in enumerate((noisy.positions - positions, noisy.velocities - velocities)):
        if mode == "position" and kind == 1:
            assert not shift.any()
            continue
        momentum = (start.masses[:, None] * shift).reshape(-1, 2, 3).sum(1)
        assert momentum.abs().max() < 1e-9
        # Without the motion of the centre both atoms have the noise of their relative coordinate.
        sigma = 0.1 * scale[:, kind] / start.masses.sqrt()
        relative = sigma.square().reshape(-1, 2).sum(1).repeat_interleave(2).sqrt() * share
        ratio = (shift / relative[:, None]).reshape(-1, 2, 3)[:, 0]
        n = 3 * count
        assert ratio.square().mean().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / n))
    assert torch.equal(perturbed(propagator, start, 0.1, torch.Generator().manual_seed(1)).positions, noisy.positions)


# training -----------------------------------------------------------------------------------------------------------


@needs_lightning
@pytest.mark.parametrize("mmd_weight", [0.0, 0.1])
def test_one_jump_without_noise_gives_the_loss_of_pairs_bit_for_bit(
    mmd_weight: float, parts: tuple[TrajectoryPairs, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastegnn_md.training.module import PropagatorModule

    step, compared = PropagatorModule.training_step, []

    def comparing(self: PropagatorModule, batch: Any, batch_idx: int) -> torch.Tensor:
        (end,) = batch.ends
        residual = self.propagator.residual(batch.start, end)
        loss = residual_loss(residual, 0.7)
        if mmd_weight:
            generator = draw_generator(0, self.progress.update, 0)
            drawn = virtual_node_mmd(end.positions, end.batch, residual.z, sigma=1.5, samples=1, generator=generator)
            loss = loss + mmd_weight * drawn
        found = step(self, batch, batch_idx)
        compared.append(torch.equal(found, loss))
        return found

    monkeypatch.setattr(PropagatorModule, "training_step", comparing)
    quick(parts, mmd_weight=mmd_weight, mmd_samples=1, velocity_weight=0.7)
    assert compared == [True] * 12


class Stop(Exception):
    """Stands for whatever ends a process."""


@needs_lightning
def test_a_run_with_several_jumps_and_noise_continues_to_the_same_files(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastegnn_md.training.module import PropagatorModule

    keys = {"unroll": 3, "noise": 0.05, "mmd_weight": 0.1, "mmd_samples": 1}
    initial = quick(parts, tmp_path / "initial.safetensors").propagator
    whole, halves = tmp_path / "whole.safetensors", tmp_path / "halves.safetensors"
    quick(parts, whole, initial=initial, **keys)
    step = PropagatorModule.training_step

    def stopping(self: PropagatorModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.progress.update == 7:
            raise Stop
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PropagatorModule, "training_step", stopping)
    with pytest.raises(Stop):
        quick(parts, halves, initial=initial, **keys)
    monkeypatch.setattr(PropagatorModule, "training_step", step)
    with pytest.raises(ConfigError, match=r"noise was 0\.05, is now 0\.1"):
        quick(parts, halves, initial=initial, resume=True, **{**keys, "noise": 0.1})
    with pytest.raises(ConfigError, match=r"initial weights was '.*', is now None"):
        quick(parts, halves, resume=True, **keys)
    quick(parts, halves, initial=Propagator.load(tmp_path / "initial.safetensors"), resume=True, **keys)
    assert halves.read_bytes() == whole.read_bytes()
    for name in ("checkpoint.safetensors", "history.csv", "config.yaml"):
        left, right = (path.with_suffix(".training") / name for path in (halves, whole))
        assert left.read_bytes() == right.read_bytes(), name


@needs_lightning
def test_the_error_after_several_jumps_stands_beside_that_of_one(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path
) -> None:
    result = quick(parts, tmp_path / "model.safetensors", unroll=3, updates=5)
    start, *ends = parts[1].sequences(3).batch(range(len(parts[1].sequences(3))))
    state = start
    for _ in ends:
        state = result.propagator(state)
    root = start.masses.sqrt()[:, None]
    rms = {
        "x": float((root * (state.positions - ends[-1].positions)).square().mean().sqrt()),
        "v": float((root * (state.velocities - ends[-1].velocities)).square().mean().sqrt()),
    }
    assert result.metrics["unrolled"] == {"jumps": 3, "learned": pytest.approx(rms, rel=1e-3)}
    assert result.history is not None
    with open(result.history, newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["v learned, 3 jumps"]) == pytest.approx(rms["v"], rel=1e-3)
    assert float(row["v learned"]) == result.metrics["one_step"]["learned"]["v"]
    assert "unrolled" not in quick(parts, updates=1).metrics


@needs_lightning
def test_training_on_four_jumps_lowers_the_error_after_four_jumps(parts: tuple[TrajectoryPairs, ...]) -> None:
    keys = {"batch_size": 32, "learning_rate": 1e-2, "validate_every": 100}
    first = quick(parts, updates=30, **keys).propagator
    runs = parts[2].sequences(4)
    start, *ends = runs.batch(range(len(runs)))

    def error(propagator: Propagator) -> float:
        with torch.no_grad():
            *_, residual = unrolled_residuals(propagator, start, ends)
        return float(residual_loss(residual))

    tuned = quick(parts, updates=60, unroll=4, initial=first, **keys).propagator
    assert error(tuned) < 0.3 * error(first)


@pytest.mark.parametrize("changes", [{"unroll": 2}, {"noise": 0.1}])
def test_force_informed_propagators_take_neither(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"unroll > 1 and noise are for force-free propagators"):
        settings(propagator={"forces": True}, **changes)


@pytest.mark.parametrize("changes", [{"unroll": 0}, {"noise": -0.1}])
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="greater than or equal to"):
        settings(**changes)


@needs_lightning
def test_more_jumps_than_bursts_have_are_refused_before_anything_is_written(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no run of 5 lags"):
        quick(parts, tmp_path / "model.safetensors", unroll=5)
    assert not list(tmp_path.iterdir())


# fine-tuning --------------------------------------------------------------------------------------------------------


@needs_lightning
def test_fine_tuning_begins_at_the_weights_and_scales_of_the_model(parts: tuple[TrajectoryPairs, ...]) -> None:
    first = quick(parts).propagator
    before = weights(first)
    second = quick(parts[1:], initial=first, updates=1, learning_rate=1e-30).propagator
    assert torch.equal(weights(second), before)
    assert second.domain == first.domain
    assert second.fingerprint == parts[1].fingerprint
    third = quick(parts, initial=first, seed=5).propagator
    assert not torch.equal(weights(third), before)
    assert torch.equal(weights(first), before)
    assert quick(parts, initial=first, updates=1, precision="64-true").propagator.dtype == torch.float64
    assert first.dtype == torch.float32


@needs_lightning
def test_a_model_that_does_not_fit_the_pairs_or_the_settings_is_refused(
    parts: tuple[TrajectoryPairs, ...], store: Path, tmp_path: Path
) -> None:
    first = quick(parts, updates=1).propagator
    with pytest.raises(ConfigError, match=r"hidden is 8, not 12; give propagator=initial\.config"):
        quick(parts, initial=first, propagator={"hidden": 12, "layers": 1})
    with pytest.raises(CompatibilityError, match=r"time step of 2 fs, the pairs are 4 fs apart"):
        quick(load(store, lag=2 * LAG).split((0.5, 0.3, 0.2)), initial=first)
    fluoride = load(write_bursts(tmp_path / "fluoride.h5md", [5] * 20, 9))
    with pytest.raises(CompatibilityError, match="atom 1 has atomic number 9"):
        quick(fluoride.split((0.5, 0.3, 0.2)), initial=first)


TWO_PROCESSES = """
import sys
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.training import TrainingConfig, fit

pairs = TrajectoryPairs(sys.argv[1], lag=0.002, time_reversal=True, progress=False)
train, validation, _ = pairs.split((0.6, 0.2, 0.2))
fit(train, validation, TrainingConfig.from_yaml(sys.argv[2]), sys.argv[3], progress=False)
"""


@pytest.mark.slow
@needs_lightning
def test_two_processes_share_runs_and_give_the_weights_of_one(
    parts: tuple[TrajectoryPairs, ...], store: Path, tmp_path: Path
) -> None:
    keys = {"unroll": 2, "precision": "64-true", "updates": 6}
    settings(devices=2, **keys).to_yaml(tmp_path / "train.yaml")
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "script.py", str(store), "train.yaml", "two.safetensors"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    together, alone = Propagator.load(tmp_path / "two.safetensors"), quick(parts, **keys)
    torch.testing.assert_close(weights(together), weights(alone.propagator), rtol=1e-9, atol=1e-12)
    assert together.metrics["unrolled"]["learned"] == pytest.approx(alone.metrics["unrolled"]["learned"], rel=1e-9)
