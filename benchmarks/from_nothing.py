"""Two propagators of 8 fs of alanine dipeptide from nothing: a classical trajectory, bursts from its frames, trainings.

    python benchmarks/from_nothing.py OUTPUT
    python benchmarks/from_nothing.py OUTPUT --updates 6000

``OUTPUT/bursts.h5md`` holds the bursts with forces at midpoints; ``force-free.safetensors`` and
``force-informed.safetensors`` are trained side by side, a process and a core each, in two to three minutes for every
1,500 updates. ``one_step.py``, ``rollout.py``, ``committee.py`` and ``ablation.py`` take the folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import MDAnalysis as mda
import torch
from alanine import AlanineDipeptide, Settings

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.data.topology import quiet
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator.config import Kind, PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit

KINDS: dict[str, Kind] = {"force-free": "force-free", "force-informed": "force-midpoint"}


def harvested(output: Path, settings: Settings) -> None:
    """A classical trajectory, and bursts at constant energy from its frames."""
    system = AlanineDipeptide()
    system.write_reference(output / "reference.dcd", settings, progress=True)
    system.write_topology(output / "topology.pdb")
    with quiet():
        universe = mda.Universe(system.topology, str(output / "reference.dcd"))
    (output / "bursts.h5md").unlink(missing_ok=True)
    harvest(
        universe,
        system.system,
        store=output / "bursts.h5md",
        burst=settings.burst,
        interval=settings.lag,
        midpoint=settings.lag,
        temperature=settings.temperature,
        seed=settings.seed,
        processes=2,
    )


def train(output: Path, name: str, settings: Settings) -> None:
    """Train one of the two on one thread."""
    torch.set_num_threads(1)
    pairs = TrajectoryPairs(output / "bursts.h5md", lag=settings.lag, time_reversal=True)
    training, validation, _ = pairs.split(settings.split)
    config = TrainingConfig(
        propagator=PropagatorConfig(kind=KINDS[name]),
        updates=settings.updates,
        batch_size=settings.batch_size,
        seed=settings.seed,
        validate_every=max(1, settings.updates // 20),
        validation_pairs=256,
        checkpoint_every=settings.updates,
    )
    shutil.rmtree(output / f"{name}.training", ignore_errors=True)  # the history of an earlier run
    fit(training, validation, config, output / f"{name}.safetensors", progress=name == "force-free")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder; files of an earlier run are replaced")
    parser.add_argument("--updates", type=int, default=Settings.updates, help="of each training")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = Settings(updates=arguments.updates)
    harvested(arguments.output, settings)
    with ProcessPoolExecutor(len(KINDS), mp_context=multiprocessing.get_context("spawn")) as pool:
        for one in [pool.submit(train, arguments.output, name, settings) for name in KINDS]:
            one.result()


if __name__ == "__main__":
    main()
