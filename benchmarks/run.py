"""FastEGNN here against the published FastEGNN and EGNN, forward and training step, in turn in one process.

    python benchmarks/run.py --reference PATH --output benchmarks/results/network_cpu.json

PATH is a checkout of the published code (github.com/GLAD-RUC/FastEGNN), which needs torch_geometric, torch_scatter and
psutil. Without it ours is timed alone. The graph is that of the protein benchmark: the 855 backbone atoms of AdK
(PSF/DCD of MDAnalysisTests), 10 Å, 58,732 edges; edge dropping takes the longest edges away before the clock starts, on
both sides. ``FASTEGNN_MD_NATIVE=off`` times ours with operations of torch alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import MDAnalysis as mda
import torch
from hybrid_ala2 import machine
from jump import state_of
from MDAnalysisTests.datafiles import DCD, PSF
from torch import Tensor, nn

from fastegnn_md.graph import neighbour_list, shortest_edges
from fastegnn_md.models import build_model
from fastegnn_md.papers.tables.timing import in_turn

HIDDEN, LAYERS, VIRTUAL = 64, 4, 3


class Task:
    """Inputs of one graph, and a target to train towards."""

    def __init__(self, share: float):
        state = state_of(mda.Universe(PSF, DCD).select_atoms("backbone")).to(dtype=torch.float32)
        edges = neighbour_list(state, 10.0)
        keep = shortest_edges(edges.distance[:, 0], torch.zeros(len(edges.distance), dtype=torch.int64), share)
        self.x, self.v = state.positions, state.velocities
        self.h = torch.ones(state.n_atoms, 2)
        self.index, self.attributes = edges.edge_index[:, keep].contiguous(), edges.distance[keep]
        self.batch = torch.zeros(state.n_atoms, dtype=torch.int64)
        self.target = self.x + 0.1 * torch.randn(self.x.shape, generator=torch.Generator().manual_seed(0))

    def to(self, device: str) -> Task:
        """The same on another device."""
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        return self


def ours(task: Task) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The network of this package, as the paper has it."""
    model = build_model(
        "fastegnn", node_features=2, edge_features=1, hidden=HIDDEN, layers=LAYERS, virtual_nodes=VIRTUAL
    ).to(task.x.device)
    return (
        model,
        lambda: (
            model(
                h=task.h,
                x=task.x,
                v=task.v,
                edge_index=task.index,
                edge_attr=task.attributes,
                batch=task.batch,
                systems=1,
            ).x
        ),
    )


def published_fastegnn(task: Task) -> tuple[nn.Module, Callable[[], Tensor]]:
    """FastEGNN of the checkout."""
    model = importlib.import_module("models.FastEGNN").FastEGNN(2, 0, 1, HIDDEN, VIRTUAL, n_layers=LAYERS)
    model = model.to(task.x.device)
    mean = task.x.mean(0)[None, :, None].repeat(1, 1, VIRTUAL)
    return model, lambda: model(task.h, task.x, task.v, task.index, task.batch, mean, edge_attr=task.attributes)[0]


def published_egnn(task: Task) -> tuple[nn.Module, Callable[[], Tensor]]:
    """EGNN of the checkout."""
    sys.modules.setdefault("torch_sparse", types.ModuleType("torch_sparse")).spmm = None  # type: ignore[attr-defined]
    module = importlib.import_module("models.basic")
    model = module.EGNN(LAYERS, 2, 1, HIDDEN, with_v=True)
    return model, lambda: model(task.x, task.h, task.index, task.attributes, v=task.v)[0]


