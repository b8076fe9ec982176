"""Training by several processes, started by Lightning, torchrun, SLURM or by hand: one model, one set of files."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.propagator import Propagator
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.schedule import BatchOrder

pytestmark = [pytest.mark.usefixtures("_lightning"), pytest.mark.slow]
LAG = 0.008
MASS = {1: 1.008, 8: 15.999}
KEYS = {
    "updates": 18,
    "batch_size": 8,
    "validate_every": 5,
    "checkpoint_every": 4,
    "warmup": 5,
    "accelerator": "cpu",
    "precision": "64-true",
    "propagator": {"hidden": 16, "layers": 1},
}

# What every process of a run does, and what it reports in rank-<n>.json. "stop=6" ends every process before the update
# after the sixth, "broken=1,6" makes the weights of process 1 NaN there.
SCRIPT = """
import json, os, sys
import torch
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.module import PropagatorModule

folder, config, output, *options = sys.argv[1:]
name = output.partition(".")[0]
written, shown, seen = set(), [], []

def note(event, arguments):
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR) or event in ("os.rename", "os.remove"):
        written.update(str(one) for one in arguments[:2] if name in str(one))

class Shown:
    def write(self, text):
        shown.append(text)
        return sys.__stderr__.write(text)

    def flush(self):
        sys.__stderr__.flush()

sys.addaudithook(note)
sys.stderr = Shown()
step = PropagatorModule.training_step

def watched(self, batch, batch_idx):
    update = self.progress.update
    if f"stop={update}" in options:
        raise SystemExit(3)
    if f"broken={self.trainer.global_rank},{update}" in options:
        next(self.propagator.parameters()).data.fill_(float("nan"))
    return step(self, batch, batch_idx)

class Watched(TrajectoryPairs):
    def batch(self, indices):
        seen.append([int(one) for one in indices])
        return super().batch(indices)

PropagatorModule.training_step = watched
sources = sorted(os.path.join(folder, file) for file in os.listdir(folder))
pairs = TrajectoryPairs(sources, lag=0.008, progress=False)
train, validation, _ = pairs.split((0.6, 0.2, 0.2))
train.__class__ = Watched
result = fit(train, validation, TrainingConfig.from_yaml(config), output, resume="resume" in options)
rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
found = {"world": world, "updates": result.updates, "metrics": result.metrics, "model there": os.path.exists(output)}
found |= {"written": sorted(written), "shown": "".join(shown), "seen": seen}
found["weights"] = [value.tolist() for value in result.propagator.parameters()]
with open(f"rank-{rank}.json", "w") as file:
    json.dump(found, file)
"""


@pytest.fixture(scope="session")
def _lightning(require: Any) -> None:
    require("lightning")


def write_chains(path: Path, numbers: list[int], bursts: int = 60) -> Path:
    """Bursts of two frames of a chain of atoms on springs to their places."""
    rng = np.random.default_rng(len(numbers))
    masses = np.array([MASS[number] for number in numbers])
    bonds = np.array([(i, i + 1) for i in range(len(numbers) - 1)])
    topology = Topology(numbers=np.array(numbers), masses=masses, bonds=bonds)
    options: dict[str, Any] = {"velocities": True, "forces": False, "cells": False, "kind": "bursts", "provenance": {}}
    rest, omega = np.arange(len(numbers))[:, None] * np.array([1.0, 0.1, 0.0]), 200.0 / np.sqrt(masses)[:, None]
    with StoreWriter(path, topology, 2 * bursts, **options) as writer:
        for burst in range(bursts):
            a, b = 0.05 * rng.standard_normal((2, len(numbers), 3))
            for t in (0.0, LAG):
                c, s = np.cos(omega * t), np.sin(omega * t)
                writer.write(rest + a * c + b * s, burst + t, velocities=omega * (b * c - a * s))
        writer.finish(LAG, 2 * np.arange(bursts)[:, None] + [0, 2])
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Systems of two and of five atoms: shares of a batch differ in atoms."""
    folder = tmp_path_factory.mktemp("data")
    write_chains(folder / "a.h5md", [8, 1])
    write_chains(folder / "b.h5md", [8, 1, 1, 8, 1])
    return folder


