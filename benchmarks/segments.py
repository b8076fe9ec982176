"""Sums and gathers by segment: torch-scatter against torch, alone and in whole networks, in turn in one process.

    python benchmarks/segments.py --output benchmarks/results/segments_cpu.json

It needs the extra ``scatter``. Graphs: alanine dipeptide (22 atoms, all pairs), 1,024 copies of it, and the backbone of
AdK at 10 Å (855 atoms, 58,732 edges). ``times faster`` is the median over pairs of calls of torch's time over
torch-scatter's. With one thread on the CPU times are those the thread has computed, not those it has waited for others
on the machine. On a GPU (``--device``, by default where there is one) each call is waited for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import torch
from hybrid_ala2 import machine
from jump import state_of
from MDAnalysisTests.datafiles import DCD, PSF
from torch import Tensor

from fastegnn_md import State
from fastegnn_md.graph import neighbour_list
from fastegnn_md.models import build_model
from fastegnn_md.segments import BACKENDS, Segments, segment_backend

Call = Callable[[], object]
CUTOFF, COPIES, WIDTHS = 10.0, 1024, (64, 3)
# Networks: sums of messages by a formula of their own, by the general one, and of several widths.
NETWORKS: dict[str, dict[str, Any]] = {
    "fastegnn": {"virtual_nodes": 3},
    "schnet": {"cutoff": CUTOFF},
    "gvp": {"cutoff": CUTOFF},
}


def in_turn(calls: dict[str, Call], repeats: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of calls made in turn, the first of each not counted."""
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name in calls if repeat % 2 else reversed(calls):
            begun = clock()
            calls[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                times[name].append(1e3 * (clock() - begun))
    return times


def compared(calls: dict[str, Call], repeats: int, device: str) -> dict[str, float]:
    """Times of a call by each back-end and their ratio."""
    times = in_turn(calls, repeats, device)
    ratios = [a / b for a, b in zip(times["native"], times["torch_scatter"], strict=True)]
    found = {f"{name}, ms": round(statistics.median(values), 4) for name, values in times.items()}
    return {**found, "times faster": round(statistics.median(ratios), 3)}


def parts(
    calls: dict[str, Callable[[], Tensor]], inputs: list[Tensor], repeats: int, device: str
) -> Iterator[dict[str, object]]:
    """Calls by each back-end without gradients, and with those of some inputs."""
    alone: dict[str, Call] = {name: partial(without_gradient, call) for name, call in calls.items()}
    yield {"part": "forward", **compared(alone, repeats, device)}
    both: dict[str, Call] = {name: partial(with_gradients, call, inputs) for name, call in calls.items()}
    yield {"part": "forward and backward", **compared(both, repeats, device)}


def without_gradient(call: Callable[[], Tensor]) -> None:
    """Nothing is recorded."""
    with torch.no_grad():
        call()


def with_gradients(call: Callable[[], Tensor], inputs: list[Tensor]) -> None:
    """The call, and the gradients of its result."""
    result = call()
    torch.autograd.grad(result, inputs, torch.ones_like(result), allow_unused=True)


def operations(index: Tensor, size: int, widths: tuple[int, ...], repeats: int) -> Iterator[dict[str, object]]:
    """Sums and gathers alone."""
    device, members = index.device.type, len(index)
    segments = {name: Segments(index, size, name) for name in BACKENDS}
    for width in widths:
        for what, rows in (("sum", members), ("gather", size)):
            values = torch.randn(rows, width, device=device, requires_grad=True)
            calls = {name: partial(getattr(one, what), values) for name, one in segments.items()}
            for row in parts(calls, [values], repeats, device):
                yield {"what": what, "segments": size, "members": members, "width": width, **row}


def networks(state: State, repeats: int) -> Iterator[dict[str, object]]:
    """Whole networks."""
    device, edges = state.device.type, neighbour_list(state, CUTOFF)
    given = {
        "h": torch.ones(state.n_atoms, 2, device=device),
        "x": state.positions,
        "v": state.velocities,
        "edge_index": edges.edge_index,
        "edge_attr": edges.distance,
        "batch": state.batch,
        "systems": state.n_systems,
    }
    sizes = {"atoms": state.n_atoms, "systems": state.n_systems, "edges": edges.edge_index.shape[1]}
    for name, options in NETWORKS.items():
        model = build_model(name, node_features=2, edge_features=1, **options).to(device)
        calls = {backend: partial(positions, model, given, backend) for backend in BACKENDS}
        for row in parts(calls, list(model.parameters()), repeats, device):
            yield {"what": f"network {name}", **sizes, **row}


def positions(model: torch.nn.Module, given: dict[str, Any], backend: str) -> Tensor:
    """Those that a network predicts with the sums of a back-end."""
    with segment_backend(backend):
        found: Tensor = model(**given).x
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        molecule = mda.Universe(str(path))
        molecule.guess_TopologyAttrs(to_guess=["bonds"])
        one = state_of(molecule.atoms)
    # With repeats of operations and of networks.
    graphs = {
        "22 atoms": (one, 400, 100),
        "855 atoms": (state_of(mda.Universe(PSF, DCD).select_atoms("backbone")), 60, 10),
        f"{COPIES} copies of 22 atoms": (State.concatenate([one] * COPIES), 20, 3),
    }
    rows = []
    for name, (state, many, few) in graphs.items():
        state = state.to(device=arguments.device, dtype=torch.float32)
        index = neighbour_list(state, CUTOFF).edge_index[0].contiguous()
        measured = [operations(index, state.n_atoms, WIDTHS, many)]
        if state.n_systems > 1:  # the sum over a single system is no matter of segments
            assert state.batch is not None  # set by State
            measured.append(operations(state.batch, state.n_systems, (192, 3), 10 * many))
        measured.append(networks(state, few))
        for row in (row for part in measured for row in part):
            rows.append({"graph": name, **row})
            print(json.dumps(rows[-1]), flush=True)
    if arguments.output is not None:
        gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else "none"
        described = {**machine(), "gpu": gpu, "threads": arguments.threads}
        arguments.output.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
