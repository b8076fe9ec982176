"""Neighbour lists with and without a Verlet skin: milliseconds where the list of before serves, and where it does not.

    python benchmarks/neighbours.py --output benchmarks/results/neighbours_cpu.json

The liquid of ``scaling.py``, cutoff 5 Å. An atom moves 0.05 Å per call, so that a skin of 0.5 Å serves several calls;
the first call of each search makes the list. Without a skin every call does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from hybrid_ala2 import machine
from scaling import CUTOFF, liquid

from fastegnn_md.graph import NeighbourSearch


def milliseconds(atoms: int, skin: float, calls: int) -> tuple[float, float]:
    """Of the call that makes a list, and the median of those that follow."""
    state, generator = liquid(atoms), torch.Generator().manual_seed(0)
    search, times = NeighbourSearch(CUTOFF, skin), []
    for _ in range(calls + 1):
        begun = time.perf_counter()
        search(state)
        times.append(1e3 * (time.perf_counter() - begun))
        moved = 0.05 * torch.nn.functional.normalize(torch.randn(state.positions.shape, generator=generator), dim=1)
        state = state.replace(positions=state.positions + moved)
    return times[0], statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[2_000, 10_000, 100_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for atoms in arguments.atoms:
        for skin in (0.0, 0.5, 1.0):
            made, kept = milliseconds(atoms, skin, calls=4)
            rows.append({"atoms": atoms, "skin, Å": skin, "ms, first call": made, "ms, calls after it": kept})
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    if arguments.output is not None:
        result = {"machine": {**machine(), "threads": arguments.threads}, "rows": rows}
        arguments.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
