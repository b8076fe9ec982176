"""What a learned run cost beside classical dynamics, and how it was judged, as benchmarks/results/learning_SYSTEM.json.

    python benchmarks/learning/collect.py silicon RUNS

Costs are counted from zero: every engine call, segment, exam, update, audit and refused jump from the first step on.
Learning yields no statistics, so that a learned run of T ps costs the learning and T ps of frozen jumps, a classical
one T ps of steps; both begin from the same settled frame. 50 ps and 1 ns are extrapolated from the measured seconds of
a step, of a frozen jump, and of the learning. Seconds are those of the processor, on one thread.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from judge import atoms_of
from systems import SYSTEMS, System

from fastegnn_md.validation.observables.distances import radial_distribution

_LONGEST, _EVERY = 5.4, 10  # Å, frames

RESULTS = Path(__file__).resolve().parents[1] / "results"


def call_seconds(path: Path) -> float:
    """Median over hundreds of calls of a reference, CPU s."""
    with path.open(encoding="utf-8") as file:
        return float(np.median([float(row["cpu_s"]) for row in csv.DictReader(file)]))


def costs(system: System, lag: float, spent: dict[str, Any], call: float) -> dict[str, Any]:
    """Seconds of the parts, and what they come to."""
    learning, frozen = spent["learning"], spent["frozen"]
    jump, classical = frozen["cpu_s"] / frozen["steps"], call * lag / system.timestep
    found: dict[str, Any] = {
        "engine call, CPU s": call,
        "classical steps of a lag, CPU s": classical,
        "frozen jump with guards and audits, CPU s": jump,
        "gain of a jump": classical / jump,
        "learning, CPU s": learning["cpu_s"],
        "of which engine": learning["engine_cpu_s"],
        "engine calls of the learning": learning["calls"],
        "simulated while learning, ps": learning["steps"] * lag / 1000,
        "engine calls of the frozen run": frozen["calls"],
        "frozen run, ps": frozen["steps"] * lag / 1000,
        "pays after, ps": learning["cpu_s"] / (classical - jump) * lag / 1000 if classical > jump else None,
    }
    for picoseconds in (50, 1000):
        steps = 1000 * picoseconds / lag
        learned = learning["cpu_s"] + steps * jump
        found[f"{picoseconds} ps, extrapolated"] = {
            "learned, CPU s": learned,
            "classical, CPU s": steps * classical,
            "gain": steps * classical / learned,
        }
    return found


def with_distances(cells: dict[str, Any], runs: Path) -> dict[str, Any]:
    """Mean of |g − g_ref| up to 5.4 Å, the classical run of 64 atoms being the reference.

    MDAnalysis divides by the N (N − 1) pairs of an ideal gas; for the shells of a crystal N² is the same in all cells.
    """
    silicon = SYSTEMS["silicon"]
    files = {"classical": (runs / "silicon-classical.traj", silicon.saved)}
    files |= {atoms: (runs / f"silicon-{atoms}.traj", silicon.lag) for atoms in cells}
    lines = {}
    for name, (path, spacing) in files.items():
        atoms = atoms_of(path, spacing)
        found = radial_distribution(atoms, atoms, _LONGEST).run(step=_EVERY).results
        lines[name] = found.rdf * (len(atoms) - 1) / len(atoms)
    for atoms, cell in cells.items():
        cell["g(r), mean difference"] = float(np.abs(lines[atoms] - lines["classical"]).mean())
    return cells


def main() -> None:
    """Collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--name", default="learned")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--provenance", help="what was done otherwise than by the commands alone")
    options = parser.parse_args()
    system = SYSTEMS[options.system]
    base = options.runs / f"{options.system}-{options.name}"
    spent = json.loads(base.with_suffix(".json").read_text("utf-8"))
    judged = json.loads((base.with_name(f"{base.name}-judgement") / "report.json").read_text("utf-8"))
    for row in judged["rows"]:
        row.pop("plots")
    found = {
        "system": options.system,
        "settings": {
            "temperature_K": system.temperature,
            "friction_per_ps": system.friction,
            "timestep_fs": system.timestep,
            "lag_fs": spent["lag_fs"],
        },
        "costs": costs(system, spent["lag_fs"], spent, call_seconds(options.runs / f"{options.system}-classical.csv")),
        "learning": spent["account"],
        "judgement": judged,
    }
    if options.provenance:
        found["provenance"] = options.provenance
    larger = options.runs / f"{options.system}-larger.json"
    if larger.exists():
        found["larger cells"] = with_distances(json.loads(larger.read_text("utf-8")), options.runs)
    modes = options.runs / f"{options.system}-modes.json"
    if modes.exists():
        found["without a classical run"] = json.loads(modes.read_text("utf-8"))
    path = options.output / f"learning_{options.system}.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({**found["costs"], "wrote": str(path)}, indent=2))


if __name__ == "__main__":
    main()
