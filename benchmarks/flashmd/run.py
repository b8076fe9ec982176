"""Beside FlashMD: a molecule and a crystal, the same pairs, the same CPU time of training on one core.

    python3.11 -m venv beside && beside/bin/pip install -c constraints.txt -e '.[demo]'       # torch 2.13.0
    beside/bin/pip install -c constraints.txt flashmd==0.3.0 metatrain==2026.3.1             # 10 MB beside torch
    export OMP_NUM_THREADS=1
    for case in ala2 copper; do
        beside/bin/python benchmarks/flashmd/run.py WORK --case $case --model ours --cpu-seconds 100
        beside/bin/python benchmarks/flashmd/run.py WORK --case $case --model theirs --cpu-seconds 100
        beside/bin/python benchmarks/flashmd/run.py WORK --case $case --model theirs-default --cpu-seconds 100
    done
    beside/bin/python benchmarks/flashmd/run.py WORK --output benchmarks/results/flashmd.json

Errors are of one step on held-out pairs, mass-scaled, over the smallest of zero motion, free flight and the best linear
predictor. Roll-outs of 20 ps take Langevin half steps at 10/ps around each jump and nothing else: no guards, no
rescaling of energies; constraints, where there are any, are projected onto by ASE for both. What is there is kept: a
command that was stopped goes on with the next file.

What is unfair: FlashMD is made for large and diverse data and hours of a GPU; "theirs" has the size of ours,
"theirs-default" its default of 17.7 million weights. It takes several times as long for an update, so that it sees
fewer pairs. We start from a linear predictor fitted beforehand and are equivariant, FlashMD learns both. It is told
no bonds; we are. Its rate is raised to what a short training needs, ours is the default. CPU seconds hold the whole
training but not the reading of its data.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cases
import numpy as np
import torch
from ase import Atoms
from cases import CASES, FRICTION, RANGE, Case

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator import Propagator
from fastegnn_md.state import State
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import BASELINES, one_step_errors
from fastegnn_md.units import BOLTZMANN

LEARNING_RATE = 3e-3  # of FlashMD: its own 3e-4 is for longer trainings, and 1e-3 gave larger errors
HELD_OUT = 384  # pairs of the errors
_OFF, _HALVES = "g(r), RMS deviation from classical", "g(r), RMS deviation of halves of the classical run"
Jump = Callable[[State], tuple[torch.Tensor, torch.Tensor]]


def train_ours(
    case: Case, training: TrajectoryPairs, validation: TrajectoryPairs, cpu_seconds: float, folder: Path
) -> tuple[Propagator, dict[str, Any]]:
    """Updates for about as many CPU seconds, by a few that are timed first."""

    def run(updates: int, name: str) -> tuple[Propagator, float]:
        config = TrainingConfig(
            propagator=cases.network(case),
            updates=updates,
            batch_size=case.batch_size,
            validate_every=max(1, updates // 4),
            validation_pairs=256,
            checkpoint_every=updates,
        )
        begun = time.process_time()
        fit(training, validation, config, folder / f"{name}.safetensors", progress=False)
        return Propagator.load(folder / f"{name}.safetensors"), time.process_time() - begun

    run(1, "warm")  # the library is compiled
    once, more = run(1, "once")[1], run(41, "more")[1]
    updates = max(20, int((cpu_seconds - once) / ((more - once) / 40)))
    model, spent = run(updates, "ours")
    return model, {
        "updates": updates,
        "batch size": case.batch_size,
        "CPU seconds of training": spent,
        "pairs seen": updates * case.batch_size,
        "parameters": sum(one.numel() for one in model.parameters()),
    }


def errors_of(jumps: Callable[[list[State]], list[Any]], pairs: TrajectoryPairs, chosen: list[int]) -> dict[str, float]:
    """Mass-scaled RMSE of x and v, as ``one_step_errors`` has it."""
    sums, count = np.zeros(2), 0
    for first in range(0, len(chosen), 32):
        some = [pairs[index] for index in chosen[first : first + 32]]
        for (start, end), (x, v) in zip(some, jumps([start for start, _ in some]), strict=True):
            masses = start.masses.double()[:, None]
            sums += [float((masses * (x - end.positions.double()) ** 2).sum()),
                     float((masses * (v - end.velocities.double()) ** 2).sum())]  # fmt: skip
            count += 3 * len(masses)
    return dict(zip("xv", np.sqrt(sums / count).tolist(), strict=True))


def roll_out(case: Case, jump: Jump, start: State, constrained: bool, span: float, seed: int = 1) -> dict[str, Any]:
    """O(Δt/2), jump, O(Δt/2), until ``span`` ps are over, a number is not finite, or a bond to hydrogen breaks."""
    rng, lag = np.random.default_rng(seed), case.lag_fs / 1000
    masses = start.masses.double().numpy()[:, None]
    keep = np.exp(-FRICTION * lag / 2)
    kick = np.sqrt((1 - keep**2) * BOLTZMANN * case.kelvin / masses)
    atoms = Atoms(start.numbers.numpy(), start.positions.double().numpy(), masses=masses[:, 0])
    constraint = cases.constraint(start) if constrained else None
    bonds = np.array(cases.hydrogen_bonds(start)).T if start.bonds is not None else None
    x, v = start.positions.double().numpy(), start.velocities.double().numpy()
    kelvin: list[float] = []
    lengths: list[np.ndarray] = []
    shells: list[np.ndarray] = []
    degrees = 3 * len(masses) - (0 if constraint is None else len(constraint.pairs))
    spent, steps, ended = 0.0, round(span / lag), ""

    def bath(v: np.ndarray) -> np.ndarray:
        v = keep * v + kick * rng.normal(size=v.shape)
        if constraint is not None:
            atoms.set_positions(x, apply_constraint=False)
            momenta = masses * v
            constraint.adjust_momenta(atoms, momenta)
            v = momenta / masses
        return v

    for step in range(steps):
        v = bath(v)
        begun = time.process_time()
        ahead, now = jump(start.replace(positions=_like(x, start), velocities=_like(v, start)))
        spent += time.process_time() - begun
        moved, v = ahead.numpy().copy(), now.numpy().copy()
        if constraint is not None and np.isfinite(moved).all():
            atoms.set_positions(x, apply_constraint=False)
            free = moved.copy()
            constraint.adjust_positions(atoms, moved)
            v = v + (moved - free) / lag
        x = moved
        v = bath(v)
        if bonds is not None:
            lengths.append(np.linalg.norm(x[bonds[0]] - x[bonds[1]], axis=1))
        finite = np.isfinite(x).all() and np.isfinite(v).all()
        broken = bonds is not None and not ((lengths[-1] > RANGE[0]) & (lengths[-1] < RANGE[1])).all()
        if broken or not finite:
            ended = f"{'a bond to hydrogen is broken' if finite else 'not finite'} after {step + 1} jumps"
            break
        kelvin.append(float((masses * v**2).sum() / degrees / BOLTZMANN))
        if start.cell is not None:
            shells.append(cases.radial(x, start.cell.reshape(3, 3).double().numpy()))
    late = slice(len(kelvin) // 5, None)
    found: dict[str, Any] = {
        "ends": ended or f"{span:g} ps",
        "jumps": step + 1,
        "CPU ms per jump": 1e3 * spent / (step + 1),
    }
    found["temperature, K"] = float(np.mean(kelvin[late])) if kelvin else None
    if lengths and not constrained:
        every = np.concatenate(lengths[late]) if not ended else np.concatenate(lengths)
        found["bonds to hydrogen, Å"] = {"mean": float(every.mean()), "spread": float(every.std())}
    if shells:
        found["g(r)"] = np.mean(shells[late], axis=0).round(4).tolist()
    return found


def _like(values: np.ndarray, state: State) -> torch.Tensor:
    return torch.from_numpy(values).to(state.positions.dtype)


def reference(case: Case) -> dict[str, Any]:
    """Classical g(r) of copper, and of its halves, from 40 ps at 5 fs."""
    dynamics = cases.classical(int(case.kelvin), seed=3)
    dynamics.run(400)
    shells = []
    for _ in range(1000):
        dynamics.run(8)
        shells.append(cases.radial(dynamics.atoms.get_positions(), np.asarray(dynamics.atoms.cell)))
    return {
        "g(r)": np.mean(shells, axis=0).round(4).tolist(),
        "halves": [np.mean(half, axis=0).round(4).tolist() for half in (shells[:500], shells[500:])],
    }


def one(name: str, kind: str, cpu_seconds: float, span: float, folder: Path) -> dict[str, Any]:
    """Train a model and look at it."""
    case = CASES[name]
    training, validation, held_out = case.pairs(folder)
    rng = np.random.default_rng(0)
    chosen = sorted(int(index) for index in rng.permutation(len(held_out))[:HELD_OUT])
    start = held_out[chosen[0]][0]
    found: dict[str, Any] = {"case": case.name, "lag, fs": case.lag_fs, "training pairs": len(training)}
    if kind == "ours":
        model, about = train_ours(case, training, validation, cpu_seconds, folder)
        errors = {key: asdict(value) for key, value in one_step_errors(model, held_out, chosen).items()}
        found["baselines"] = {key: errors[key] for key in BASELINES}

        def jumps(states: list[State]) -> list[tuple[torch.Tensor, torch.Tensor]]:
            with torch.no_grad():
                ended = [model(state) for state in states]
            return [(state.positions.double(), state.velocities.double()) for state in ended]
    else:
        import theirs

        jumps, about = theirs.train(
            training,
            validation,
            cpu_seconds=cpu_seconds,
            timestep_fs=case.lag_fs,
            hypers={**(theirs.SMALL if kind == "theirs" else {}), **case.theirs},
            batch_size=case.batch_size,
            learning_rate=LEARNING_RATE,
            folder=folder / kind,
        )
        about["parameters"] = jumps.parameters
    found |= about | {"RMSE": errors_of(jumps, held_out, chosen)}
    for constrained in (True, False) if case.constrained else (False,):
        key = "roll-out" if constrained or not case.constrained else "roll-out without constraints"
        found[key] = roll_out(case, lambda state: jumps([state])[0], start, constrained, span)
    return found


def table(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder, over the best baseline."""
    rows = []
    for name in CASES:
        base, classical = folder / name / "ours.json", folder / name / "classical.json"
        if not base.exists():
            continue
        baselines = json.loads(base.read_text(encoding="utf-8"))["baselines"]
        for path in sorted((folder / name).glob("*.json")):
            if path == classical:
                continue
            row = json.loads(path.read_text(encoding="utf-8"))
            row.pop("baselines", None)
            best = {part: min(row_of[part] for row_of in baselines.values()) for part in "xv"}
            row["over the best baseline"] = {part: row["RMSE"][part] / best[part] for part in "xv"}
            if classical.exists():
                known = json.loads(classical.read_text(encoding="utf-8"))
                row[_OFF] = _apart(row["roll-out"].pop("g(r)"), known["g(r)"])
                row[_HALVES] = _apart(*known["halves"])
            rows.append({"model": path.stem, **row})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [
        "| system | model | parameters | updates | x, v over the best baseline | ms a jump | T, K | roll-out |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        over, runs = row["over the best baseline"], [row["roll-out"]]
        runs += [row["roll-out without constraints"]] if "roll-out without constraints" in row else []
        ends = "; without constraints ".join(run["ends"] for run in runs)
        ends += f"; g(r) off by {row[_OFF]:.3f} (halves of the classical run {row[_HALVES]:.3f})" if _OFF in row else ""
        kelvin = runs[0]["temperature, K"]
        lines.append(
            f"| {row['case'].partition(',')[0]} | {row['model']} | {row['parameters']:,} | {row['updates']:,} "
            f"| {over['x']:.3f}, {over['v']:.3f} | {runs[0]['CPU ms per jump']:.2f} "
            f"| {'–' if kelvin is None else round(kelvin)} | {ends} |"
        )
    return "\n".join(lines)


def _apart(one: list[float], other: list[float]) -> float:
    return float(np.sqrt(np.mean((np.array(one) - other) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data, models and results")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--model", choices=("ours", "theirs", "theirs-default"))
    parser.add_argument("--cpu-seconds", type=float, default=100.0)
    parser.add_argument("--picoseconds", type=float, default=20.0, help="of a roll-out")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.case is not None:
        folder = arguments.work / arguments.case
        folder.mkdir(parents=True, exist_ok=True)
        path, classical = folder / f"{arguments.model}.json", folder / "classical.json"
        if arguments.model is not None and not path.exists():
            found = one(arguments.case, arguments.model, arguments.cpu_seconds, arguments.picoseconds, folder)
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if arguments.case == "copper" and arguments.model == "ours" and not classical.exists():
            classical.write_text(json.dumps(reference(CASES["copper"])) + "\n", encoding="utf-8")
    if arguments.output is not None:
        about = {name: version(name) for name in ("torch", "flashmd", "metatrain")}
        about |= {"threads": 1, "cores": os.cpu_count(), "friction, 1/ps": FRICTION}
        rows = table(arguments.work)
        arguments.output.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        print(markdown(rows))


if __name__ == "__main__":
    main()
