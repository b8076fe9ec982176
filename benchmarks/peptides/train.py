"""Train a generative propagator on the first two trajectories of ``simulate.py``.

    python benchmarks/peptides/train.py DATA/ala2 --lag "10 ps" -o ala2-obc-10ps.safetensors

The last part of each trajectory, or with ``--held-out 1`` of the second alone, is for validation. A command given again
continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from data import TRAINING, parts, universe

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import error_table, one_step_errors


def train(folder: Path, lag: str, output: Path, updates: int, overrides: list[str], held_out: int = 2) -> None:
    """Read the trajectories, train, and say how the field does."""
    # Pairs turned round in time are as good: the trajectories are at equilibrium.
    _, _, kelvin = folder.name.partition("-")
    settings = {
        "propagator": {"kind": "flow"},
        "updates": updates,
        "time_reversal": True,
        "temperature": float(kelvin.removesuffix("K") or 300),
    }
    config = TrainingConfig.from_mapping(settings, overrides)
    runs = [parts(folder, run) for run in TRAINING]

    def pairs(chosen: list[list[str]], name: str, reverse: bool) -> TrajectoryPairs:
        universes = [universe(folder, files) for files in chosen]
        store = output.with_name(f"{output.stem}-{name}.h5md")
        return TrajectoryPairs(universes, lag=lag, velocities="none", time_reversal=reverse, store=store)

    whole, parted = runs[: len(runs) - held_out], runs[len(runs) - held_out :]
    train_pairs = pairs([*whole, *(files[:-1] for files in parted)], "train", config.time_reversal)
    validation = pairs([files[-1:] for files in parted], "validation", False)
    result = fit(train_pairs, validation, config, output, resume=True)
    print(f"{len(train_pairs)} pairs, {result.updates} updates")
    print(error_table(one_step_errors(result.propagator, validation, list(range(0, len(validation), 5)))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="DATA/ala2")
    parser.add_argument("--lag", default="10 ps")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=40_000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the training configuration")
    parser.add_argument("--held-out", type=int, default=2, help="trajectories whose last part is for validation")
    given = parser.parse_args()
    train(given.folder, given.lag, given.output, given.updates, given.set, given.held_out)
