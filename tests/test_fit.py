"""Training runs on diatomic oscillators, whose jumps are known in closed form."""

from __future__ import annotations

import csv
import logging
import math
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.errors import ConfigError, DataError, MissingDependencyError, TrainingError
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.training import FitResult, TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors
from fastegnn_md.training.start import untrained_propagator

pytestmark = pytest.mark.usefixtures("_lightning")
MASSES, LAG = np.array([1.008, 15.999]), 0.008


@pytest.fixture(scope="session")
def _lightning(require: Any) -> None:
    require("lightning")


def write_oscillators(path: Path, *, bursts: int = 200, cell: bool = False, lag: float = LAG) -> Path:
    """Bursts of two frames of O-H on a spring of 2e5 amu/ps² (period 11 fs), 300 K, any orientation."""
    rng = np.random.default_rng(7)
    reduced, stiffness = MASSES.prod() / MASSES.sum(), 2e5
    omega = math.sqrt(stiffness / reduced)
    topology = Topology(numbers=np.array([1, 8]), masses=MASSES, bonds=np.array([[0, 1]]))
    provenance = {"made by": "a test"}
    with StoreWriter(
        path, topology, 2 * bursts, velocities=True, forces=True, cells=cell, kind="bursts", provenance=provenance
    ) as writer:
        share = np.array([[MASSES[1]], [-MASSES[0]]]) / MASSES.sum()
        for burst in range(bursts):
            axis = rng.standard_normal(3)
            axis /= np.linalg.norm(axis)
            a, b = rng.standard_normal(2) * math.sqrt(2494.3 / stiffness)
            for time in (0.0, lag):
                stretch = a * math.cos(omega * time) + b * math.sin(omega * time)
                speed = omega * (b * math.cos(omega * time) - a * math.sin(omega * time))
                writer.write(
                    share * (1.0 + stretch) * axis,
                    burst + time,
                    velocities=share * speed * axis,
                    forces=np.array([[-1.0], [1.0]]) * stiffness * stretch * axis,
                    cell=8.0 * np.eye(3) if cell else None,
                )
        writer.finish(lag, 2 * np.arange(bursts)[:, None] + [0, 2])
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrajectoryPairs, ...]:
    return load(write_oscillators(tmp_path_factory.mktemp("store") / "oscillators.h5md"))


def load(path: Path, lag: float = LAG, **options: Any) -> tuple[TrajectoryPairs, ...]:
    return TrajectoryPairs(path, lag=lag, progress=False, **options).split((0.6, 0.2, 0.2))


def settings(**changes: Any) -> TrainingConfig:
    propagator = {"hidden": 16, "layers": 1, **changes.pop("propagator", {})}
    values = {"updates": 12, "batch_size": 8, "validate_every": 5, "checkpoint_every": 4, "warmup": 5}
    return TrainingConfig.from_mapping(
        {**values, "accelerator": "cpu", "logger": "none", **changes, "propagator": propagator}
    )


def quick(parts: tuple[TrajectoryPairs, ...], output: Path | None = None, **changes: Any) -> FitResult:
    return fit(parts[0], parts[1], settings(**changes), output, progress=False)


def weights(propagator: Propagator) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in propagator.parameters()])