def split(data: Path) -> tuple[TrajectoryPairs, ...]:
    return TrajectoryPairs(sorted(data.glob("*.h5md")), lag=LAG, progress=False).split((0.6, 0.2, 0.2))


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig.from_mapping({**KEYS, **changes})


def weights(propagator: Propagator) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in propagator.parameters()])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def environment(**more: str) -> dict[str, str]:
    """Ours without what a scheduler, or a test before, may have left in it."""
    foreign = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in os.environ.items() if key not in foreign and not key.startswith("SLURM_")}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"} | more


def srun(node: int) -> dict[str, str]:
    """What ``srun --nodes 2 --ntasks-per-node 1`` tells the task of a node."""
    number = str(node)
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "node[1-2]"}
    job |= {"SLURM_NNODES": "2", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    return job | {"SLURM_NODEID": number, "SLURM_PROCID": number, "SLURM_LOCALID": "0"}


class Finished(NamedTuple):
    code: int
    out: str
    err: str


def run(folder: Path, *commands: tuple[list[str], dict[str, str]]) -> list[Finished]:
    """Run commands at the same time; if one fails those that wait for it are ended."""
    with contextlib.ExitStack() as stack:
        files = [[stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)] for _ in commands]
        processes = [
            subprocess.Popen(command, cwd=folder, env=environment(**more), stdout=out, stderr=err)
            for (command, more), (out, err) in zip(commands, files, strict=True)
        ]
        try:
            deadline = time.monotonic() + 300
            while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                if any(process.returncode for process in processes):
                    deadline = min(deadline, time.monotonic() + 60)
                time.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
        return [
            Finished(process.wait(), *(file.seek(0) or file.read() for file in pair))
            for process, pair in zip(processes, files, strict=True)
        ]


def train(data: Path, folder: Path, *options: str, way: str = "lightning", **keys: Any) -> list[Finished]:
    """Run the script with two processes, into ``model.safetensors``."""
    (folder / "script.py").write_text(SCRIPT)
    script = ["script.py", str(data), "train.yaml", "model.safetensors", *options]
    if way in ("nodes", "slurm"):
        settings(num_nodes=2, **keys).to_yaml(folder / "train.yaml")
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        tell = srun if way == "slurm" else lambda node: {"NODE_RANK": str(node)}
        return run(folder, *(([sys.executable, *script], tell(node) | where) for node in (0, 1)))
    settings(devices=2, **keys).to_yaml(folder / "train.yaml")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if way == "torchrun" else []
    return run(folder, ([sys.executable, *torchrun, *script], {}))


def reports(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["world"] for one in found] == [2, 2]
    return found


def assert_success(done: list[Finished]) -> None:
    for one in done:
        assert one.code == 0, one.err
        assert one.out == ""


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run by one process."""
    output = tmp_path_factory.mktemp("alone") / "model.safetensors"
    training, validation, _ = split(data)
    fit(training, validation, settings(), output, progress=False)
    return output


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run by two processes, which Lightning starts."""
    folder = tmp_path_factory.mktemp("together")
    assert_success(train(data, folder))
    return folder / "model.safetensors"


def history(output: Path) -> list[list[str]]:
    return list(csv.reader((output.with_suffix(".training") / "history.csv").read_text().splitlines()))


def assert_same_model(output: Path, other: Path) -> None:
    """Weights and history, up to the order of the sums: the mean over shares, weighted by atoms, is that of all."""
    torch.testing.assert_close(*(weights(Propagator.load(one)) for one in (output, other)), rtol=1e-9, atol=1e-12)
    (head, *rows), (other_head, *other_rows) = history(output), history(other)
    assert head == other_head
    assert [row[0] for row in rows] == ["5", "10", "15", "18"]
    np.testing.assert_allclose(np.array(rows, dtype=float), np.array(other_rows, dtype=float), rtol=1e-8)


def test_two_processes_give_the_model_and_the_history_of_one(together: Path, alone: Path) -> None:
    assert_same_model(together, alone)
    first, second = reports(together.parent)
    assert first["updates"] == second["updates"] == 18
    assert first["metrics"] == second["metrics"] == Propagator.load(together).metrics


