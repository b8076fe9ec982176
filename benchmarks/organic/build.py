"""Bursts of GFN2-xTB for the molecules of ``train.smi`` or ``exam.smi``: one store per molecule.

Needs RDKit and tblite: ``pip install rdkit tblite``. About an hour of one core for the training list:

    OMP_NUM_THREADS=1 python benchmarks/organic/build.py FOLDER --processes 4
    OMP_NUM_THREADS=1 python benchmarks/organic/build.py FOLDER --exam --processes 4
    OMP_NUM_THREADS=1 python benchmarks/organic/build.py HEAVY --hydrogen 4 --first 66

Run again, it goes on where it stopped. ``summary.json`` of the folder says what was dropped and why.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from chemistry import canonical, columns
from lists import HELD_OUT, Molecule, read_list, shuffled
from sampling import Plan, build, exam_plan, training_plan


def check_lists() -> None:
    """Compare the columns of both lists with what RDKit finds, and the lists with each other."""
    seen: dict[str, str] = {}
    names: set[str] = set()
    for which in ("train", "exam"):
        for one in read_list(which):
            found = columns(one.smiles)
            if found != (one.formula, one.n_atoms, ",".join(one.groups)):
                raise SystemExit(f"{one.name} of {which}.smi has other columns than RDKit finds: {found}")
            same = canonical(one.smiles)
            if same in seen or one.name in names:
                raise SystemExit(f"{one.name} of {which}.smi is there twice, also as {seen.get(same, one.name)}")
            seen[same] = one.name
            names.add(one.name)
            if which == "train" and set(one.groups) & set(HELD_OUT):
                raise SystemExit(f"{one.name} of train.smi has a group that is held out: {one.groups}")


def work(molecule: Molecule, plan: Plan, folder: Path) -> dict[str, Any]:
    """What a worker process does."""
    return build(molecule, plan, folder)


def summarise(molecules: list[Molecule], folder: Path, seconds: float) -> dict[str, Any]:
    """Write and return the counts of a folder."""
    records = {}
    for one in molecules:
        path = folder / f"{one.name}.json"
        if path.exists():
            records[one.name] = json.loads(path.read_text())
    dropped = {name: record["dropped"] for name, record in records.items() if "dropped" in record}
    summary = {
        "molecules": len(molecules),
        "done": len(records),
        "stores": len(records) - len(dropped),
        "dropped": dropped,
        "drop rate": round(len(dropped) / max(1, len(records)), 4),
        "runs that broke a bond": sum(record.get("runs that broke a bond", 0) for record in records.values()),
        "bursts": sum(record["frames"] for record in records.values() if "dropped" not in record),
        "core seconds": round(sum(record["seconds"] for record in records.values()), 1),
        "seconds of this call": round(seconds, 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exam", action="store_true", help="exam.smi at 350 K, ten bursts each")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--hydrogen", type=float, help="mass of hydrogen in u; default: the natural one")
    parser.add_argument("--molecules", nargs="+", help="only these")
    parser.add_argument("--first", type=int, help="only so many molecules of the order")
    parser.add_argument("--check", action="store_true", help="check the lists and stop")
    arguments = parser.parse_args()
    check_lists()
    if arguments.check:
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # of the worker processes
    which, planned = ("exam", exam_plan) if arguments.exam else ("train", training_plan)
    molecules = shuffled(read_list(which))[: arguments.first]
    if arguments.molecules:
        molecules = [one for one in molecules if one.name in arguments.molecules]
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [one for one in molecules if not (folder / f"{one.name}.json").exists()]
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
        plans = {one.name: replace(planned(one.n_atoms), hydrogen=arguments.hydrogen) for one in waiting}
        jobs = {pool.submit(work, one, plans[one.name], folder): one for one in waiting}
        for count, job in enumerate(as_completed(jobs), 1):
            record = job.result()
            said = record.get("dropped", f"{record.get('frames')} bursts")
            print(
                f"{time.monotonic() - start:7.0f} s  {count}/{len(waiting)}  {jobs[job].name}  "
                f"{record['atoms']} atoms  {record['seconds']} s  {said}",
                flush=True,
            )
            if count % 20 == 0:
                summarise(molecules, folder, time.monotonic() - start)
    print(json.dumps(summarise(molecules, folder, time.monotonic() - start), indent=1))


if __name__ == "__main__":
    main()
