"""Training and harvests that are stopped or killed: what they leave can be read, and they go on from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastegnn_md.propagator.base import Propagator

TRAIN = [
    "--set",
    "propagator.hidden=8",
    "--set",
    "propagator.layers=1",
    "--set",
    "accelerator=cpu",
    "--batch-size",
    "8",
]
TRAIN += ["--set", "validate_every=5", "--set", "validation_pairs=8", "--set", "checkpoint_every=1000"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from fastegnn_md.cli import main; main()", *map(str, arguments)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory, require: Any) -> Path:
    """Copper, as one file of several frames that are nearly the same."""
    require("ase")
    import numpy as np
    from ase.build import bulk
    from ase.io import write

    crystal = bulk("Cu", a=3.61, cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        image = crystal.copy()
        image.positions += rng.normal(0, 0.03, image.positions.shape)
        images.append(image)
    path = tmp_path_factory.mktemp("frames") / "frames.pdb"
    write(path, images)
    return path


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A suite that runs in the background of a shell is told to ignore it, and its children with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


HARVEST = ["--engine", "ase", "--calculator", "emt", "--temperature", "300", "--burst", "4 fs", "--interval", "2 fs"]


@pytest.fixture(scope="module")
def store(frames: Path) -> Path:
    path = frames.with_name("pairs.h5md")
    subprocess.run(command("harvest", frames, *HARVEST, "-o", path), check=True, capture_output=True)
    return path


def wait_for(path: Path, process: subprocess.Popen[str], size: int = 1) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_training_leaves_the_best_model_so_far(store: Path, tmp_path: Path, number: signal.Signals) -> None:
    model = tmp_path / "model.safetensors"
    train = command("train", store, "--lag", "2 fs", *TRAIN, "-o", model)
    with subprocess.Popen([*train, "--updates", "100000"], stderr=subprocess.PIPE, text=True) as process:
        wait_for(model, process)
        time.sleep(0.5)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if number is signal.SIGKILL else 128 + number)
    found = Propagator.load(model)
    assert found.metrics["unfinished"] is True
    assert found.metrics["best_update"] >= 5
    if number is signal.SIGTERM:  # it has saved where it was
        assert "stopped by SIGTERM; continue with --resume" in said
        history = (model.with_suffix(".training") / "history.csv").read_text().splitlines()
        last = int(history[-1].split(",")[0])
        with subprocess.Popen(
            [*train, "--updates", "100000", "--resume"], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            begun = next(line for line in process.stderr if " of 100000 updates" in line)
            process.kill()
        shown = int(begun.split(" of 100000")[0].split()[-1])
        assert shown >= last


@pytest.mark.slow
def test_a_harvest_that_is_terminated_says_so_and_goes_on(frames: Path, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.h5md"
    parts = tmp_path / "pairs.h5md.parts"
    harvest = command("harvest", frames, *HARVEST, "-o", path)
    with subprocess.Popen(harvest, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not any(one.stat().st_size for one in parts.glob("*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM; every finished burst is kept, the same command continues" in said
    assert not path.exists()
    subprocess.run(harvest, check=True, capture_output=True)
    from fastegnn_md.data import Store

    assert Store(path).content == Store(store).content
    assert sorted(os.listdir(tmp_path)) == ["pairs.h5md"]


@pytest.mark.slow
def test_commands_that_are_killed_again_and_again_give_the_same_in_the_end() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "kills.py"
    done = subprocess.run([sys.executable, script, "--kills", "6"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same in the end") == 8