@pytest.mark.parametrize(("way", "strategy"), [("torchrun", "ddp"), ("nodes", "auto"), ("slurm", "auto")])
def test_whoever_starts_the_processes(way: str, strategy: str, data: Path, alone: Path, tmp_path: Path) -> None:
    assert_success(train(data, tmp_path, way=way, strategy=strategy))
    assert_same_model(tmp_path / "model.safetensors", alone)
    first, second = reports(tmp_path)
    assert second["written"] == []
    assert first["weights"] == second["weights"], "every process has the trained model, to the last bit"


def test_only_the_first_process_writes_and_shows_a_bar_and_all_find_the_model(together: Path) -> None:
    first, second = reports(together.parent)
    for name in ("history.csv", "config.yaml", "checkpoint.safetensors", "model.safetensors"):
        assert any(one.endswith(name) for one in first["written"]), name
    assert "18 of 18 updates, 100 %" in first["shown"]
    assert second["written"] == []
    assert second["shown"] == ""
    assert first["model there"]
    assert second["model there"]


def test_every_pair_is_seen_once_per_epoch_by_one_process(together: Path, data: Path) -> None:
    pairs, updates = len(split(data)[0]), 18
    assert updates * KEYS["batch_size"] == 2 * pairs
    shares = [one["seen"][-updates:] for one in reports(together.parent)]
    order = BatchOrder(pairs, KEYS["batch_size"], seed=0)
    for update, both in enumerate(zip(*shares, strict=True)):
        assert [len(share) for share in both] == [KEYS["batch_size"] // 2] * 2
        assert sorted(itertools.chain(*both)) == sorted(order[update])
    for epoch in (slice(0, updates // 2), slice(updates // 2, updates)):
        seen = [index for part in shares for share in part[epoch] for index in share]
        assert sorted(seen) == list(range(pairs))


def test_a_run_that_was_ended_resumes_to_the_bytes_of_one_that_was_not(
    together: Path, data: Path, tmp_path: Path
) -> None:
    (stopped,) = train(data, tmp_path, "stop=6")
    assert stopped.code != 0
    if (tmp_path / "model.safetensors").exists():  # the best so far
        assert Propagator.load(tmp_path / "model.safetensors").metrics["unfinished"] is True
    assert_success(train(data, tmp_path, "resume", strategy="ddp"))
    assert (tmp_path / "model.safetensors").read_bytes() == together.read_bytes()
    assert history(tmp_path / "model.safetensors") == history(together)
    left, right = (
        load_file(output.with_suffix(".training") / "checkpoint.safetensors")
        for output in (tmp_path / "model.safetensors", together)
    )
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_loss_that_is_not_finite_in_one_process_ends_all_of_them(data: Path, tmp_path: Path) -> None:
    (done,) = train(data, tmp_path, "broken=1,6")
    assert done.code != 0
    assert "the loss is nan at update 7" in done.err
    assert (tmp_path / "model.training" / "checkpoint.safetensors").exists()


def test_processes_with_other_settings_than_each_other_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    commands = []
    for node in (0, 1):
        settings(num_nodes=2, seed=node).to_yaml(tmp_path / f"{node}.yaml")
        script = [sys.executable, "script.py", str(data), f"{node}.yaml", "model.safetensors"]
        commands.append((script, {"NODE_RANK": str(node)} | where))
    for one in run(tmp_path, *commands):
        assert one.code != 0
        assert "in a folder that all nodes share" in one.err
    assert not (tmp_path / "model.safetensors").exists()


def test_the_command_prints_its_table_once(data: Path, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("fastegnn-md"))
    keys = {key: value for key, value in KEYS.items() if key != "propagator"} | {"propagator.hidden": 16, "devices": 2}
    chosen = [f"--set={key}={value}" for key, value in keys.items()]
    (done,) = run(tmp_path, ([program, "train", str(data / "b.h5md"), "--lag", "8 fs", *chosen], {}))
    assert done.code == 0, done.err
    assert done.out.count("saved model.safetensors") == 1
    assert done.out.count("best linear") == 1
