"""Reading pairs from a store, in random order, against plain MDAnalysis iteration in order; and what a trainer waits.

    python benchmarks/store.py --output benchmarks/results/store_cpu.json

Systems: AdK (PSF/DCD of MDAnalysisTests, 3,341 atoms, 98 frames of positions) and alanine dipeptide (22 atoms, 2,000
frames with velocities and forces, TRR). Frames per second, a pair counting two, in turn. The wait is the time to fetch
a batch of 32 pairs over the time of a whole update, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import torch
from hybrid_ala2 import Molecule, machine
from MDAnalysisTests.datafiles import DCD, PSF
from openmm import app

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.training.start import untrained_propagator


def per_second(call: Callable[[], int]) -> float:
    """Frames per second of a call that returns how many it read."""
    begun = time.perf_counter()
    frames = call()
    return frames / (time.perf_counter() - begun)


def iterate(universe: mda.Universe) -> int:
    """Read every frame, as a user's loop would."""
    total = 0.0
    for frame in universe.trajectory:
        total += frame.positions[0, 0]
        if frame.has_velocities:
            total += frame.velocities[0, 0] + frame.forces[0, 0]
    return len(universe.trajectory)


def batches(pairs: TrajectoryPairs, size: int) -> int:
    """Read every pair once, in random order, in batches."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
    for begin in range(0, len(order), size):
        pairs.batch(order[begin : begin + size])
    return 2 * len(order)


def short_run(folder: Path) -> tuple[mda.Universe, Path]:
    """2,000 frames of alanine dipeptide with velocities and forces, every 8 fs, as TRR."""
    molecule = Molecule("vacuum")
    atoms = len(list(molecule.topology.atoms()))
    rng = np.random.default_rng(0)
    place = np.array(molecule.pdb.getPositions(asNumpy=True)._value) * 10
    topology = folder / "topology.pdb"
    with open(topology, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(molecule.topology, molecule.pdb.positions, file)
    universe = mda.Universe(str(topology))
    path = folder / "run.trr"
    with mda.Writer(str(path), atoms) as writer:
        for k in range(2000):
            frame = universe.trajectory.ts
            frame.positions = place + 0.05 * rng.normal(size=place.shape)
            frame.velocities, frame.forces = rng.normal(size=(2, atoms, 3))
            frame.time = 0.008 * k
            frame.frame = k
            writer.write(universe.atoms)
    return mda.Universe(str(topology), str(path)), path


def waiting(pairs: TrajectoryPairs) -> float:
    """Share of a training update that fetching its batch takes."""
    torch.set_num_threads(1)
    propagator = untrained_propagator(pairs, PropagatorConfig())
    optimiser = torch.optim.Adam(propagator.parameters(), lr=1e-4)
    shares = []
    for k in range(12):
        begun = time.perf_counter()
        start, end = pairs.batch(list(range(32 * k, 32 * k + 32)))
        fetched = time.perf_counter()
        error = propagator.residual(start, end)
        optimiser.zero_grad()
        (error.x.square().mean() + error.v.square().mean()).backward()
        optimiser.step()
        shares.append((fetched - begun) / (time.perf_counter() - begun))
    return statistics.median(shares[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        small, _ = short_run(Path(scratch))
        cases = {
            "AdK, 3,341 atoms, DCD": (mda.Universe(PSF, DCD), {"lag": "1 ps", "velocities": "none"}),
            "alanine dipeptide, 22 atoms, TRR": (small, {"lag": "8 fs"}),
        }
        for name, (universe, options) in cases.items():
            pairs = TrajectoryPairs(universe, store=Path(scratch) / f"{universe.atoms.n_atoms}.h5md", **options)
            ratios, ours, plain = [], [], []
            for _ in range(arguments.repeats):
                plain.append(per_second(lambda u=universe: iterate(u)))
                ours.append(per_second(lambda p=pairs: batches(p, 32)))
                ratios.append(ours[-1] / plain[-1])
            rows.append(
                {
                    "system": name,
                    "frames per second, plain iteration": statistics.median(plain),
                    "frames per second, pairs from the store": statistics.median(ours),
                    "ratio, median of pairs": statistics.median(ratios),
                }
            )
            if options["lag"] == "8 fs":
                rows[-1]["share of an update spent fetching"] = waiting(pairs)
            print(rows[-1])
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
