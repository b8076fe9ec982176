"""Who is fastest where: torch, torch-scatter, the C++ library and the Triton kernels, and what ``auto`` takes.

    OMP_NUM_THREADS=1 python benchmarks/backends.py --output benchmarks/results/backends_cpu.json

Whole networks, forward and with the gradients of all weights, in turn in one process. Graphs: alanine dipeptide (22
atoms, all pairs), 1,024 copies of it, and the backbone of AdK at 10 Å (855 atoms, 58,732 edges). Back-ends that are not
there (torch-scatter is the extra ``scatter``, Triton is for GPUs, the library for the CPU and FastEGNN) are left out.
Milliseconds are medians; with one thread on the CPU they are of the time the thread has computed. ``auto`` is nobody's
choice; ``auto over the fastest`` is the median over rounds. On a GPU (``--device``) each call is waited for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import MDAnalysis as mda
import torch
from hybrid_ala2 import machine
from jump import ala2, state_of
from MDAnalysisTests.datafiles import DCD, PSF
from torch import Tensor, nn

from fastegnn_md import State
from fastegnn_md.graph import neighbour_list
from fastegnn_md.models import build_model, by_library
from fastegnn_md.nn.messages import gpu as gpu_kernel
from fastegnn_md.nn.native.library import library
from fastegnn_md.segments import available_backends, segment_backend

CUTOFF, COPIES = 10.0, 1024
NETWORKS: dict[str, dict[str, Any]] = {
    "FastEGNN": {"virtual_nodes": 3},
    "SchNet": {"cutoff": CUTOFF},
    "GVP": {"cutoff": CUTOFF},
}


@contextmanager
def chosen(name: str) -> Iterator[None]:
    """One back-end and no other."""
    with ExitStack() as stack:
        if name == "auto":
            yield
            return
        if name != "C++ library":
            stack.enter_context(patch.object(by_library, "plan_for", lambda shape, like: None))
        if name != "Triton":
            stack.enter_context(patch.object(gpu_kernel, "serves", lambda inputs: False))
            stack.enter_context(patch.object(gpu_kernel, "carries", lambda *given: False))
        stack.enter_context(segment_backend("torch_scatter" if name == "torch-scatter" else "native"))
        yield


def there(network: str, device: str) -> list[str]:
    """Back-ends that serve a network here."""
    found = ["torch"]
    if "torch_scatter" in available_backends():
        found.append("torch-scatter")
    if network == "FastEGNN" and device == "cpu" and library() is not None:
        found.append("C++ library")
    if network == "FastEGNN" and device == "cuda":
        found.append("Triton")
    return [*found, "auto"]


def forward(model: nn.Module, given: dict[str, Any]) -> Tensor:
    """Positions, nothing recorded."""
    with torch.no_grad():
        found: Tensor = model(**given).x
    return found


def backward(model: nn.Module, given: dict[str, Any]) -> Tensor:
    """Positions, and gradients of all weights."""
    found: Tensor = model(**given).x
    torch.autograd.grad(found, list(model.parameters()), torch.ones_like(found), allow_unused=True)
    return found.detach()


def in_turn(calls: dict[str, Callable[[], Tensor]], rounds: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of calls made in turn, each by the back-end of its name; the first of each is not counted."""
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for count in range(rounds + 1):
        for name in calls if count % 2 else reversed(calls):
            with chosen(name):
                begun = clock()
                calls[name]()
                if device == "cuda":
                    torch.cuda.synchronize()
                spent = clock() - begun
            if count:
                times[name].append(1e3 * spent)
    return times


def rows(device: str, rounds: tuple[int, int, int]) -> Iterator[dict[str, object]]:
    """Rows of the results."""
    one, middle = ala2(), state_of(mda.Universe(PSF, DCD).select_atoms("backbone"))
    graphs = {"22 atoms": one, "855 atoms": middle, f"{COPIES:,} copies of 22 atoms": State.concatenate([one] * COPIES)}
    for (graph, state), most in zip(graphs.items(), rounds, strict=True):
        state = state.to(device=device, dtype=torch.float32)
        edges = neighbour_list(state, CUTOFF)
        given = {
            "h": torch.ones(state.n_atoms, 2, device=device),
            "x": state.positions,
            "v": state.velocities,
            "edge_index": edges.edge_index,
            "edge_attr": edges.distance,
            "batch": state.batch,
            "systems": state.n_systems,
        }
        for network, options in NETWORKS.items():
            if network != "FastEGNN" and (state.n_systems > 1 or most == 1):
                continue  # a minute each
            count = most if network == "FastEGNN" else max(1, most // 3)
            model = build_model(network.lower(), node_features=2, edge_features=1, **options).to(device)
            names = there(network, device)
            for part, call in (("forward", forward), ("forward and backward", backward)):
                times = in_turn({name: partial(call, model, given) for name in names}, count, device)
                best = [min(values) for values in zip(*(times[name] for name in names[:-1]), strict=True)]
                over = statistics.median(auto / other for auto, other in zip(times["auto"], best, strict=True))
                yield {
                    "network": network,
                    "graph": graph,
                    "edges": edges.edge_index.shape[1],
                    "part": part,
                    **{f"{name}, ms": round(statistics.median(values), 4) for name, values in times.items()},
                    "auto over the fastest": round(over, 3),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cuda", "cpu"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few rounds, FastEGNN alone on the large graphs")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    for row in rows(arguments.device, (5, 1, 1) if arguments.quick else (100, 7, 3)):
        found.append(row)
        print(json.dumps(row), flush=True)
    if arguments.output is not None:
        gpu = torch.cuda.get_device_name() if arguments.device == "cuda" else "none"
        described = {**machine(), "gpu": gpu, "threads": arguments.threads}
        arguments.output.write_text(json.dumps({"machine": described, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
