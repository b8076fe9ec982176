"""Time and peak memory of one jump of a periodic system at liquid density, by its size.

    python benchmarks/scaling.py --atoms 10000 30000 100000 300000 1000000 --output benchmarks/results/scaling_cpu.json

A jittered lattice of one element, 0.1 atoms per Å³, cutoff 5 Å, the default network otherwise (C = 3), float32. Each
size runs in a process of its own, whose peak resident memory is what is reported.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from hybrid_ala2 import machine
from jump import propagator_for

from fastegnn_md import State
from fastegnn_md.graph import neighbour_list

DENSITY, CUTOFF = 0.1, 5.0


def liquid(atoms: int) -> State:
    """A cube of atoms of argon's number, none closer than 1.5 Å."""
    side = round(atoms ** (1 / 3))
    spacing = DENSITY ** (-1 / 3)
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * 3) * spacing
    count = len(grid)
    return State(
        positions=grid + 0.2 * torch.rand(count, 3, generator=generator),
        velocities=2.5 * torch.randn(count, 3, generator=generator),
        numbers=torch.full((count,), 18),
        masses=torch.full((count,), 39.95),
        cell=torch.eye(3)[None] * side * spacing,
    )


def measure(atoms: int, threads: int) -> dict[str, float]:
    """One row, in this process."""
    torch.set_num_threads(threads)
    propagator = propagator_for(liquid(1000), cutoff=CUTOFF)
    state = liquid(atoms)
    begun = time.perf_counter()
    propagator(state)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    begun = time.perf_counter()
    edges = neighbour_list(state, CUTOFF).edge_index.shape[1]
    return {
        "atoms": state.n_atoms,
        "edges": edges,
        "seconds": seconds,
        "of which neighbour list": time.perf_counter() - begun,
        "peak memory, GiB": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", action="store_true", help="the first size, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.atoms[0], arguments.threads)))
        return
    rows = []
    for atoms in arguments.atoms:
        command = [sys.executable, __file__, "--one", "--atoms", str(atoms), "--threads", str(arguments.threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    result: dict[str, object] = {"machine": {**machine(), "threads": arguments.threads}, "rows": rows}
    if len(rows) > 1:
        sizes = np.log([row["atoms"] for row in rows])
        for name in ("seconds", "peak memory, GiB"):
            result[f"log-log slope of {name}"] = float(np.polyfit(sizes, np.log([row[name] for row in rows]), 1)[0])
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
