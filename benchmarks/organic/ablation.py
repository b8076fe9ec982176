"""Width, depth and cutoff of the organic models at one cost of training, hydrogens of 4 u, jumps of 8 fs.

    export OMP_NUM_THREADS=1
    python benchmarks/organic/build.py HEAVY --hydrogen 4 --first 30
    python benchmarks/organic/build.py EXAM4 --exam --hydrogen 4 --molecules ethanol acetamide furan benzene vanillin \\
        caffeine nicotine lidocaine aspirin isobutane
    python benchmarks/organic/ablation.py FOLDER --stores HEAVY --exam EXAM4 --output benchmarks/results/ablation.json

Every network begins from nothing and is trained for the same CPU time on the same molecules: forces first, then pairs,
as many updates of both as two short trainings say that the time is enough for. Networks that the output has are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import about_machine, xtb
from judging import asked_pairs

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import one_step_errors, ratios

MOLECULES, HELD_OUT = 25, 2  # of the stores, and how many of them validate
EXAM = (
    *("ethanol", "acetamide", "furan", "benzene", "isobutane"),
    *("vanillin", "caffeine", "nicotine", "lidocaine", "aspirin"),
)
SHIPPED = {"hidden": 64, "layers": 3, "cutoff": 4.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "hidden 32": {"hidden": 32},
    "hidden 96": {"hidden": 96},
    "2 layers": {"layers": 2},
    "4 layers": {"layers": 4},
    "cutoff 3.5 Å": {"cutoff": 3.5},
    "cutoff 6 Å": {"cutoff": 6.0},
}
CLOCKED = "caffeine"
LAG, KICKS = "8 fs", 5
FORCES, PAIRS = 40, 20  # updates of a block


def trained(network: dict[str, Any], stores: list[str], blocks: int, path: Path) -> tuple[Propagator, float]:
    """A network trained for so many blocks, and its CPU seconds."""
    training, held_out = (
        TrajectoryPairs(some, lag=LAG, time_reversal=True, progress=False)
        for some in (stores[HELD_OUT:], stores[:HELD_OUT])
    )
    config = TrainingConfig(
        propagator=PropagatorConfig(kind="symplectic", kicks=KICKS, virtual_nodes=1, use_bonds=False, **network),
        updates=(FORCES + PAIRS) * blocks,
        force_updates=FORCES * blocks,
        learning_rate=2e-3,
        validate_every=(FORCES + PAIRS) * blocks,
        validation_pairs=64,
        checkpoint_every=(FORCES + PAIRS) * blocks,
        logger="none",
    )
    path.unlink(missing_ok=True)
    begun = time.process_time()
    made = fit(training, held_out, config, path, progress=False).propagator
    return made, time.process_time() - begun


def row(name: str, stores: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """One network: how long it was trained, and its errors on molecules that it has not seen."""
    network, path = SHIPPED | VARIANTS[name], arguments.folder / f"{name.replace(' ', '-')}.safetensors"
    shorter, longer = (trained(network, stores, blocks, path)[1] for blocks in (1, 3))
    blocks = max(1, round(2 * arguments.seconds / (longer - shorter)))
    model, seconds = trained(network, stores, blocks, path)
    errors, jumps = {}, []
    for molecule in EXAM:
        pairs = TrajectoryPairs(arguments.exam / f"{molecule}.h5", lag=model.timestep, progress=False)
        asked = asked_pairs(pairs, model, xtb(), 20)
        errors[molecule] = ratios(one_step_errors(model, asked, asked.indices))["v"]
        if molecule == CLOCKED:
            start, _ = asked.batch([0])
            for _ in range(20):
                begun = time.process_time()
                model.with_trust(start)
                jumps.append(time.process_time() - begun)
    return {
        **network,
        "forces, updates": FORCES * blocks,
        "pairs, updates": PAIRS * blocks,
        "training, CPU s": round(seconds, 1),
        "weights": sum(one.numel() for one in model.parameters()),
        f"{CLOCKED}, CPU ms of a jump without the engine": round(1e3 * float(np.median(jumps)), 2),
        "v over best baseline, median": round(float(np.median(list(errors.values()))), 4),
        "v over best baseline": {molecule: round(value, 4) for molecule, value in errors.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the models")
    parser.add_argument("--stores", type=Path, required=True, help="folder of build.py --hydrogen 4")
    parser.add_argument("--exam", type=Path, required=True, help="folder of build.py --exam --hydrogen 4")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time of a training")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    stores = sorted(str(path) for path in arguments.stores.glob("*.h5"))[:MOLECULES]
    rows = json.loads(arguments.output.read_text())["networks"] if arguments.output.exists() else {}
    for name in VARIANTS:
        if name in rows:
            continue
        rows[name] = row(name, stores, arguments)
        result = {"machine": about_machine(), "molecules": len(stores) - HELD_OUT, "kicks": KICKS, "networks": rows}
        arguments.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, json.dumps(rows[name], ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
