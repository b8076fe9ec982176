"""Training on the CPU: pairs and updates a second, and what an update consists of.

    OMP_NUM_THREADS=1 python benchmarks/training.py --output benchmarks/results/training_cpu.json

A run is ``fit`` with its defaults but for the kind and the number of pairs in an update. Pairs are made up: molecules
shaken about their geometry with thermal velocities and random forces, for the cost of an update does not depend on what
is learned. ``trainer alone`` replaces the network by a sum that all weights enter, so that what is left is reading,
Lightning, clipping, the optimiser and the moving average. Times are medians by the clock over the updates of a run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from unittest.mock import patch

import MDAnalysis as mda
import numpy as np
import torch
from ase.build import molecule
from hybrid_ala2 import machine
from torch import Tensor

from fastegnn_md import Propagator, State
from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs, read_topology
from fastegnn_md.propagator.prediction import Residual
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.module import PropagatorModule

LAG = 0.008  # ps
THERMAL = 249.4  # k_B T at 300 K, amu Å²/ps²
# What is trained, kind, pairs in an update.
RUNS = [
    ("22 atoms", "force-free", 32),
    ("22 atoms", "force-free", 256),
    ("9 atoms", "force-midpoint", 32),
    ("22 atoms", "kick-drift", 32),
]


def ala2() -> tuple[Topology, np.ndarray]:
    """Alanine dipeptide and its positions, Å."""
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        atoms = mda.Universe(str(path)).atoms
        atoms.universe.guess_TopologyAttrs(to_guess=["bonds"])
        return read_topology(atoms), atoms.positions.astype(float)


def ethanol() -> tuple[Topology, np.ndarray]:
    """Ethanol and its positions, Å."""
    atoms = molecule("CH3CH2OH")
    close = np.argwhere(np.triu(atoms.get_all_distances() < 1.6, 1))
    hydrogens = (atoms.numbers[close] == 1).all(axis=1)
    topology = Topology(numbers=atoms.numbers, masses=atoms.get_masses(), bonds=close[~hydrogens])
    return topology, atoms.positions


MOLECULES = {"22 atoms": ala2, "9 atoms": ethanol}


def pairs(name: str, path: Path, bursts: int) -> tuple[TrajectoryPairs, TrajectoryPairs]:
    """Pairs to train on and to validate on."""
    topology, geometry = MOLECULES[name]()
    rng, speed = np.random.default_rng(0), np.sqrt(THERMAL / topology.masses)[:, None]
    shape = geometry.shape
    with StoreWriter(
        path,
        topology,
        2 * bursts,
        velocities=True,
        forces=True,
        cells=False,
        kind="bursts",
        provenance={"made by": "benchmarks/training.py"},
        midpoint=LAG,
    ) as writer:
        for burst in range(bursts):
            x = geometry + 0.05 * rng.normal(size=shape)
            v = speed * rng.normal(size=shape)
            for step in range(2):
                forces = [2e4 * rng.normal(size=shape) for _ in range(3)]
                writer.write(
                    x + step * LAG * v,
                    burst + step * LAG,
                    velocities=v + step * 0.1 * speed * rng.normal(size=shape),
                    forces=forces[0],
                    ahead=forces[1],
                    behind=forces[2],
                )
        writer.finish(LAG, 2 * np.arange(bursts)[:, None] + [0, 2])
    training, validation, _ = TrajectoryPairs(path, lag=LAG, time_reversal=True, progress=False).split((0.8, 0.1, 0.1))
    return training, validation


class Clock:
    """Seconds of the parts of each update; the first ten updates are not counted."""

    def __init__(self, most: float):
        self.most = most
        self.ends: list[float] = []
        self.parts: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}

    def timed(self, part: str, call: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """What a call gives; its time is that of a part."""
        begun = time.perf_counter()
        try:
            return call(*given, **named)
        finally:
            self._now[part] = self._now.get(part, 0.0) + time.perf_counter() - begun

    def update(self) -> bool:
        """An update has ended; whether it was the last one."""
        self.ends.append(time.perf_counter())
        if len(self.ends) > 10:
            for part, seconds in self._now.items():
                self.parts.setdefault(part, []).append(seconds)
        self._now = {}
        return len(self.ends) > 12 and self.ends[-1] - self.ends[10] > self.most

    def result(self, size: int) -> dict[str, float]:
        """Milliseconds and shares."""
        whole = statistics.median(later - sooner for sooner, later in itertools.pairwise(self.ends[10:]))
        parts = {name: statistics.median(values) for name, values in self.parts.items()}
        parts["optimiser"] -= parts["forward"] + parts["backward"]  # its step calls both
        parts["rest"] = whole - sum(parts.values())
        return {
            "updates": len(self.ends) - 11,
            "ms an update": 1e3 * whole,
            "updates a second": 1 / whole,
            "pairs a second": size / whole,
            **{f"{name}, ms": 1e3 * seconds for name, seconds in parts.items()},
        }


def nearly_nothing(propagator: Propagator, start: State, end: State) -> Residual:
    """In place of the network: a number that has a gradient in every weight."""
    total = torch.cat([weight.flatten() for weight in propagator.parameters()]).sum()
    zeros = torch.zeros_like(start.positions)
    return Residual(zeros + total, zeros, None)


def measure(
    training: TrajectoryPairs, validation: TrajectoryPairs, kind: str, size: int, most: float, *, alone: bool
) -> dict[str, float]:
    """A row of the results."""
    clock = Clock(most)

    def around(owner: Any, name: str, part: str) -> Any:
        call = getattr(owner, name)
        return patch.object(owner, name, lambda *given, **named: clock.timed(part, call, *given, **named))

    ended = PropagatorModule.on_train_batch_end

    def on_train_batch_end(self: PropagatorModule, *given: Any) -> None:
        clock.timed("average", ended, self, *given)
        if clock.update():
            self.progress.stopped = True
            self.trainer.should_stop = True

    settings = {"updates": 100_000, "validate_every": 100_000, "validation_pairs": 32, "logger": "none"}
    config = TrainingConfig(**settings, accelerator="cpu", batch_size=size, propagator={"kind": kind})
    with ExitStack() as stack:
        if alone:
            stack.enter_context(patch.object(Propagator, "residual", nearly_nothing))
        stack.enter_context(around(TrajectoryPairs, "batch", "fetch"))
        stack.enter_context(around(PropagatorModule, "_loss", "forward"))
        stack.enter_context(around(Tensor, "backward", "backward"))
        stack.enter_context(around(torch.optim.Adam, "step", "optimiser"))
        stack.enter_context(patch.object(PropagatorModule, "on_train_batch_end", on_train_batch_end))
        fit(training, validation, config, progress=False)
    return clock.result(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of updates, for each row")
    parser.add_argument("--bursts", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, kind, size in RUNS:
            path = Path(scratch) / f"{name}.h5md"
            data = pairs(name, path, arguments.bursts)
            for alone in (False, True):
                found = measure(*data, kind, size, arguments.seconds * (0.3 if alone else 1.0), alone=alone)
                rows.append({"molecules": name, "kind": kind, "pairs": size, "trainer alone": alone, **found})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.output is not None:
        result = {"machine": {**machine(), "threads": 1}, "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
