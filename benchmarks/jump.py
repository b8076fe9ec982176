"""Milliseconds of one jump on the CPU: State in, State out, checks and neighbour list included.

    OMP_NUM_THREADS=1 python benchmarks/jump.py --output benchmarks/results/jump_cpu.json

Weights are untrained; they change nothing about the cost. ``ms`` is what one gets where there is a C++ compiler;
``torch alone, ms`` the same in a process of its own that is told to do without (``FASTEGNN_MD_NATIVE=off``). Systems:
ethanol (9 atoms), alanine dipeptide (22), copper (108, periodic), the backbone of AdK (855, PSF/DCD of
MDAnalysisTests). Replicas: one call for 64 and 1,024 copies of the 22 atoms against one call for one copy, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from MDAnalysisTests.datafiles import DCD, PSF

from fastegnn_md import Propagator, State
from fastegnn_md.graph import neighbour_list
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain

THERMAL = 249.4  # k_B T at 300 K, amu Å²/ps²


def state_of(atoms: mda.AtomGroup) -> State:
    """Float64 state of some atoms with velocities drawn at 300 K and forces of zero."""
    from fastegnn_md.data import read_topology

    topology = read_topology(atoms)
    masses = torch.tensor(topology.masses, dtype=torch.float64)
    rng = np.random.default_rng(0)
    velocities = torch.tensor(rng.normal(size=(len(atoms), 3)) * np.sqrt(THERMAL / topology.masses)[:, None])
    return State(
        positions=torch.tensor(atoms.positions, dtype=torch.float64),
        velocities=velocities,
        forces=torch.zeros_like(velocities),
        numbers=torch.tensor(topology.numbers, dtype=torch.int64),
        masses=masses,
        bonds=torch.tensor(topology.bonds, dtype=torch.int64),
    )


def propagator_for(state: State, timestep: float = 0.008, **options: object) -> Propagator:
    """Untrained propagator with the default network for a system."""
    config = PropagatorConfig(**options)
    later = state.replace(positions=state.positions + timestep * state.velocities)
    return Propagator.build(config, timestep, Domain.from_pairs(state, later, config))


def milliseconds(call: Callable[[], object], repeats: int, warm: int = 3) -> list[float]:
    """Times of single calls after a warm-up."""
    for _ in range(max(warm, repeats // 10)):
        call()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begun))
    return times


def ala2() -> State:
    """Alanine dipeptide."""
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        universe = mda.Universe(str(path))
        universe.guess_TopologyAttrs(to_guess=["bonds"])
        return state_of(universe.atoms)


def ethanol() -> State:
    """One molecule."""
    atoms = molecule("CH3CH2OH")
    close = np.argwhere(np.triu(atoms.get_all_distances() < 1.6, 1))
    return ase_state(atoms, bonds=torch.tensor(close[~(atoms.numbers[close] == 1).all(axis=1)]))


def copper() -> State:
    """108 atoms, periodic."""
    atoms = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3)
    return ase_state(atoms, cell=torch.tensor(atoms.cell.array)[None])


def ase_state(atoms: Atoms, **fields: torch.Tensor) -> State:
    """Float64 state of some atoms, shaken, with velocities drawn at 300 K and forces of zero."""
    rng, masses = np.random.default_rng(0), atoms.get_masses()
    velocities = torch.tensor(rng.normal(size=(len(atoms), 3)) * np.sqrt(THERMAL / masses)[:, None])
    return State(
        positions=torch.tensor(atoms.positions + 0.03 * rng.normal(size=(len(atoms), 3))),
        velocities=velocities,
        forces=torch.zeros_like(velocities),
        midpoint_forces=torch.zeros_like(velocities),
        numbers=torch.tensor(atoms.numbers),
        masses=torch.tensor(masses),
        **fields,
    )


def replicas(state: State, count: int) -> dict[str, object]:
    """Replica-jumps per second of one call for many copies, over those of calls for one copy."""
    propagator = propagator_for(state, kind="force-start")
    many = copies(state, count)
    ratios, together = [], []
    for _ in range(8):
        alone = statistics.median(milliseconds(lambda: propagator(state), 20))
        together.append(statistics.median(milliseconds(lambda: propagator(many), 1, warm=1)))
        ratios.append(count * alone / together[-1])
    ms = statistics.median(together)
    return {
        "name": f"22 atoms, {count} replicas in one call",
        "atoms": state.n_atoms,
        "replicas": count,
        "ms": ms,
        "ms per replica": ms / count,
        "replica-jumps per second": 1e3 * count / ms,
        "over one replica at a time": statistics.median(ratios),
    }


def copies(state: State, count: int) -> State:
    """So many copies of a system, each shaken in its own way."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype = state.positions.shape, state.dtype
    return State.concatenate(
        [
            state.replace(positions=state.positions + 0.01 * torch.randn(shape, generator=generator, dtype=dtype))
            for _ in range(count)
        ]
    )


def cases() -> Iterator[tuple[str, State, dict[str, object], float]]:
    """Name, system, options of the propagator, Δt in ps."""
    small, middle = ala2(), state_of(mda.Universe(PSF, DCD).select_atoms("backbone"))
    for kind in ("force-free", "force-start", "kick-drift"):
        yield "alanine dipeptide", small, {"kind": kind}, 0.008
    yield "ethanol", ethanol(), {"kind": "force-midpoint"}, 0.008
    yield "ethanol", ethanol(), {"kind": "kick-drift", "kicks": 8}, 0.008
    yield "copper", copper(), {"kind": "force-free"}, 0.04
    yield "backbone of AdK", middle, {"kind": "force-free"}, 0.008
    yield "backbone of AdK, cutoff 10 Å", middle, {"kind": "force-free", "cutoff": 10.0}, 0.008


def rows(repeats: int, many: int) -> Iterator[dict[str, object]]:
    """Rows of the results."""
    for name, state, options, timestep in cases():
        propagator = propagator_for(state, timestep, **options)
        edges = neighbour_list(state, propagator.config.cutoff).edge_index.shape[1]
        # some seconds for each row, whatever its size
        once = statistics.median(milliseconds(lambda p=propagator, s=state: p(s), 5))
        times = milliseconds(lambda p=propagator, s=state: p(s), min(repeats, max(10, round(3000 / once))))
        low, high = np.quantile(times, [0.1, 0.9])
        what = {"name": name, "kind": propagator.kind, "atoms": state.n_atoms, "edges": edges}
        yield {**what, "ms": statistics.median(times), "p10": low, "p90": high}
    for count in sorted({min(64, many), many}):
        yield replicas(ala2(), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=1024)
    parser.add_argument("--once", action="store_true", help="as the environment is: not with torch alone as well")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    for row in rows(arguments.repeats, arguments.replicas):
        found.append(row)
        print(json.dumps(row), flush=True)
    if not arguments.once:
        given = ["--threads", str(arguments.threads), "--repeats", str(min(arguments.repeats, 50))]
        done = subprocess.run(
            [sys.executable, __file__, *given, "--replicas", str(arguments.replicas), "--once"],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"FASTEGNN_MD_NATIVE": "off"},
        )
        for row, line in zip(found, done.stdout.splitlines()[-len(found) :], strict=True):
            row["torch alone, ms"] = json.loads(line)["ms"]
            print(f"{row['name']}, {row.get('kind', '')}: torch alone {row['torch alone, ms']:.2f} ms")
    if arguments.output is not None:
        machine = {
            "cpu": _cpu(),
            "threads": arguments.threads,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"machine": machine, "rows": found}, indent=1) + "\n")


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
