"""Guarded Langevin roll-outs of the propagators of ``from_nothing.py`` at several frictions.

    python benchmarks/from_nothing.py OUTPUT --updates 6000
    python benchmarks/rollout.py OUTPUT --friction 10 1 --jumps 3000 --output benchmarks/results/rollout_ala2.json

At 10/ps a thermostat takes up much of the error of a jump, at 1/ps equipartition is really tested. Each run is made
twice, the second time with velocities scaled to the energy of the engine after each jump. The first row is the
classical reference of ``from_nothing.py``, made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from alanine import AlanineDipeptide, Settings, learned_run
from from_nothing import KINDS

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of from_nothing.py")
    parser.add_argument("--friction", type=float, nargs="+", default=[10.0, 1.0], help="1/ps")
    parser.add_argument("--jumps", type=int, default=3000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a second thread makes the jump of a small molecule slower

    system, settings = AlanineDipeptide(), Settings()
    with tempfile.TemporaryDirectory() as folder:
        energy = system.write_reference(Path(folder) / "reference.dcd", settings, progress=True)
    rows: list[dict[str, Any]] = [
        {
            "propagator": "none: classical reference",
            "friction, 1/ps": settings.friction,
            "ps": settings.frames * settings.frame_every * settings.classical_step,
            "energy, kJ/mol": {"mean": float(energy.mean()), "std": float(energy.std())},
        }
    ]
    for name in KINDS:
        propagator = Propagator.load(arguments.folder / f"{name}.safetensors")
        for friction, scaled in itertools.product(arguments.friction, (False, True)):
            settings = Settings(friction=friction, jumps=arguments.jumps)
            pairs = TrajectoryPairs(arguments.folder / "bursts.h5md", lag=settings.lag, time_reversal=True)
            held_out = pairs.split(settings.split)[2]
            trajectory = arguments.folder / f"{name}-{friction:g}{'-energy' if scaled else ''}.xtc"
            run = learned_run(system, propagator, held_out, trajectory, settings, progress=True, conserve_energy=scaled)
            rows.append(
                {
                    "propagator": name,
                    "training updates": propagator.metrics["updates"],
                    "friction, 1/ps": friction,
                    "energy conserved": scaled,
                    "energy, kJ/mol": {"mean": float(run.energy.mean()), "std": float(run.energy.std())},
                    "temperature, K": run.temperature,
                    "reference temperature, K": run.reference_temperature,
                    "ms per jump": run.ms_per_jump,
                    **dataclasses.asdict(run.statistics),
                }
            )
            print(json.dumps(rows[-1]))
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
