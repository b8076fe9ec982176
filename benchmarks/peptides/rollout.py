"""Jumps of a generative propagator: replicas of a peptide in OpenMM, one call of the network a step for all of them.

    python benchmarks/peptides/rollout.py MODEL DATA/ala2 -o RUNS --jumps 1600

Replicas start from frames spread over the training trajectories. Each writes its positions after every jump and its
relaxation to a DCD file of its own; ``rollout.json`` has what became of the jumps. With ``--mirror`` they start from
mirror images. A command given again continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from pathlib import Path

import numpy as np
from data import TRAINING, parts, universe
from molecules import peptide
from openmm import Platform, System, unit
from openmm.app import DCDReporter

import fastegnn_md
from fastegnn_md.integrators import (
    GuardSettings,
    LearnedIntegrator,
    LearnedSimulation,
    Schedule,
    SimulationEnsemble,
)
from fastegnn_md.propagator import Propagator

PART = 100  # jumps between two states that a run can be continued from


def starts(folder: Path, count: int) -> np.ndarray:
    """Frames spread over the training trajectories, shape (count, N, 3), nm."""
    frames = universe(folder, [file for run in TRAINING for file in parts(folder, run)])
    chosen = np.linspace(0, frames.trajectory.n_frames - 1, count).astype(int)
    return 0.1 * np.array([frames.trajectory[k].positions.astype(float) for k in chosen])


def replica(
    propagator: Propagator,
    name: str,
    kelvin: float,
    start: np.ndarray,
    seed: int,
    system: System | None = None,
    platform: Platform | None = None,
    options: dict[str, str] | None = None,
    energy_change: float | None = None,
) -> LearnedSimulation:
    """One simulation of a peptide that jumps; relaxed by steps of 2 fs."""
    molecule = peptide(name)
    system = molecule.system() if system is None else system
    platform = Platform.getPlatformByName("Reference") if platform is None else platform
    schedule = Schedule(classical="2 fs")
    guard = GuardSettings(energy_change=energy_change)
    integrator = LearnedIntegrator(propagator, temperature=kelvin, seed=seed, schedule=schedule, guard=guard)
    made = LearnedSimulation(molecule.topology, system, integrator, platform, options or {})
    made.context.setPositions(start * unit.nanometer)
    made.context.applyConstraints(1e-6)
    return made


def rollout(
    model: Path,
    folder: Path,
    output: Path,
    replicas: int,
    jumps: int,
    kelvin: float,
    mirror: bool,
    energy_change: float | None = None,
) -> None:
    """Make what is missing of a run, part by part."""
    output.mkdir(parents=True, exist_ok=True)
    propagator, name = fastegnn_md.load(model), folder.name.partition("-")[0]
    places = starts(folder, replicas) * (np.array([1, 1, -1]) if mirror else 1)
    record_file = output / "rollout.json"
    done = json.loads(record_file.read_text()) if record_file.exists() else {"jumps": 0, "parts": []}
    for part in range(done["jumps"] // PART, -(-jumps // PART)):
        if part:
            places = np.load(output / f"end-{part - 1:03d}.npy")
        simulations = [
            replica(propagator, name, kelvin, place, 1 + k + 100_000 * part, energy_change=energy_change)
            for k, place in enumerate(places)
        ]
        for k, one in enumerate(simulations):
            (output / f"replica-{k:03d}").mkdir(exist_ok=True)
            one.reporters.append(DCDReporter(str(output / f"replica-{k:03d}" / f"{part:03d}.dcd"), 1))
        begun, cpu = time.perf_counter(), time.process_time()
        SimulationEnsemble(simulations).step(min(PART, jumps - part * PART), progress=True)
        spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
        statistics = [dataclasses.asdict(one.integrator.statistics) for one in simulations]
        ends = [one.context.getState(positions=True).getPositions(asNumpy=True)._value for one in simulations]
        for one in simulations:
            one.reporters.clear()  # closes the files
        np.save(output / f"end-{part:03d}.npy", np.array(ends))
        counted = {key: sum(one[key] for one in statistics) for key in ("tried", "accepted", "relax_steps")}
        counted["fallback_steps"] = sum(one["fallback_steps"] for one in statistics)
        for key in ("redrawn", "rejected"):
            guards = {guard for one in statistics for guard in one[key]}
            counted[key] = {guard: sum(one[key].get(guard, 0) for one in statistics) for guard in sorted(guards)}
        done["parts"].append(counted | spent)
        done |= {
            "jumps": min((part + 1) * PART, jumps),
            "replicas": replicas,
            "lag_ps": propagator.timestep,
            "kelvin": kelvin,
            "mirror": mirror,
            "energy_change_kt": energy_change,
            "model": propagator.fingerprint,
        }
        record_file.write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, help="DATA/ala2")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--jumps", type=int, default=1600, help="of each replica")
    parser.add_argument("--kelvin", type=float, default=300.0)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--energy-change", type=float, help="kT that a relaxed jump may add; default: any")
    given = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DCDReader currently makes independent timesteps")
        rollout(**vars(given))
