"""Training killed at any moment continues to the weights of an uninterrupted run; broken files are refused."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.errors import CheckpointError, ConfigError, TrainingError
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.training import FitResult, TrainingConfig, fit
from fastegnn_md.training.checkpoints import FORMAT, read_checkpoint
from fastegnn_md.training.start import untrained_propagator

pytestmark = pytest.mark.usefixtures("_lightning")
MASSES, LAG = np.array([1.008, 15.999]), 0.008
KEYS = {
    "updates": 30,
    "batch_size": 8,
    "validate_every": 7,
    "checkpoint_every": 4,
    "warmup": 5,
    "accelerator": "cpu",
    "mmd_weight": 0.1,
    "mmd_samples": 1,
    "propagator": {"hidden": 8, "layers": 1},
}


@pytest.fixture(scope="session")
def _lightning(require: Any) -> None:
    require("lightning")


def write_oscillators(path: Path, seed: int = 7) -> Path:
    """Bursts of two frames of O-H on a spring, on the x axis."""
    rng = np.random.default_rng(seed)
    omega, bursts = 460.0, 100
    topology = Topology(numbers=np.array([1, 8]), masses=MASSES, bonds=np.array([[0, 1]]))
    options: dict[str, Any] = {"velocities": True, "forces": False, "cells": False, "kind": "bursts", "provenance": {}}
    with StoreWriter(path, topology, 2 * bursts, **options) as writer:
        share = np.array([[MASSES[1]], [-MASSES[0]]]) / MASSES.sum() * np.array([1.0, 0.0, 0.0])
        for burst in range(bursts):
            a, b = 0.1 * rng.standard_normal(2)
            for t in (0.0, LAG):
                c, s = math.cos(omega * t), math.sin(omega * t)
                writer.write(share * (1 + a * c + b * s), burst + t, velocities=share * omega * (b * c - a * s))
        writer.finish(LAG, 2 * np.arange(bursts)[:, None] + [0, 2])
    return path


def load(path: Path) -> tuple[TrajectoryPairs, ...]:
    return TrajectoryPairs(path, lag=LAG, progress=False).split((0.6, 0.2, 0.2))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_oscillators(tmp_path_factory.mktemp("store") / "oscillators.h5md")


@pytest.fixture(scope="module")
def parts(store: Path) -> tuple[TrajectoryPairs, ...]:
    return load(store)


def train(parts: tuple[TrajectoryPairs, ...], output: Path, resume: bool = False, **changes: Any) -> FitResult:
    config = TrainingConfig.from_mapping({**KEYS, **changes})
    return fit(parts[0], parts[1], config, output, resume=resume, progress=False)


@pytest.fixture(scope="module")
def uninterrupted(parts: tuple[TrajectoryPairs, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted") / "model.safetensors"
    train(parts, output)
    return output


def assert_same_run(output: Path, uninterrupted: Path) -> None:
    """Same exported file, same checkpoint, same history, byte for byte."""
    assert output.read_bytes() == uninterrupted.read_bytes()
    for name in ("checkpoint.safetensors", "history.csv", "config.yaml"):
        left, right = (path.with_suffix(".training") / name for path in (output, uninterrupted))
        assert left.read_bytes() == right.read_bytes(), name


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from fastegnn_md.training.module import PropagatorModule

    step = PropagatorModule.training_step

    def stop_at(update: int | None) -> None:
        def stopping(self: PropagatorModule, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.progress.update == update:
                raise Stop
            return step(self, batch, batch_idx)

        monkeypatch.setattr(PropagatorModule, "training_step", stopping)

    return stop_at


@pytest.fixture
def stopped(parts: tuple[TrajectoryPairs, ...], tmp_path: Path, stop_at: Any) -> Path:
    """A run that ended at update 14, with a checkpoint of update 12."""
    output = tmp_path / "model.safetensors"
    stop_at(14)
    with pytest.raises(Stop):
        train(parts, output)
    stop_at(None)
    return output


def checkpoint_of(output: Path) -> Path:
    return output.with_suffix(".training") / "checkpoint.safetensors"


# 3: before the first checkpoint; 8: on a checkpoint; 14: on a validation; 28: on both; 29: at the last update
@pytest.mark.parametrize("moments", [[3], [8], [14], [28], [29], [5, 13, 13, 22]], ids=str)
def test_a_run_stopped_anywhere_continues_to_the_same_files(
    moments: list[int], parts: tuple[TrajectoryPairs, ...], uninterrupted: Path, tmp_path: Path, stop_at: Any
) -> None:
    output = tmp_path / "model.safetensors"
    for moment in moments:
        stop_at(moment)
        with pytest.raises(Stop):
            train(parts, output, resume=True)
        assert not output.exists() or Propagator.load(output).metrics["unfinished"]
    stop_at(None)
    train(parts, output, resume=True)
    assert_same_run(output, uninterrupted)


def test_float64_weights_and_early_stopping_continue_too(
    parts: tuple[TrajectoryPairs, ...], tmp_path: Path, stop_at: Any
) -> None:
    keys: dict[str, Any] = {"precision": "64-true", "patience": 1, "learning_rate": 1e-30, "ema_decay": 0.0}
    keys["validate_every"] = 10
    whole = train(parts, tmp_path / "whole.safetensors", **keys)
    assert whole.updates == 20
    stop_at(14)
    with pytest.raises(Stop):
        train(parts, tmp_path / "model.safetensors", **keys)
    stop_at(None)
    assert train(parts, tmp_path / "model.safetensors", resume=True, **keys).updates == 20
    assert_same_run(tmp_path / "model.safetensors", tmp_path / "whole.safetensors")


SCRIPT = """
import json, os, signal, sys
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.training import TrainingConfig, fit

