"""An organic model as it is, adapted to one molecule, and a model of its architecture trained on that molecule alone.

    python benchmarks/organic/build.py EXAM --exam
    OMP_NUM_THREADS=1 python benchmarks/organic/alone.py EXAM ethanol caffeine --output benchmarks/results/alone.json

``adapt`` takes bursts of GFN2-xTB until the budget is spent. The model of the molecule alone is trained on the same
bursts with as many updates of as many pairs, half of them before on forces alone. All three are judged on the bursts of
the exam, which come from other frames, with the engine asked where each of them leads.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.io import read
from engine import about_machine, xtb
from judging import asked_pairs

from fastegnn_md import Propagator, load
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.harvest import Adapted, adapt
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import one_step_errors, ratios

UPDATES = 500  # of adapt, for each round that is trained on


def trained_alone(found: Adapted, folder: Path, like: Propagator, output: Path) -> tuple[Propagator, float]:
    """A model of the bursts that an adaptation has learned from, and the seconds that took."""
    rounds = [number for number, one in enumerate(found.rounds, start=1) if one.trained]
    stores = [folder / f"round-{number}.h5md" for number in rounds]
    pairs = TrajectoryPairs(stores, lag=like.timestep, time_reversal=True, progress=False)
    train, held_out = pairs.split((0.8, 0.2))
    config = TrainingConfig(
        propagator=like.config,
        updates=UPDATES * len(rounds),
        force_updates=UPDATES * len(rounds) // 2,
        learning_rate=2e-3,
        batch_size=min(32, len(train)),
        validate_every=50,
    )
    begun = time.perf_counter()
    made = fit(train, held_out, config, output, resume=True, progress=False).propagator
    return made, time.perf_counter() - begun


def judged(propagator: Propagator, store: Path, most: int) -> dict[str, float]:
    """Errors over the best baseline on pairs of the exam."""
    asked = asked_pairs(TrajectoryPairs(store, lag=propagator.timestep, progress=False), propagator, xtb(), most)
    return ratios(one_step_errors(propagator, asked, asked.indices))


def row(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One molecule."""
    model = load(arguments.model)
    atoms = read(arguments.exam / f"{name}.traj", index=0)
    assert isinstance(atoms, Atoms)  # one frame was asked for
    atoms = Atoms(atoms.numbers, atoms.positions)
    output = arguments.scratch / f"{name}.safetensors"
    found = adapt(model, atoms, xtb, target=1e-6, budget=arguments.budget, output=output, progress=False)
    alone, seconds = trained_alone(
        found, output.with_suffix(".adapting"), model, arguments.scratch / f"{name}-alone.safetensors"
    )
    store = arguments.exam / f"{name}.h5"
    shown = {"as it is": model, "adapted": found.propagator, "of this molecule alone": alone}
    return {
        "molecule": name,
        "atoms": len(atoms),
        "force calls": found.worth.calls,
        "bursts trained on": sum(one.bursts - one.dropped for one in found.rounds if one.trained),
        "seconds of training, adapted": found.worth.training_seconds,
        "seconds of training, alone": seconds,
        "error over best baseline": {who: judged(one, store, arguments.pairs) for who, one in shown.items()},
    }


def main() -> None:
    """Adapt, train, judge and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exam", type=Path, help="folder of build.py --exam")
    parser.add_argument("molecules", nargs="+")
    parser.add_argument("--model", default="organic-xtb-4fs")
    parser.add_argument("--budget", type=int, default=700)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--scratch", type=Path, default=Path("alone-output"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.scratch.mkdir(exist_ok=True)
    rows = (
        {one["molecule"]: one for one in json.loads(arguments.output.read_text())["rows"]}
        if arguments.output.exists()
        else {}
    )
    for name in arguments.molecules:
        rows[name] = row(name, arguments)
        result = {
            "machine": about_machine(),
            "model": arguments.model,
            "budget": arguments.budget,
            "rows": list(rows.values()),
        }
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(rows[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
