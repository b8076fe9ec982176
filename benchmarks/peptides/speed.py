"""What jumps of a generative propagator cost beside the classical steps they replace, everything included.

    python benchmarks/peptides/speed.py MODEL DATA/ala2 -o JSON

Blocks of classical Langevin dynamics with steps of 2 fs, of jumps of one replica, and of jumps of 64 replicas take
turns on one thread, with the native OBC solvent of the training and with gbn2, whose cost is that of most GB models in
OpenMM; the numbers are medians. In gbn2 only the clock is meant: the model is one of OBC. Jumps contain the network,
guards, relaxation and what goes between OpenMM and torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import openmm
import torch
from molecules import peptide
from openmm import unit
from openmm.app import ForceField, HBonds, NoCutoff
from rollout import replica, starts

import fastegnn_md
from fastegnn_md.integrators import SimulationEnsemble

ROUNDS, STEP = 5, 0.002  # ps
SOLVENTS = {"obc": None, "gbn2": ("amber14-all.xml", "implicit/gbn2.xml")}


def _in_turn(
    blocks: dict[str, tuple[Callable[[], object], int]], finish: Callable[[], object]
) -> dict[str, list[float]]:
    """Milliseconds of each block per what it makes, round by round; the first round warms up."""
    rows: dict[str, list[float]] = {key: [] for key in blocks}
    for turn in range(ROUNDS + 1):
        for key, (run, count) in blocks.items():
            begun = time.perf_counter()
            run()
            finish()
            if turn:
                rows[key].append(1e3 * (time.perf_counter() - begun) / count)
    return rows


def speed(model: Path, folder: Path, output: Path, replicas: int) -> None:
    """Time the three in turn."""
    torch.set_num_threads(1)
    propagator, name = fastegnn_md.load(model), folder.name.partition("-")[0]
    found: dict[str, dict[str, float]] = {}
    places = starts(folder, replicas)
    for solvent, files in SOLVENTS.items():
        molecule = peptide(name)
        system = molecule.system()
        if files is not None:
            system = ForceField(*files).createSystem(
                molecule.topology, nonbondedMethod=NoCutoff, constraints=HBonds, removeCMMotion=False
            )
        # CPU is the faster platform for GB models of custom forces, Reference for the native one.
        on = openmm.Platform.getPlatformByName("Reference" if files is None else "CPU")
        options = {} if files is None else {"Threads": "1"}
        integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, STEP * unit.picoseconds)
        classical = openmm.Context(system, integrator, on, options)
        classical.setPositions(places[0])
        several = [replica(propagator, name, 300, place, k, system, on, options) for k, place in enumerate(places)]
        ensemble, one = SimulationEnsemble(several), replica(propagator, name, 300, places[0], 1, system, on, options)
        many_jumps, steps = (2, 2000) if files is None else (1, 300)
        rows = _in_turn(
            {
                "classical_step_ms": (partial(integrator.step, steps), steps),
                "jump_ms": (partial(one.step, 10), 10),
                "jump_of_many_ms": (partial(ensemble.step, many_jumps), many_jumps * replicas),
            },
            partial(classical.getState, energy=True),
        )
        medians = {key: statistics.median(values) for key, values in rows.items()}
        replaced = medians["classical_step_ms"] * propagator.timestep / STEP
        found[solvent] = medians | {
            "replicas": replicas,
            "gain_of_one": replaced / medians["jump_ms"],
            "gain_of_many": replaced / medians["jump_of_many_ms"],
            "ns_per_minute_classical": 60 * STEP / medians["classical_step_ms"],
            "ns_per_minute_one": 60 * propagator.timestep / medians["jump_ms"],
            "ns_per_minute_many": 60 * propagator.timestep / medians["jump_of_many_ms"],
        }
        print(solvent, json.dumps(found[solvent], indent=1))
    machine = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count(), "threads": 1}
    output.write_text(json.dumps({"lag_ps": propagator.timestep, **machine, "solvents": found}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, help="DATA/ala2")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--replicas", type=int, default=64)
    speed(**vars(parser.parse_args()))