def training_step(model: nn.Module, forward: Callable[[], Tensor], target: Tensor) -> Callable[[], None]:
    """Forward, backward and optimiser."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        (forward() - target).square().mean().backward()
        optimiser.step()

    return step


def without_gradient(forward: Callable[[], Tensor]) -> Callable[[], None]:
    """The forward pass alone."""

    def call() -> None:
        with torch.no_grad():
            forward()

    return call


def mixed_precision(repeats: int) -> dict[str, object]:
    """Inference with products in bfloat16 against float32, and the error this makes."""
    task = Task(0.0)
    plain = without_gradient(ours(task)[1])
    forward = ours(task)[1]

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            without_gradient(forward)()

    times = in_turn({"float32": plain, "bfloat16": half}, repeats)
    with torch.no_grad():
        exact = forward()
        with torch.autocast("cpu", torch.bfloat16):
            found = forward()
    return {
        "what": "forward in mixed precision",
        "p": 0.0,
        **{f"{name}, ms": statistics.median(values) for name, values in times.items()},
        "times faster": statistics.median(a / b for a, b in zip(times["float32"], times["bfloat16"], strict=True)),
        "error over the displacement": float((found - exact).norm() / (exact - task.x).norm()),
    }


def peak_memory(make: Callable[[Task], tuple[nn.Module, Callable[[], Tensor]]]) -> float:
    """MiB that training steps at p = 0 add to the peak of this process."""
    task = Task(0.0)
    step = training_step(*make(task), task.target)
    # A child of a large process starts with its parent's peak: the kernel is asked to forget it.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return (resident("VmHWM") - before) / 1024


def resident(which: str) -> int:
    """A memory figure of this process in KiB; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(which)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--profile", type=float, metavar="P", help="profile of our forward pass at one p")
    parser.add_argument("--memory", metavar="SIDE", help="peak memory of one side alone")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sides = {"ours": ours}
    if arguments.reference is None:
        print("no --reference: the published code is not timed, ours alone")
    else:
        sys.path.insert(0, str(arguments.reference))
        sides |= {"published FastEGNN": published_fastegnn, "published EGNN": published_egnn}

    if arguments.profile is not None:
        call = without_gradient(ours(Task(arguments.profile))[1])
        in_turn({"ours": call}, 5)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            in_turn({"ours": call}, 5)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=30))
        return
    if arguments.memory is not None:
        print(peak_memory(sides[arguments.memory]))
        return

    rows = []
    egnn: float | None = None
    for share in (0.0, 0.75, 1.0):
        task = Task(share)
        # EGNN drops no edges: its time on all of them is what relative times are of.
        chosen = {name: make for name, make in sides.items() if share == 0 or name != "published EGNN"}
        for kind in ("forward", "training step"):
            calls = {}
            for name, make in chosen.items():
                model, forward = make(task)
                calls[name] = (
                    without_gradient(forward) if kind == "forward" else training_step(model, forward, task.target)
                )
            times = in_turn(calls, arguments.repeats)
            row: dict[str, object] = {"what": kind, "p": share, "edges": task.index.shape[1]}
            row |= {f"{name}, ms": statistics.median(values) for name, values in times.items()}
            if "published FastEGNN" in times:
                pairs = zip(times["published FastEGNN"], times["ours"], strict=True)
                row["times faster than published FastEGNN"] = statistics.median(a / b for a, b in pairs)
            if kind == "forward" and "published EGNN" in times:
                egnn = statistics.median(times["published EGNN"])
            if kind == "forward" and egnn is not None:
                row["time over published EGNN"] = statistics.median(times["ours"]) / egnn
            rows.append(row)
            print(json.dumps(row))
    rows.append(mixed_precision(arguments.repeats))
    print(json.dumps(rows[-1]))
    memory = {}
    for name in sides:
        command = [sys.executable, "-W", "ignore", *sys.argv, "--memory", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        memory[f"{name}, MiB"] = float(done.stdout.splitlines()[-1])
    rows.append({"what": "peak memory of training steps, each in a process of its own", "p": 0.0, **memory})
    print(json.dumps(rows[-1]))
    if arguments.output is not None:
        described = {**machine(), "threads": arguments.threads, "python": platform.python_version()}
        arguments.output.write_text(json.dumps({"machine": described, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