@pytest.fixture(scope="module")
def trained(parts: tuple[TrajectoryPairs, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, Path]:
    output = tmp_path_factory.mktemp("trained") / "model.safetensors"
    config = settings(updates=200, batch_size=32, validate_every=50, learning_rate=1e-2, logger="csv")
    return fit(parts[0], parts[1], config, output, progress=False), output


def test_a_short_run_beats_the_best_baseline_on_pairs_it_has_not_seen(
    trained: tuple[FitResult, Path], parts: tuple[TrajectoryPairs, ...]
) -> None:
    errors = one_step_errors(trained[0].propagator, parts[2])
    for name in ("zero motion", "free flight", "best linear"):
        assert errors["learned"].x < 0.3 * errors[name].x
        assert errors["learned"].v < 0.3 * errors[name].v


def test_the_metrics_are_those_of_the_exported_weights_on_the_validation_pairs(
    trained: tuple[FitResult, Path], parts: tuple[TrajectoryPairs, ...]
) -> None:
    result, output = trained
    loaded = Propagator.load(output)
    assert loaded.metrics == result.metrics
    assert loaded.fingerprint == parts[0].fingerprint
    assert torch.equal(weights(loaded), weights(result.propagator))
    errors = one_step_errors(loaded, parts[1])
    for name, error in errors.items():
        assert result.metrics["one_step"][name]["x"] == pytest.approx(error.x, rel=1e-5)
        assert result.metrics["one_step"][name]["v"] == pytest.approx(error.v, rel=1e-5)
    best = min(errors[name].x for name in ("zero motion", "free flight", "best linear"))
    assert result.metrics["over_best_baseline"]["x"] == pytest.approx(errors["learned"].x / best, rel=1e-5)


def test_the_history_has_a_row_per_validation_with_the_baselines_beside_the_errors(
    trained: tuple[FitResult, Path],
) -> None:
    result, output = trained
    assert result.history == output.with_suffix(".training") / "history.csv"
    with open(result.history, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["update"]) for row in rows] == [50, 100, 150, 200]
    for row in rows:
        for name, errors in result.metrics["one_step"].items():
            if name != "learned":
                assert float(row[f"x {name}"]) == errors["x"]
                assert float(row[f"v {name}"]) == errors["v"]
    best = rows[[int(row["update"]) for row in rows].index(result.metrics["best_update"])]
    assert float(best["x learned"]) == result.metrics["one_step"]["learned"]["x"]
    assert TrainingConfig.from_yaml(result.history.parent / "config.yaml").updates == 200


def test_the_table_names_every_predictor_and_the_learned_share(
    trained: tuple[FitResult, Path], parts: tuple[TrajectoryPairs, ...]
) -> None:
    errors = one_step_errors(trained[0].propagator, parts[1])
    lines = error_table(errors).splitlines()
    assert len(lines) == 1 + len(errors)
    for line, (name, error) in zip(lines[1:], errors.items(), strict=True):
        assert line.startswith(name)
        assert f"{error.x:.5g}" in line
        if name != "learned":
            assert f"{errors['learned'].x / error.x:.3f}" in line