store, output, config, fatal_write = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
train, validation, _ = TrajectoryPairs(store, lag=0.008, progress=False).split((0.6, 0.2, 0.2))
if fatal_write:
    synchronise, calls = os.fsync, []
    def killed(handle):  # all bytes are written, the new file has not yet taken the place of the old one
        if "checkpoint" in os.readlink(f"/proc/self/fd/{handle}"):
            calls.append(handle)
        if len(calls) == fatal_write:
            os.kill(os.getpid(), signal.SIGKILL)
        synchronise(handle)
    os.fsync = killed
fit(train, validation, TrainingConfig.from_mapping(config), output, progress=False)
"""


def start(store: Path, output: Path, fatal_write: int = 0) -> subprocess.Popen[bytes]:
    # the number of threads decides the order of sums
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    arguments = [str(store), str(output), json.dumps(KEYS), str(fatal_write)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], env=environment)


@pytest.mark.slow
def test_a_process_killed_at_a_random_moment_leaves_what_gives_the_same_files(
    store: Path, parts: tuple[TrajectoryPairs, ...], uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.safetensors"
    process = start(store, output)
    deadline = time.monotonic() + 120
    while not checkpoint_of(output).exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(random.SystemRandom().uniform(0, 0.4))
    process.kill()
    assert process.wait() in (0, -signal.SIGKILL)
    train(parts, output, resume=True)
    assert_same_run(output, uninterrupted)


@pytest.mark.slow
def test_a_process_killed_while_it_writes_a_checkpoint_leaves_the_one_before(
    store: Path, parts: tuple[TrajectoryPairs, ...], uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.safetensors"
    assert start(store, output, fatal_write=4).wait(timeout=120) == -signal.SIGKILL
    assert read_checkpoint(checkpoint_of(output))[1]["progress"]["update"] == 12
    assert len(list(output.with_suffix(".training").glob(".checkpoint*"))) == 1
    train(parts, output, resume=True)
    assert_same_run(output, uninterrupted)
    assert not list(output.with_suffix(".training").glob(".checkpoint*"))


def test_a_full_disk_ends_the_run_and_the_previous_checkpoint_survives(
    stopped: Path, parts: tuple[TrajectoryPairs, ...], uninterrupted: Path
) -> None:
    before = checkpoint_of(stopped).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot write the checkpoint .*previous checkpoint is untouched"):
            train(parts, stopped, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint_of(stopped).read_bytes() == before
    train(parts, stopped, resume=True)
    assert_same_run(stopped, uninterrupted)


def test_a_model_that_cannot_be_exported_is_exported_by_the_next_call(
    parts: tuple[TrajectoryPairs, ...], uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "model.safetensors"
    shutil.copytree(uninterrupted.with_suffix(".training"), output.with_suffix(".training"))
    output.mkdir()
    with pytest.raises(TrainingError, match="make room and resume"):
        train(parts, output, resume=True)
    output.rmdir()
    assert train(parts, output, resume=True).updates == 30
    assert_same_run(output, uninterrupted)


def test_an_unfinished_run_is_not_overwritten_without_being_asked(
    stopped: Path, parts: tuple[TrajectoryPairs, ...]
) -> None:
    before = checkpoint_of(stopped).read_bytes()
    with pytest.raises(ConfigError, match="unfinished run \\(update 12 of 30\\)"):
        train(parts, stopped)
    assert checkpoint_of(stopped).read_bytes() == before


def test_a_finished_run_is_replaced(parts: tuple[TrajectoryPairs, ...], uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    shutil.copytree(uninterrupted.with_suffix(".training"), output.with_suffix(".training"))
    assert train(parts, output, updates=7).updates == 7
    assert len((output.with_suffix(".training") / "history.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-3}, r"learning_rate was 0\.004, is now 0\.001"),
        ({"propagator": {"hidden": 12, "layers": 1}}, "propagator.hidden was 8, is now 12"),
        ({"updates": 60}, r"updates was 30, is now 60 \(the learning rate falls along"),
        ({"seed": 3, "batch_size": 4}, "batch_size was 8, is now 4; seed was 0, is now 3"),
    ],
)
def test_other_settings_are_refused_and_named(
    stopped: Path, parts: tuple[TrajectoryPairs, ...], changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        train(parts, stopped, resume=True, **changes)


def test_settings_that_do_not_touch_the_weights_may_change(
    stopped: Path, parts: tuple[TrajectoryPairs, ...], uninterrupted: Path
) -> None:
    train(parts, stopped, resume=True, checkpoint_every=11, logger="none")
    assert stopped.read_bytes() == uninterrupted.read_bytes()


def test_other_data_are_refused(stopped: Path, tmp_path: Path) -> None:
    others = load(write_oscillators(tmp_path / "others.h5md", seed=8))
    with pytest.raises(ConfigError, match=r"training data\.fingerprint was"):
        train(others, stopped, resume=True)


def rewrite(path: Path, change: Any) -> None:
    tensors, record = read_checkpoint(path)
    change(tensors, record)
    save_file(tensors, path, {"fastegnn_md": json.dumps(record)})


def test_a_run_begun_before_there_was_a_setting_had_its_default(
    stopped: Path, parts: tuple[TrajectoryPairs, ...], uninterrupted: Path
) -> None:
    def forget(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        del record["identity"]["noise"], record["identity"]["propagator"]["virtual_nodes"]

    rewrite(checkpoint_of(stopped), forget)
    with pytest.raises(ConfigError, match=r"noise was 0\.0, is now 0\.1"):
        train(parts, stopped, resume=True, noise=0.1)
    train(parts, stopped, resume=True)
    assert stopped.read_bytes() == uninterrupted.read_bytes()


def test_a_run_that_named_a_strategy_before_it_meant_anything_continues(
    stopped: Path, parts: tuple[TrajectoryPairs, ...], uninterrupted: Path
) -> None:
    def earlier(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        record["identity"]["strategy"] = "ddp"
        del record["identity"]["num_nodes"]

    rewrite(checkpoint_of(stopped), earlier)
    with pytest.raises(ConfigError, match="num_nodes was 1, is now 2"):
        train(parts, stopped, resume=True, num_nodes=2)
    train(parts, stopped, resume=True)
    assert stopped.read_bytes() == uninterrupted.read_bytes()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("a checkpoint of something else\n" * 50)


def plain_tensors(path: Path) -> None:
    save_file(load_file(path), path)


def newer(path: Path) -> None:
    rewrite(path, lambda tensors, record: record.update(format_version=FORMAT.version + 1))


def another_shape(path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        name = max(tensors, key=lambda key: (key.startswith("exp_avg_sq/"), tensors[key].dim()))
        tensors[name] = tensors[name][:-1].contiguous()

    rewrite(path, change)


def another_type(path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
        name = next(key for key in tensors if key.startswith("average/"))
        tensors[name] = tensors[name].double()

    rewrite(path, change)


def a_tensor_less(path: Path) -> None:
    rewrite(path, lambda tensors, record: tensors.pop(next(key for key in tensors if key.startswith("best/"))))


def a_moment_less(path: Path) -> None:
    rewrite(path, lambda tensors, record: tensors.pop(next(key for key in tensors if key.startswith("exp_avg/"))))


def a_tensor_more(path: Path) -> None:
    rewrite(path, lambda tensors, record: tensors.update(stranger=torch.zeros(3)))


def broken_record(path: Path) -> None:
    rewrite(path, lambda tensors, record: record["progress"].update(epoch=3))


def no_record(path: Path) -> None:
    rewrite(path, lambda tensors, record: record.pop("identity"))


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        empty,
        text,
        plain_tensors,
        newer,
        another_shape,
        another_type,
        a_tensor_less,
        a_moment_less,
        a_tensor_more,
        broken_record,
        no_record,
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_and_left_alone(
    stopped: Path, parts: tuple[TrajectoryPairs, ...], damage: Any
) -> None:
    damage(checkpoint_of(stopped))
    before, best = checkpoint_of(stopped).read_bytes(), stopped.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        train(parts, stopped, resume=True)
    assert "\n" not in str(caught.value)
    assert (checkpoint_of(stopped).read_bytes(), stopped.read_bytes()) == (before, best)


def test_a_checkpoint_that_does_not_fit_changes_nothing_in_the_module(
    stopped: Path, parts: tuple[TrajectoryPairs, ...]
) -> None:
    from fastegnn_md.training.module import PropagatorModule

    config = TrainingConfig.from_mapping(KEYS)
    module = PropagatorModule(
        untrained_propagator(parts[0], config.propagator, seed=0), config, parts[0], parts[1], [0], {"x": 1.0}
    )
    before = {name: value.clone() for name, value in module.state_dict().items()}
    another_shape(checkpoint_of(stopped))
    with pytest.raises(CheckpointError):
        module.restore(*read_checkpoint(checkpoint_of(stopped)))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.progress.update == 0
    assert not module.best


def test_nothing_beside_safetensors_text_and_csv_is_written(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.parent.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "checkpoint.safetensors", "config.yaml", "history.csv"}
