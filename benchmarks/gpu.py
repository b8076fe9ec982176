"""Jumps on a CUDA GPU: the network against the published code, small and large systems, compiled and not.

    python benchmarks/gpu.py --reference PATH --output benchmarks/results/gpu.json

PATH is a checkout of the published code (github.com/GLAD-RUC/FastEGNN); without it ours is timed alone. Without a GPU
it prints "not run" and exits with 0. On an H100 it takes three minutes, two of them for compiling; results are written
after each part, and the million atoms come last. Systems: alanine dipeptide (22 atoms, one copy and 1,024), the
backbone of AdK (855 atoms: the network at 10 Å, 58,732 edges, as in ``run.py``), and the liquid of ``scaling.py``.

``--device cpu`` runs the same rows where there is no GPU, to try the script.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import torch
from MDAnalysisTests.datafiles import DCD, PSF

sys.path.insert(0, str(Path(__file__).parent))
from hybrid_ala2 import machine
from jump import propagator_for, state_of
from run import Task, ours, published_fastegnn, without_gradient
from scaling import CUTOFF, liquid

from fastegnn_md import State


def milliseconds(call: Callable[[], object], device: str, repeats: int) -> list[float]:
    """Times of single calls, each until the GPU is done."""
    times = []
    for repeat in range(repeats + 5):
        begun = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= 5:
            times.append(1e3 * (time.perf_counter() - begun))
    return times


def network(device: str, reference: Path | None, repeats: int) -> Iterator[dict[str, object]]:
    """The network on the graph of the protein benchmark, plain and in mixed precision, against the published code."""
    for share in (0.0, 0.75, 1.0):
        task = Task(share).to(device)
        calls = {"ours": without_gradient(ours(task)[1])}
        if reference is not None:
            calls["published FastEGNN"] = without_gradient(published_fastegnn(task)[1])
        times = {name: milliseconds(call, device, repeats) for name, call in calls.items()}
        row: dict[str, object] = {"what": "network, 855 atoms", "p": share, "edges": task.index.shape[1]}
        row |= {f"{name}, ms": statistics.median(values) for name, values in times.items()}
        if reference is not None:
            pairs = zip(times["published FastEGNN"], times["ours"], strict=True)
            row["times faster than published FastEGNN"] = statistics.median(a / b for a, b in pairs)
        yield row
    task = Task(0.0).to(device)
    _, forward = ours(task)
    with torch.no_grad():
        exact = forward()
        with torch.autocast(device, torch.bfloat16):
            half, times = forward(), milliseconds(forward, device, repeats)
    error = float((half - exact).norm() / (exact - task.x).norm())
    yield {"what": "network, 855 atoms, bfloat16", "p": 0.0, "ours, ms": statistics.median(times), "error": error}


def kernel(device: str) -> Iterator[dict[str, object]]:
    """Numbers of the network in float32, with the Triton kernel where it is, against those of torch in float64."""
    task = Task(0.0).to(device)
    model, forward = ours(task)
    with torch.no_grad():
        found = forward() - task.x
        wide = copy.deepcopy(model).double()
        expected = wide(
            h=task.h.double(), x=task.x.double(), v=task.v.double(), edge_index=task.index,
            edge_attr=task.attributes.double(), batch=task.batch,
        ).x - task.x.double()  # fmt: skip
    yield {
        "what": "network, 855 atoms, against float64",
        "relative error of the displacement": float((found - expected).norm() / expected.norm()),
    }


def jumps(device: str, repeats: int) -> Iterator[dict[str, object]]:
    """Jumps through the propagator, with all its checks and the neighbour list."""
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        universe = mda.Universe(str(path))
        universe.guess_TopologyAttrs(to_guess=["bonds"])
        one = state_of(universe.atoms)
    backbone = state_of(mda.Universe(PSF, DCD).select_atoms("backbone"))
    cases: tuple[tuple[str, State, State, dict[str, float]], ...] = (
        ("22 atoms", one, one, {}),
        ("855 atoms", backbone, backbone, {}),
        ("855 atoms at 10 Å", backbone, backbone, {"cutoff": 10.0}),
        ("1,024 copies of 22 atoms", one, State.concatenate([one] * 1024), {}),
    )
    for name, like, state, options in cases:
        propagator = propagator_for(like, **options).to(device)
        state = state.to(device)
        row: dict[str, object] = {"what": f"jump, {name}"}
        row["ms"] = statistics.median(milliseconds(lambda p=propagator, s=state: p(s), device, repeats))
        propagator.compile()
        begun = time.perf_counter()
        propagator(state)
        row["seconds of compiling"] = time.perf_counter() - begun
        row["ms, compiled"] = statistics.median(milliseconds(lambda p=propagator, s=state: p(s), device, repeats))
        yield row


def large(device: str, sizes: list[int]) -> Iterator[dict[str, object]]:
    """Jumps of a liquid."""
    propagator = propagator_for(liquid(1000), cutoff=CUTOFF).to(device)
    for atoms in sizes:
        state = liquid(atoms).to(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        row: dict[str, object] = {"what": "jump, liquid", "atoms": state.n_atoms}
        for skin in (0.0, 0.5):
            propagator.skin = skin
            row[f"ms, skin {skin} Å"] = statistics.median(milliseconds(lambda s=state: propagator(s), device, 3))
        if device == "cuda":
            row["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--atoms", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"not run: torch {torch.__version__} sees no GPU")
        return
    if arguments.reference is not None:
        sys.path.insert(0, str(arguments.reference))
    parts = (
        kernel(arguments.device),
        network(arguments.device, arguments.reference, arguments.repeats),
        jumps(arguments.device, arguments.repeats),
        large(arguments.device, arguments.atoms),
    )
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "none"
    result: dict[str, object] = {"machine": machine(), "gpu": name, "rows": []}
    for part in parts:
        rows = []
        try:
            for row in part:
                rows.append(row)
                print(json.dumps(row), flush=True)
        except Exception as error:  # what fails here is a result, and the others are still measured
            rows.append({"error": f"{type(error).__name__}: {error}"})
            print(json.dumps(rows[-1]), flush=True)
        result["rows"] += rows  # type: ignore[operator]
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
