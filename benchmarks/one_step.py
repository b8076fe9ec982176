"""One-step errors of what ``from_nothing.py`` trained, on its held-out bursts, beside predictors that learn nothing.

    python benchmarks/from_nothing.py OUTPUT
    python benchmarks/one_step.py OUTPUT --output benchmarks/results/one_step_ala2.json

Each as it is, and over the best of those that learn nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from alanine import Settings
from from_nothing import KINDS

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.training.one_step import one_step_errors, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of from_nothing.py")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    settings, rows = Settings(), []
    for folder in arguments.folders:
        pairs = TrajectoryPairs(folder / "bursts.h5md", lag=settings.lag, time_reversal=True)
        held_out = pairs.split(settings.split)[2]
        for name in KINDS:
            propagator = Propagator.load(folder / f"{name}.safetensors")
            errors = one_step_errors(propagator, held_out)
            rows.append(
                {
                    "propagator": name,
                    "training updates": propagator.metrics["updates"],
                    "held-out pairs": len(held_out),
                    "over the best baseline": ratios(errors),
                    "RMSE, mass-scaled; x in amu^1/2 A, v in amu^1/2 A/ps": {
                        predictor: dataclasses.asdict(error) for predictor, error in errors.items()
                    },
                }
            )
            print(json.dumps(rows[-1]))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
