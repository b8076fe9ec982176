"""The learned potential of one symplectic propagator in another, of another time step, number of kicks or filter.

    python benchmarks/organic/longer.py eight.safetensors organic-xtb.safetensors --lag "6 fs" --kicks 7 \\
        --mollify 3185 --pairs EXAM/caffeine.h5

What is known of the training data goes along, errors on pairs do not: they were those of the other time step, and are
measured anew on ``--pairs``, stores of the exam, say.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from engine import xtb
from judging import asked_pairs

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training.one_step import one_step_errors, ratios
from fastegnn_md.units import parse_quantity


def main() -> None:
    """Write the other propagator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--lag", required=True)
    parser.add_argument("--kicks", type=int, required=True)
    parser.add_argument("--mollify", type=float, help="1/cm")
    parser.add_argument("--pairs", type=Path, required=True, help="a store of bursts by GFN2-xTB")
    arguments = parser.parse_args()
    known = Propagator.load(arguments.model)
    values = known.config.model_dump() | {"kicks": arguments.kicks, "mollify": arguments.mollify}
    made = Propagator.build(PropagatorConfig(**values), parse_quantity(arguments.lag, "time"), known.domain)
    made.load_state_dict(known.state_dict())
    made.fingerprint, made.provenance, made.surroundings = known.fingerprint, known.provenance, known.surroundings
    made.eval()
    pairs = asked_pairs(TrajectoryPairs(arguments.pairs, lag=arguments.lag, progress=False), made, xtb(), 60)
    errors = one_step_errors(made, pairs, pairs.indices)  # type: ignore[arg-type]  # what it asks of pairs
    made.metrics = {
        "validation_pairs": len(pairs.indices),
        "one_step": {name: asdict(error) for name, error in errors.items()},
        "over_best_baseline": ratios(errors),
    }
    made.save(arguments.output)
    print(f"{arguments.output}: {made.metrics['over_best_baseline']}")


if __name__ == "__main__":
    main()
