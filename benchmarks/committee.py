"""How well the spread of a committee foretells its error, on pairs of alanine dipeptide that no member was trained on.

    python benchmarks/from_nothing.py OUTPUT --updates 5
    python benchmarks/committee.py OUTPUT --members 3 --updates 100

Members differ in the seed of their weights and of the order of their batches.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from alanine import Settings

from fastegnn_md import Committee
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.calibration import calibration_table, one_step_calibration
from fastegnn_md.training.one_step import one_step_errors, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of from_nothing.py")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--updates", type=int, default=100, help="of each member")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    settings = Settings()
    pairs = TrajectoryPairs(arguments.folder / "bursts.h5md", lag=settings.lag, time_reversal=True)
    train, validation, held_out = pairs.split(settings.split)
    members = []
    for seed in range(arguments.members):
        config = TrainingConfig(
            propagator=PropagatorConfig(kind="force-start"),
            updates=arguments.updates,
            batch_size=settings.batch_size,
            seed=seed,
            validate_every=arguments.updates,
            validation_pairs=256,
        )
        members.append(fit(train, validation, config).propagator)

    committee = Committee(members)
    errors = [_over_baseline(one, held_out) for one in (*members, committee)]
    print(f"{len(held_out)} held-out pairs; error of one step over the best baseline")
    for name, error in zip([*(f"member {seed}" for seed in range(len(members))), "mean"], errors, strict=True):
        print(f"{name:10}" + "".join(f"  {key} {value:.3f}" for key, value in error.items()))
    calibration = one_step_calibration(committee, held_out)
    print(calibration_table(calibration))
    for key, one in calibration.items():
        print(f"{key}: spread " + " ".join(f"{value:.3f}" for value in one.spread))
        print(f"{key}: error  " + " ".join(f"{value:.3f}" for value in one.error))
    if arguments.output is not None:
        content = {"over best baseline": errors, "calibration": {key: asdict(one) for key, one in calibration.items()}}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _over_baseline(propagator: LearnedMap, pairs: TrajectoryPairs) -> dict[str, float]:
    return ratios(one_step_errors(propagator, pairs))


if __name__ == "__main__":
    main()