def test_a_run_is_silent_and_leaves_the_process_as_it_was(
    parts: tuple[TrajectoryPairs, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    level, handler = logging.getLogger("lightning.pytorch").level, signal.getsignal(signal.SIGINT)
    filters = list(warnings.filters)
    quick(parts)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert logging.getLogger("lightning.pytorch").level == level
    assert signal.getsignal(signal.SIGINT) is handler
    assert list(warnings.filters) == filters
    assert torch.get_default_dtype() == torch.float32


def test_one_progress_bar_counts_updates_and_shows_the_error_over_the_baseline(
    parts: tuple[TrajectoryPairs, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    fit(parts[0], parts[1], settings(), progress=True)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("training: ")]
    assert "12 of 12 updates, 100 %" in lines[-1]
    assert "x/best baseline" in lines[-1]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(parts: tuple[TrajectoryPairs, ...]) -> None:
    first, second, other = (weights(quick(parts, seed=seed).propagator) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_without_averaging_the_export_is_the_last_of_the_weights(parts: tuple[TrajectoryPairs, ...]) -> None:
    plain, averaged = (weights(quick(parts, ema_decay=decay).propagator) for decay in (0.0, 0.99))
    assert not torch.equal(plain, averaged)


def test_training_stops_when_nothing_gets_better_and_says_after_how_many_updates(
    parts: tuple[TrajectoryPairs, ...],
) -> None:
    # a learning rate below the resolution of float32: every validation gives the same number
    result = quick(parts, updates=50, learning_rate=1e-30, patience=2)
    assert result.updates == 15
    assert result.metrics["best_update"] == 5
    assert result.metrics["updates"] == 15


def test_reading_ahead_in_other_processes_changes_nothing(parts: tuple[TrajectoryPairs, ...]) -> None:
    here, there = (weights(quick(parts, num_workers=number).propagator) for number in (0, 1))
    assert torch.equal(here, there)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"precision": "bf16-mixed"}, torch.float32),
        ({"precision": "64-true"}, torch.float64),
        ({"propagator": {"forces": True}}, torch.float32),
        ({"propagator": {"kind": "position"}}, torch.float32),
        ({"mmd_weight": 0.5, "mmd_samples": 1}, torch.float32),
        ({"gradient_clip": None}, torch.float32),
        ({"propagator": {"architecture": "egnn", "forces": True}}, torch.float32),
        (
            {"propagator": {"architecture": "eghn", "kind": "position"}, "connectivity_weight": 0.1},
            torch.float32,
        ),
    ],
    ids=["bf16", "float64", "forces", "position", "mmd", "no clipping", "egnn", "eghn"],
)
def test_modes_and_precisions_train_and_load_again(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    result = quick(parts, tmp_path / "model.safetensors", **changes)
    loaded = Propagator.load(tmp_path / "model.safetensors")
    assert loaded.dtype == dtype
    assert not torch.equal(weights(loaded), weights(untrained_propagator(parts[0], loaded.config, seed=0)))
    assert ("v" in result.metrics["over_best_baseline"]) == loaded.predicts_velocities


def test_the_mmd_reaches_the_virtual_nodes(parts: tuple[TrajectoryPairs, ...]) -> None:
    without, with_mmd = (weights(quick(parts, mmd_weight=weight).propagator) for weight in (0.0, 1.0))
    assert not torch.equal(without, with_mmd)


def test_the_mmd_of_a_periodic_system_is_refused(tmp_path: Path) -> None:
    boxed = load(write_oscillators(tmp_path / "box.h5md", bursts=20, cell=True))
    with pytest.raises(ConfigError, match="mmd_weight=0"):
        quick(boxed, mmd_weight=1.0)


def test_the_connectivity_loss_reaches_the_clusters_and_is_refused_without_them(
    parts: tuple[TrajectoryPairs, ...],
) -> None:
    pooling = {"propagator": {"architecture": "eghn", "kind": "position"}}
    without, with_loss = (
        weights(quick(parts, **pooling, connectivity_weight=weight).propagator) for weight in (0.0, 1.0)
    )
    assert not torch.equal(without, with_loss)
    with pytest.raises(ConfigError, match="connectivity_weight is for 'eghn', this is 'fastegnn'"):
        quick(parts, connectivity_weight=1.0)


def test_float16_on_the_cpu_is_refused(parts: tuple[TrajectoryPairs, ...]) -> None:
    with pytest.raises(ConfigError, match="bf16-mixed"):
        quick(parts, precision="16-mixed")


def test_tensorboard_events_are_written_beside_the_history(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path, require: Any
) -> None:
    require("tensorboard")
    result = quick(parts, tmp_path / "model.safetensors", logger="tensorboard")
    assert result.history is not None
    assert result.history.exists()
    assert list(result.history.parent.glob("tensorboard/events.*"))


def test_a_diverging_run_ends_with_the_update_and_the_learning_rate_and_keeps_the_last_checkpoint(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastegnn_md.training.module import PropagatorModule

    step = PropagatorModule.training_step

    def broken(self: PropagatorModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.progress.update == 6:
            with torch.no_grad():
                next(self.propagator.parameters()).fill_(math.nan)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PropagatorModule, "training_step", broken)
    with pytest.raises(TrainingError, match=r"nan at update 7 \(learning rate .*last checkpoint is kept"):
        quick(parts, tmp_path / "model.safetensors")
    monkeypatch.setattr(PropagatorModule, "training_step", step)
    resumed = fit(parts[0], parts[1], settings(), tmp_path / "model.safetensors", resume=True, progress=False)
    assert torch.equal(weights(resumed.propagator), weights(quick(parts).propagator))


def test_weights_that_are_not_finite_never_reach_a_checkpoint(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastegnn_md.training import folder
    from fastegnn_md.training.module import PropagatorModule

    written: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(folder, "write_checkpoint", lambda path, tensors, record: written.append(dict(tensors)))
    after = PropagatorModule.on_train_batch_end

    def broken(self: PropagatorModule, *arguments: Any) -> None:
        if self.progress.update == 7:
            next(self.propagator.parameters()).data.fill_(math.inf)
        after(self, *arguments)

    monkeypatch.setattr(PropagatorModule, "on_train_batch_end", broken)
    with pytest.raises(TrainingError, match="not finite after update 8"):
        quick(parts, tmp_path / "model.safetensors")
    assert len(written) == 1


def test_ctrl_c_reaches_the_caller(parts: tuple[TrajectoryPairs, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from fastegnn_md.training.module import PropagatorModule

    def interrupted(self: PropagatorModule, batch: Any, batch_idx: int) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(PropagatorModule, "training_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        quick(parts)
    assert signal.getsignal(signal.SIGINT) is handler


def test_sets_of_different_lag_are_refused(parts: tuple[TrajectoryPairs, ...], tmp_path: Path) -> None:
    slower = load(write_oscillators(tmp_path / "slow.h5md", bursts=20, lag=0.01), lag=0.01)
    with pytest.raises(DataError, match=r"8 fs.*10 fs"):
        fit(parts[0], slower[1], settings(), progress=False)


def test_an_empty_set_is_refused(parts: tuple[TrajectoryPairs, ...]) -> None:
    class Nothing(TrajectoryPairs):
        fingerprint = ""

        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="validation set has no pairs"):
        fit(parts[0], Nothing(), settings(), progress=False)


def test_a_model_file_of_another_ending_is_refused(parts: tuple[TrajectoryPairs, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        quick(parts, tmp_path / "model.pt")


def test_an_output_that_cannot_be_written_is_found_before_training(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="cannot write to"):
        quick(parts, tmp_path / "file" / "model.safetensors")


def test_without_lightning_the_extra_to_install_is_named(
    parts: tuple[TrajectoryPairs, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lightning"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("module", "runner", "history"):
        monkeypatch.delitem(sys.modules, f"fastegnn_md.training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(MissingDependencyError, match=r"fastegnn-md\[train\]"):
        quick(parts)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"batch_size": 9, "devices": 2}, "batch_size = 9 cannot be shared evenly by 2 devices; take a multiple of 2"),
        ({"validation_pairs": 1, "devices": 2}, "1 validation pairs cannot be shared by 2 devices"),
        ({"validation_pairs": 3, "num_nodes": 4}, "3 validation pairs cannot be shared by 4 devices"),
        ({"accelerator": "gpu", "devices": 64}, "cannot train with accelerator = 'gpu', devices = 64, num_nodes = 1"),
    ],
)
def test_what_devices_cannot_share_is_refused_before_there_are_more_processes(
    parts: tuple[TrajectoryPairs, ...], keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        quick(parts, **keys)


@pytest.mark.parametrize(
    ("keys", "parallel"),
    [
        ({}, False),
        ({"devices": "auto", "accelerator": "cpu"}, False),
        ({"devices": -1, "accelerator": "cpu"}, False),
        ({"strategy": "ddp"}, True),
        ({"devices": 2}, True),
        ({"num_nodes": 2}, True),
    ],
)
def test_a_strategy_is_chosen_where_none_is_named(keys: dict[str, Any], parallel: bool) -> None:
    from fastegnn_md.training.runner import strategy_of

    assert strategy_of(settings(**keys)) == ("ddp_find_unused_parameters_true" if parallel else "auto")


def test_the_process_that_writes_is_the_first_of_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastegnn_md.training.processes import is_main_process

    assert is_main_process(nodes=2)
    monkeypatch.setenv("NODE_RANK", "1")  # Lightning takes it for the first one until there is a Trainer
    assert not is_main_process(nodes=2)
    assert is_main_process(), "a run on one node is not part of another"
