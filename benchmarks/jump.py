"""Milliseconds of one jump on the CPU: State in, State out, checks and neighbour list included.

    python benchmarks/jump.py --threads 2 --output benchmarks/results/jump_cpu_2_threads.json

Weights are untrained; they change nothing about the cost. Systems: alanine dipeptide (22 atoms) and the backbone of AdK
(855 atoms, PSF/DCD of MDAnalysisTests). The last row is the graph of the published protein benchmark (10 Å), the
network alone in the form of the paper. ``compiled`` is after ``Propagator.compile()``, whose C++ kernel also serves the
systems of 855 atoms. Replicas: one call for 1,024 copies of the 22 atoms against one call for one copy, in turn.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import torch
from MDAnalysisTests.datafiles import DCD, PSF

from fastegnn_md import Propagator, State
from fastegnn_md.graph import neighbour_list
from fastegnn_md.models import build_model
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain


def state_of(atoms: mda.AtomGroup) -> State:
    """Float64 state of some atoms with velocities drawn at 300 K and forces of zero."""
    from fastegnn_md.data import read_topology

    topology = read_topology(atoms)
    masses = torch.tensor(topology.masses, dtype=torch.float64)
    rng = np.random.default_rng(0)
    velocities = torch.tensor(rng.normal(size=(len(atoms), 3)) * np.sqrt(249.4 / topology.masses)[:, None])
    return State(
        positions=torch.tensor(atoms.positions, dtype=torch.float64),
        velocities=velocities,
        forces=torch.zeros_like(velocities),
        numbers=torch.tensor(topology.numbers, dtype=torch.int64),
        masses=masses,
        bonds=torch.tensor(topology.bonds, dtype=torch.int64),
    )


def propagator_for(state: State, **options: object) -> Propagator:
    """Untrained propagator with the default network for a system."""
    config = PropagatorConfig(**options)
    later = state.replace(positions=state.positions + 0.008 * state.velocities)
    return Propagator.build(config, 0.008, Domain.from_pairs(state, later, config))


def milliseconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Times of single calls after a warm-up."""
    for _ in range(max(3, repeats // 10)):
        call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return times


def replicas(state: State, count: int) -> dict[str, object]:
    """Replica-jumps per second of one call for many copies, over those of calls for one copy."""
    propagator = propagator_for(state, kind="force-start")
    generator = torch.Generator().manual_seed(0)
    many = State.concatenate(
        [
            state.replace(
                positions=state.positions
                + 0.01 * torch.randn(state.positions.shape, generator=generator, dtype=state.dtype)
            )
            for _ in range(count)
        ]
    )
    ratios, together = [], []
    for _ in range(8):
        alone = statistics.median(milliseconds(lambda: propagator(state), 20))
        together.append(statistics.median(milliseconds(lambda: propagator(many), 1)))
        ratios.append(count * alone / together[-1])
    ms = statistics.median(together)
    return {
        "name": f"22 atoms, {count} replicas in one call",
        "ms": ms,
        "replica-jumps per second": 1e3 * count / ms,
        "over one replica at a time": statistics.median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        small = mda.Universe(str(path))
        small.guess_TopologyAttrs(to_guess=["bonds"])
        states = {"22 atoms": state_of(small.atoms)}
    states["855 atoms"] = state_of(mda.Universe(PSF, DCD).select_atoms("backbone"))

    calls: dict[str, tuple[Callable[[], object], int]] = {}
    for name, state in states.items():
        for kind in ("force-free", "force-start"):
            propagator = propagator_for(state, kind=kind)
            edges = neighbour_list(state, propagator.config.cutoff).edge_index.shape[1]
            calls[f"{name}, {kind} propagator"] = (lambda p=propagator, s=state: p(s), edges)
            if state.n_atoms < 100:
                compiled = copy.deepcopy(propagator)
                compiled.compile()
                calls[f"{name}, {kind} propagator, compiled"] = (lambda p=compiled, s=state: p(s), edges)
    state = states["855 atoms"].to(dtype=torch.float32)
    edges = neighbour_list(state, 10.0)
    model = build_model("fastegnn", node_features=2, edge_features=1, hidden=64, layers=4, virtual_nodes=3)
    h = torch.ones(state.n_atoms, 2)

    def network() -> object:
        with torch.no_grad():
            return model(
                h=h, x=state.positions, v=state.velocities, edge_index=edges.edge_index, edge_attr=edges.distance
            )

    calls["855 atoms, FastEGNN of the paper at 10 Å"] = (network, edges.edge_index.shape[1])

    rows = []
    for name, (call, count) in calls.items():
        times = milliseconds(call, arguments.repeats)
        low, high = np.quantile(times, [0.1, 0.9])
        rows.append({"name": name, "edges": count, "ms": statistics.median(times), "p10": low, "p90": high})
        print(f"{name:45s} {count:6d} edges  {rows[-1]['ms']:8.2f} ms  ({low:.2f} to {high:.2f})")
    rows.append(replicas(states["22 atoms"], 1024))
    print(rows[-1])
    if arguments.output is not None:
        machine = {
            "cpu": _cpu(),
            "threads": arguments.threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
