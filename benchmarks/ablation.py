"""What lowers the error of a jump, and steadies roll-outs, per minute of training: alanine dipeptide in vacuum, 8 fs.

    python benchmarks/ablation.py bursts.h5md --folder ablation --minutes 1.0
    python benchmarks/ablation.py bursts.h5md --folder ablation --minutes 1.0 --only baseline "batch 64"

``bursts.h5md`` is the store of ``from_nothing.py``, with forces at midpoints. Every variant gets the same
minutes of one CPU core: the time of an update is measured first and decides their number, along which the learning rate
falls. What is there already is kept, so a run that was stopped goes on; the table is written after each variant.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from alanine import AlanineDipeptide, Settings, learned_run
from openmm import unit

from fastegnn_md import Propagator, State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.training import TrainingConfig, fit, residual_loss
from fastegnn_md.training.one_step import one_step_errors, ratios
from fastegnn_md.training.start import untrained_propagator
from fastegnn_md.training.unrolling import perturbed, unrolled_residuals
from fastegnn_md.units import BOLTZMANN

TUNED = {"from": "baseline", "learning_rate": 1e-3}
# Settings of TrainingConfig; "from" names the variant to go on from.
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "baseline, then 1 jump": TUNED,
    "baseline, then 2 jumps": {**TUNED, "unroll": 2},
    "baseline, then 4 jumps": {**TUNED, "unroll": 4},
    "force-informed": {"propagator": {"kind": "force-start"}},
    "force at x + v dt / 2": {"propagator": {"kind": "force-midpoint"}},
    "without time reversal": {"time_reversal": False},
    "noise 0.05": {"noise": 0.05},
    "batch 16": {"batch_size": 16},
    "batch 64": {"batch_size": 64},
    "learning rate x 1/2": {"learning_rate": 2e-3},
    "hidden 128": {"propagator": {"hidden": 128}},
    "6 layers": {"propagator": {"layers": 6}},
    "cutoff 5 A": {"propagator": {"cutoff": 5.0}},
}
TEMPERATURE, HELD_OUT, RUNS, JUMPS = 300.0, 1024, 512, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("ablation"), help="models and intermediate results")
    parser.add_argument("--minutes", type=float, default=1.0, help="CPU time of each training")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--output", type=Path, help="JSON; a table is written beside it (.md)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    system, settings = AlanineDipeptide(), Settings(friction=1.0, jumps=JUMPS)
    for name in arguments.only:
        path = model_of(name, arguments).with_suffix(".json")
        if not path.exists():
            print(f"== {name}", flush=True)
            propagator, work = train(name, arguments)
            row = {"variant": name, **work, **measure(propagator, system, arguments, settings)}
            path.write_text(json.dumps(row, indent=1) + "\n")
        print(path.read_text(), flush=True)
        if arguments.output is not None:
            write(arguments)


def load(store: Path, **options: Any) -> tuple[TrajectoryPairs, ...]:
    return TrajectoryPairs(store, lag=Settings.lag, **options).split(Settings.split)


def train(name: str, arguments: argparse.Namespace) -> tuple[Propagator, dict[str, Any]]:
    """Train one variant for its share of time, or load it; and what that took."""
    output = model_of(name, arguments)
    keys = dict(VARIANTS[name])
    initial = None
    if "from" in keys:
        initial = Propagator.load(model_of(keys.pop("from"), arguments))
        keys["propagator"] = initial.config
    plan = output.with_suffix(".plan.json")
    training, validation, _ = load(arguments.store, time_reversal=keys.get("time_reversal", True))
    if not plan.exists():
        seconds = seconds_per_update(training, TrainingConfig(**keys))
        plan.write_text(json.dumps({"updates": round(60 * arguments.minutes / seconds), "s/update": seconds}))
    updates = json.loads(plan.read_text())["updates"]
    config = TrainingConfig(
        **keys,
        updates=updates,
        validate_every=math.ceil(updates / 4),
        validation_pairs=256,
        checkpoint_every=100,
        accelerator="cpu",
    )
    whole, begun = not output.with_suffix(".training").exists(), time.process_time()
    propagator = fit(training, validation, config, output, initial=initial, resume=True).propagator
    return propagator, {
        "updates": updates,
        "CPU minutes of training": (time.process_time() - begun) / 60 if whole else None,
        "parameters": sum(one.numel() for one in propagator.parameters()),
    }


def model_of(name: str, arguments: argparse.Namespace) -> Path:
    path: Path = arguments.folder / f"{name.replace(' ', '-').replace('/', '')}.safetensors"
    return path


def context_of(system: AlanineDipeptide) -> openmm.Context:
    return openmm.Context(system.system, openmm.VerletIntegrator(0.001), system.platform)


def forces(context: openmm.Context, positions: np.ndarray) -> np.ndarray:
    """amu Å/ps²; positions in Å."""
    context.setPositions(positions.astype(float) / 10)
    found = context.getState(forces=True).getForces(asNumpy=True)
    return found.value_in_unit(unit.dalton * unit.angstrom / unit.picosecond**2)


def seconds_per_update(pairs: TrajectoryPairs, config: TrainingConfig, updates: int = 15) -> float:
    """CPU time of an update, from a few of them on a fresh network."""
    propagator, runs = untrained_propagator(pairs, config.propagator), pairs.sequences(config.unroll)
    optimizer = torch.optim.Adam(propagator.parameters(), lr=1e-6)
    generator = torch.Generator().manual_seed(0)
    for update in range(updates + 3):
        if update == 3:
            begun = time.process_time()
        start, *ends = runs.batch(range(update * config.batch_size, (update + 1) * config.batch_size))
        if config.noise:
            start = perturbed(propagator, start, config.noise, generator)
        sum(residual_loss(one) for one in unrolled_residuals(propagator, start, ends)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - begun) / updates


def measure(
    propagator: Propagator, system: AlanineDipeptide, arguments: argparse.Namespace, settings: Settings
) -> dict[str, Any]:
    """Errors on held-out bursts and a short guarded roll-out at friction 1/ps."""
    held_out = load(arguments.store, time_reversal=True)[2]
    chosen = np.linspace(0, len(held_out), HELD_OUT, endpoint=False).astype(int).tolist()
    errors = one_step_errors(propagator, held_out, chosen)
    thermal = math.sqrt(BOLTZMANN * TEMPERATURE)
    run = learned_run(system, propagator, held_out, arguments.folder / "run.xtc", settings, progress=False)
    over = {element: kelvin / run.reference_temperature[element] for element, kelvin in run.temperature.items()}
    statistics = run.statistics
    ahead = after_jumps(propagator, context_of(system), held_out.sequences(4))
    return {
        "x over best baseline": ratios(errors)["x"],
        "v over best baseline": ratios(errors)["v"],
        "v error over thermal": errors["learned"].v / thermal,
        "v error over thermal after 4 jumps": ahead / thermal,
        "temperature over reference": over,
        "jumps": dataclasses.asdict(statistics),
        "share of refused jumps": 1.0 - statistics.accepted / statistics.tried,
        "ms per jump": run.ms_per_jump,
    }


def after_jumps(propagator: Propagator, context: openmm.Context, runs: TrajectoryPairs) -> float:
    """RMSE of v in amu^½ Å/ps at the end of runs of several jumps, without guards, thermostat or constraints."""

    def forces_at(state: State, positions: torch.Tensor) -> torch.Tensor:
        places = positions.split(state.atom_counts.tolist())
        return torch.from_numpy(np.concatenate([forces(context, one.numpy()) for one in places])).to(state.dtype)

    chosen = np.linspace(0, len(runs), RUNS, endpoint=False).astype(int)
    state, *ends = runs.batch(chosen)
    for _ in ends:
        where = propagator.force_positions(state)
        if where is not None:
            state = propagator.with_forces(state, forces_at(state, where))
        state = propagator(state)
    return float((state.masses[:, None] * (state.velocities - ends[-1].velocities).square()).mean().sqrt())


def write(arguments: argparse.Namespace) -> None:
    """All variants measured so far, as JSON and as a table."""
    paths = [model_of(name, arguments).with_suffix(".json") for name in VARIANTS]
    rows = [json.loads(path.read_text()) for path in paths if path.exists()]
    record = {
        "system": "alanine dipeptide, amber14 in vacuum, bonds to hydrogen constrained, 8 fs",
        "CPU minutes per training": arguments.minutes,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "roll-out": {"jumps": JUMPS, "friction, 1/ps": 1.0},
        "variants": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    elements = list(rows[0]["temperature over reference"])
    head = ["variant", "updates", "CPU min", "x / best baseline", "v / best baseline", "v error, % of thermal"]
    head += ["after 4 jumps", *(f"T {element} / reference" for element in elements), "refused jumps"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        minutes = row["CPU minutes of training"]
        cells = [row["variant"], f"{row['updates']:,}", "" if minutes is None else f"{minutes:.2f}"]
        cells += [f"{row[f'{key} over best baseline']:.3f}" for key in ("x", "v")]
        cells += [f"{100 * row['v error over thermal']:.1f}", f"{100 * row['v error over thermal after 4 jumps']:.1f}"]
        cells += [f"{row['temperature over reference'][element]:.2f}" for element in elements]
        cells.append(f"{row['share of refused jumps']:.1%}")
        lines.append("| " + " | ".join(cells) + " |")
    arguments.output.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
