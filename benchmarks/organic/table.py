"""One-step errors of models on molecules that none of them has seen: the exam of ``exam.smi``.

    python benchmarks/organic/build.py EXAM --exam
    OMP_NUM_THREADS=1 python benchmarks/organic/table.py EXAM --model organic-xtb-4fs --model organic-xtb \\
        --output benchmarks/results/organic_table.json

Errors are over the best of zero motion, free flight and the best linear predictor, and over the thermal velocity at
350 K. Force-informed models ask GFN2-xTB where they predict the middle of the jump to be, as in a run, and not at the
stored frame. A model that is in the output already is judged again; others there are kept. ``--markdown`` prints the
tables of an output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import about_machine, xtb
from judging import asked_pairs, summary
from lists import Molecule, read_list

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.errors import FastEGNNMDError
from fastegnn_md.training.one_step import one_step_errors, ratios
from fastegnn_md.units import BOLTZMANN

TEMPERATURE = 350.0


def judge(propagator: Propagator, molecule: Molecule, store: Path, most: int) -> dict[str, Any]:
    """Errors on one molecule."""
    pairs = TrajectoryPairs(store, lag=propagator.timestep, progress=False)
    try:
        asked = asked_pairs(pairs, propagator, xtb(), most)
        errors = one_step_errors(propagator, asked, asked.indices)
    except FastEGNNMDError as error:
        return {"atoms": molecule.n_atoms, "refused": str(error)}
    over = ratios(errors)
    learned = errors["learned"]
    thermal = float(np.sqrt(BOLTZMANN * TEMPERATURE))
    return {
        "atoms": molecule.n_atoms,
        "pairs": len(asked.indices),
        "x over baseline": over["x"],
        "v over baseline": over["v"],
        "v over thermal": learned.v / thermal,
        "RMSE, mass-scaled": {name: asdict(error) for name, error in errors.items()},
    }


def exam(propagator: Propagator, folder: Path, most: int) -> dict[str, Any]:
    """Errors on all molecules that have a store."""
    molecules = [one for one in read_list("exam") if (folder / f"{one.name}.h5").exists()]
    if not molecules:
        raise SystemExit(f"{folder} has no store of the exam; make them: python benchmarks/organic/build.py --exam")
    rows, data = {}, hashlib.sha256()
    for one in molecules:
        store = folder / f"{one.name}.h5"
        rows[one.name] = judge(propagator, one, store, most)
        data.update(TrajectoryPairs(store, lag=propagator.timestep, progress=False).fingerprint.encode())
        print(f"{one.name:28s} {one.n_atoms:3d}  {_shown(rows[one.name])}", flush=True)
    return {
        "time step, fs": 1e3 * propagator.timestep,
        "kind": propagator.kind,
        "identity": propagator.identity(),
        "exam data": data.hexdigest(),
        "summary": summary(rows, molecules),
        "molecules": rows,
    }


def _shown(row: dict[str, Any]) -> str:
    if "refused" in row:
        return row["refused"][:80]
    return "  ".join(f"{key} {row[key]:.4f}" for key in ("v over baseline", "x over baseline", "v over thermal"))


def markdown(found: dict[str, Any]) -> str:
    """Tables of the summaries of all models, and of their molecules."""
    models = found["models"]
    head = "".join(f" {name}: median | worst | % of thermal v |" for name in models)
    lines = [f"| | molecules |{head}", "|---|---|" + "---|---|---|" * len(models)]
    kinds = list(dict.fromkeys(kind for model in models.values() for kind in model["summary"]))
    for kind in kinds:
        parts = [model["summary"].get(kind) for model in models.values()]
        count = max(part["molecules"] for part in parts if part)
        lines.append(f"| {kind} | {count} |" + "".join(_cells(part) for part in parts))
    lines += ["", "| molecule | atoms |" + "".join(f" {name} |" for name in models), "|---|---|" + "---|" * len(models)]
    for one in read_list("exam"):
        parts = [model["molecules"].get(one.name, {}).get("v over baseline") for model in models.values()]
        shown = "".join(f" {part:.3f} |" if part is not None else " – |" for part in parts)
        lines.append(f"| {one.name} | {one.n_atoms} |{shown}")
    return "\n".join(lines)


def _cells(part: dict[str, Any] | None) -> str:
    if part is None:
        return " – | – | – |"
    return (
        f" {part['median v over baseline']:.3f} | {part['worst v over baseline']:.3f} ({part['worst molecule']}) |"
        f" {100 * part['median v over thermal']:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="?", help="folder of build.py --exam")
    parser.add_argument("--model", action="append", default=[], help="name of a shipped model, or file; again for more")
    parser.add_argument("--pairs", type=int, default=40, help="of each molecule, at most")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(arguments.output.read_text("utf-8")) if arguments.output.exists() else {"models": {}}
    for model in arguments.model:
        if arguments.stores is None:
            parser.error("give the folder of the exam's stores")
        propagator = Propagator.load(model)
        found["models"][Path(model).stem] = {
            "command": f"python benchmarks/organic/table.py EXAM --model {Path(model).stem} --pairs {arguments.pairs}",
            "machine": about_machine() | {"load": os.getloadavg()[1]},
            **exam(propagator, arguments.stores, arguments.pairs),
        }
        arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.markdown:
        print(markdown(found))


if __name__ == "__main__":
    main()
