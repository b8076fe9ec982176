"""Pairs per second of training on a GPU and on one thread of the CPU beside it, validation and start not counted.

    python benchmarks/training_gpu.py --output benchmarks/results/training_gpu.json

Pairs are bursts of 8 fs of alanine dipeptide (amber14, vacuum), harvested on the spot; a run is ``fit`` with its
defaults but for the device, the kind and the number of pairs in an update. Reading of pairs, the optimiser and the
moving average are counted, and each update is waited for. Without a GPU the CPU is measured alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import MDAnalysis as mda
import torch
from openmm import app

sys.path.insert(0, str(Path(__file__).parent))
from hybrid_ala2 import LAG, Molecule, machine, trajectory

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.harvest import harvest
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.module import PropagatorModule

RUNS = [
    ("gpu", "force-free", "32-true", (32, 256, 2048)),
    ("gpu", "kick-drift", "32-true", (32,)),
    ("gpu", "force-free", "bf16-mixed", (2048,)),
    ("cpu", "force-free", "32-true", (32, 256)),
    ("cpu", "kick-drift", "32-true", (32,)),
]
SMALL = [("cpu", "force-free", "32-true", (4,))]


def pairs(folder: Path, bursts: int) -> tuple[TrajectoryPairs, TrajectoryPairs]:
    """Pairs to train on and to validate on."""
    molecule = Molecule("vacuum")
    starts = folder / "starts.dcd"
    trajectory(molecule, starts, frames=bursts, every=0.1, friction=10.0, seed=0, temperature=300.0)
    topology = folder / "topology.pdb"
    with open(topology, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(molecule.topology, molecule.pdb.positions, file)
    store = harvest(
        mda.Universe(str(topology), str(starts)),
        molecule.system(),
        store=folder / "bursts.h5md",
        burst="32 fs",
        interval=LAG,
        temperature=300.0,
        platform="Reference",
    )
    training, validation, _ = TrajectoryPairs(store, lag=LAG, time_reversal=True).split((0.8, 0.1, 0.1))
    return training, validation


def seconds_of_updates(
    training: TrajectoryPairs, validation: TrajectoryPairs, most: float, **settings: object
) -> list[float]:
    """Seconds of each update of a run that stops after ``most`` seconds of them; the first ten are not counted."""
    ends: list[float] = []
    counted = PropagatorModule.on_train_batch_end

    def timed(self: PropagatorModule, *given: object) -> None:
        counted(self, *given)  # type: ignore[arg-type]
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        if len(ends) > 12 and ends[-1] - ends[0] > most:
            self.progress.stopped = True
            self.trainer.should_stop = True

    config = TrainingConfig(updates=400, validate_every=400, validation_pairs=32, logger="none", **settings)
    PropagatorModule.on_train_batch_end = timed  # type: ignore[method-assign]
    try:
        fit(training, validation, config, progress=False)
    finally:
        PropagatorModule.on_train_batch_end = counted  # type: ignore[method-assign]
    return [later - sooner for sooner, later in itertools.pairwise(ends[10:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=4.0, help="of updates, for each row")
    parser.add_argument("--small", action="store_true", help="two rows, to try the script")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    there = torch.cuda.is_available()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        training, validation = pairs(Path(scratch), arguments.bursts)
        for device, kind, precision, sizes in SMALL if arguments.small else RUNS:
            for size in sizes if there or device == "cpu" else ():
                row: dict[str, object] = {"device": device, "kind": kind, "precision": precision, "pairs": size}
                try:
                    seconds = seconds_of_updates(
                        training,
                        validation,
                        arguments.seconds,
                        accelerator=device,
                        precision=precision,
                        batch_size=size,
                        propagator={"kind": kind},
                    )
                    middle = statistics.median(seconds)
                    row |= {"updates": len(seconds), "ms an update": 1e3 * middle, "pairs a second": size / middle}
                except Exception as error:  # what fails here is a result, and the others are still measured
                    row["error"] = f"{type(error).__name__}: {error}"
                rows.append(row)
                print(json.dumps(row), flush=True)
                if arguments.output is not None:
                    name = torch.cuda.get_device_name() if there else "none"
                    result = {"machine": machine(), "gpu": name, "threads": 1, "rows": rows}
                    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
