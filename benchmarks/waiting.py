"""How long one waits before jumps are fast, in fresh processes: on a machine that has built nothing yet, and later.

    OMP_NUM_THREADS=1 python benchmarks/waiting.py --output benchmarks/results/waiting_cpu.json

A process imports the package, loads ``ala2-vacuum`` and makes jumps of alanine dipeptide. ``seconds of waiting`` are
those of the first three jumps over three of the steady ones. The first process has an empty cache, so that it compiles
what it needs; the others find what it has kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from hybrid_ala2 import machine

PROGRAM = """
import json, time
begun = time.perf_counter()
import torch
torch.set_num_threads(1)
with_torch = time.perf_counter()
from jump import ala2
from fastegnn_md import load
state = ala2()
imported = time.perf_counter()
propagator = load("ala2-vacuum")
loaded = time.perf_counter()
times = []
for _ in range(103):
    start = time.perf_counter()
    propagator(state)
    times.append(time.perf_counter() - start)
steady = sorted(times[3:])[50]
print(json.dumps({
    "seconds of importing torch": with_torch - begun,
    "seconds of importing the rest": imported - with_torch,
    "seconds of loading the model": loaded - imported,
    "seconds of waiting": sum(times[:3]) - 3 * steady,
    "ms of a steady jump": 1e3 * steady,
}))
"""


def fresh(cache: Path) -> dict[str, float]:
    """What a process of its own says."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="processes that find a built library")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = fresh(Path(folder))
        later = [fresh(Path(folder)) for _ in range(arguments.runs)]
    rows: list[dict[str, object]] = [{"process": "the first on a machine", **first}]
    rows.append({"process": "later ones", **{key: statistics.median(one[key] for one in later) for key in first}})
    for row in rows:
        print(json.dumps(row))
    if arguments.output is not None:
        text = json.dumps({"machine": {**machine(), "threads": 1}, "rows": rows}, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
