"""The two trainings of the demo, side by side: one process and one core each."""

from __future__ import annotations

import csv
import multiprocessing
import shutil
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .._progress import progress_bar
from ..data import TrajectoryPairs
from ..propagator.config import Kind, PropagatorConfig
from ..training import TrainingConfig, fit

if TYPE_CHECKING:
    from .records import DemoSettings

KINDS: dict[str, Kind] = {"force-free": "force-free", "force-informed": "force-midpoint"}


def train_both(store: Path, output: Path, settings: DemoSettings, *, progress: bool) -> None:
    """Train a force-free and a force-informed propagator with the same budget.

    Two processes of one thread each make more updates per second than one process of two threads after the other, and
    do not wait for each other where the machine has other work.
    """
    for name in KINDS:
        shutil.rmtree(output / f"{name}.training", ignore_errors=True)  # the history of an earlier demo
    with ProcessPoolExecutor(len(KINDS), mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_train, store, output, name, settings) for name in KINDS]
        _show(running, output, settings, progress=progress)
        for one in running:
            one.result()


def read_history(output: Path, name: str) -> list[dict[str, float]]:
    """Rows of the history of one training so far, one per validation."""
    path = output / f"{name}.training" / "history.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        # A row that is being written has fewer fields than it will have.
        rows = [row for row in csv.DictReader(file) if None not in row.values()]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def _train(store: Path, output: Path, name: str, settings: DemoSettings) -> None:
    torch.set_num_threads(1)
    train, validation, _ = TrajectoryPairs(store, lag=settings.lag, time_reversal=True).split(settings.split)
    config = TrainingConfig(
        propagator=PropagatorConfig(kind=KINDS[name]),
        updates=settings.updates,
        batch_size=settings.batch_size,
        seed=settings.seed,
        validate_every=max(1, settings.updates // 20),
        validation_pairs=256,
        checkpoint_every=settings.updates,
    )
    fit(train, validation, config, output / f"{name}.safetensors", progress=False)


def _show(running: list[Future[None]], output: Path, settings: DemoSettings, *, progress: bool) -> None:
    """One bar over the updates of both trainings, from their histories."""
    with progress_bar(total=len(KINDS) * settings.updates, desc="training", unit="update", disable=not progress) as bar:
        while wait(running, timeout=0.5).not_done:
            if any(one.done() and one.exception() for one in running):
                return  # the error is raised by the caller
            histories = {name: rows[-1] for name in KINDS if (rows := read_history(output, name))}
            bar.update(sum(int(row["update"]) for row in histories.values()) - bar.n)
            bar.set_postfix({f"{name}, v": f"{row['v over best baseline']:.3f}" for name, row in histories.items()})
        bar.update(bar.total - bar.n if bar.total else 0)
