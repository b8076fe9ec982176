"""Jumps on a CUDA GPU: the network against the published code, small and large systems, plain and as CUDA graphs.

    python benchmarks/gpu.py --reference PATH --output benchmarks/results/gpu.json

PATH is a checkout of the published code (github.com/GLAD-RUC/FastEGNN); without it ours is timed alone. Without a GPU
it prints "not run" and exits with 0. Results are written after each row, and the million atoms come last. Systems:
alanine dipeptide (22 atoms, one copy and 1,024), copper (108 atoms), the backbone of AdK (855 atoms: the network at
10 Å, 58,732 edges, as in ``run.py``), and the liquid of ``scaling.py``. ``--translate NAME ...`` also times the code of
torch.compile for these systems, which takes half a minute each to make.

``--device cpu --small`` runs the same rows where there is no GPU, to try the script.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import torch
from ase.build import bulk
from MDAnalysisTests.datafiles import DCD, PSF

sys.path.insert(0, str(Path(__file__).parent))
from jump import propagator_for, state_of
from on_gpu import graphed, median, milliseconds, profiled, write_rows
from run import Task, ours, published_fastegnn, without_gradient
from scaling import CUTOFF, liquid

import fastegnn_md
from fastegnn_md import Propagator, State
from fastegnn_md.engines.ase import state_from_atoms

LARGE = {"10k": 10_000, "24k": 24_000, "100k": 100_000, "1M": 1_000_000}


def network(device: str, reference: Path | None, repeats: int, small: bool) -> Iterator[dict[str, object]]:
    """The network on the graph of the protein benchmark against the published code, called and as CUDA graphs."""
    for share in (1.0,) if small else (0.0, 0.75, 1.0):
        task = Task(share).to(device)
        calls: dict[str, Callable[[], object]] = {"ours": without_gradient(ours(task)[1])}
        lacking: dict[str, object] = {}
        if reference is not None:
            try:
                calls["published FastEGNN"] = without_gradient(published_fastegnn(task)[1])
            except ImportError as error:  # ours is timed alone
                lacking["published FastEGNN"] = f"not run: {error}"
        row: dict[str, object] = {"what": "network, 855 atoms", "p": share, "edges": task.index.shape[1]}
        middle: dict[str, float] = {}
        for name, call in calls.items():
            for kind in ("", ", graph"):
                try:
                    timed = graphed(call, device) if kind else call
                    middle[name + kind] = median(timed, device, repeats)
                    row[f"{name}{kind}, ms"] = middle[name + kind]
                except RuntimeError as error:  # what cannot be recorded is a result
                    row[f"{name}{kind}"] = f"not recorded: {str(error).splitlines()[0]}"
        for kind in ("", ", graph"):
            both = middle.get("published FastEGNN" + kind), middle.get("ours" + kind)
            if both[0] is not None and both[1] is not None:
                row[f"times faster than published FastEGNN{kind}"] = both[0] / both[1]
        if "ours, graph" in middle and "published FastEGNN" in middle:
            row["times faster, ours as a graph, the other called"] = (
                middle["published FastEGNN"] / middle["ours, graph"]
            )
        yield row | lacking | profiled(calls["ours"], device)
    if small:
        return
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


def systems(small: bool) -> Iterator[tuple[str, Propagator, State]]:
    """Names, propagators and states of systems that a jump can be recorded of."""
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        universe = mda.Universe(str(path))
        universe.guess_TopologyAttrs(to_guess=["bonds"])
        one = state_of(universe.atoms)
    yield "22 atoms", propagator_for(one), one
    yield "22 atoms, kick-drift", propagator_for(one, kind="kick-drift"), one
    copies = 4 if small else 1024
    yield f"{copies} copies of 22 atoms", propagator_for(one), State.concatenate([one] * copies)
    copper = bulk("Cu", cubic=True) * (3, 3, 3)
    copper.rattle(0.05, seed=0)
    yield "108 atoms of copper", fastegnn_md.load("copper-emt"), state_from_atoms(copper)
    if small:
        return
    backbone = state_of(mda.Universe(PSF, DCD).select_atoms("backbone"))
    yield "855 atoms", propagator_for(backbone), backbone
    yield "855 atoms at 10 Å", propagator_for(backbone, cutoff=10.0), backbone
    yield "1,728 atoms of a liquid", propagator_for(liquid(1000), cutoff=CUTOFF), liquid(1728)


def jumps(device: str, repeats: int, translate: list[str], small: bool) -> Iterator[dict[str, object]]:
    """Jumps through the propagator, with all its checks and the neighbour list."""
    for name, propagator, state in systems(small):
        propagator, state = propagator.to(device), state.to(device)
        row: dict[str, object] = {"what": f"jump, {name}", "atoms": state.n_atoms}

        def call(p: Propagator = propagator, s: State = state) -> State:
            return p(s)

        row["ms"] = median(call, device, repeats)
        expected = call()
        if device == "cuda":
            begun = time.perf_counter()
            propagator.compile()
            found = call()
            row["seconds until the first recorded jump is over"] = time.perf_counter() - begun
            row["largest difference, Å"] = float((found.positions - expected.positions).abs().max())
            row["recorded"] = bool(propagator._recorder and propagator._recorder._recordings)
            row["ms, recorded"] = median(call, device, repeats)
            row["replica-jumps a second"] = 1e3 * state.n_systems / float(row["ms, recorded"])  # type: ignore[arg-type]
            row |= profiled(call, device)
            if name in translate:
                propagator._recorder = None
                begun = time.perf_counter()
                call()
                row["seconds of compiling"] = time.perf_counter() - begun
                row["ms, compiled"] = median(call, device, repeats)
        else:
            row |= profiled(call, device, 1)
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
            row[f"ms, skin {skin} Å"] = median(lambda s=state: propagator(s), device, 3)
        if device == "cuda":
            row["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
        propagator.skin = 0.0
        row["ms, neighbour list"] = median(lambda s=state: propagator._neighbours(s), device, 3)
        yield row | profiled(lambda s=state: propagator(s), device, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="checkout of the published code")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--atoms", type=int, nargs="*", default=list(LARGE.values()))
    parser.add_argument("--translate", nargs="*", default=[], metavar="NAME", help="systems to time torch.compile for")
    parser.add_argument("--small", action="store_true", help="few and small systems, to try the script")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print(f"not run: torch {torch.__version__} sees no GPU")
        return
    if device == "cpu":
        torch.set_num_threads(1)
    if arguments.reference is not None:
        sys.path.insert(0, str(arguments.reference.resolve()))
    parts = [
        jumps(device, arguments.repeats, arguments.translate, arguments.small),
        kernel(device),
        network(device, arguments.reference, arguments.repeats, arguments.small),
        large(device, arguments.atoms),
    ]
    write_rows(parts, device, arguments.output)


if __name__ == "__main__":
    main()
