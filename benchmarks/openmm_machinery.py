"""What a jump costs beside the network, and what its force costs while it is idle, on the CPU platform.

    python benchmarks/openmm_machinery.py --threads 2 --output benchmarks/results/openmm_machinery.json

A box of about 2,000 atoms of TIP3P water. The propagator is the identity, so that everything else is what is timed:
reading or encoding positions, velocities and forces, building and checking the State, constraints, guards, writing.
``transport`` is the same with atoms that have neither bonds nor constraints and without guards. Jumps of the four kinds
are timed in turn, with the caches full of the others' data as classical steps would leave them, and back to back.
Idle: ratio of getState(energy=True) with the jump force to the same without it, in turn.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

from fastegnn_md.engines.openmm import add_jump_force
from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation, Schedule
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits

sys.path.insert(0, str(Path(__file__).parent))
from hybrid_ala2 import machine

LIMITS = JumpLimits({1: 1.0, 8: 1.0}, bonds={(1, 8): (0.9, 1.1)}, speed={1: 200.0, 8: 200.0})


def identity() -> FakePropagator:
    """A propagator that returns its input."""
    return FakePropagator(lambda state: state, 0.008, permissive_domain(periodic=True, limits=LIMITS))


def water(side: float, rigid: bool) -> tuple[app.Topology, openmm.System, unit.Quantity]:
    force_field = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(force_field, boxSize=openmm.Vec3(side, side, side) * unit.nanometer)
    system = force_field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        rigidWater=rigid,
        constraints=None,
    )
    return modeller.topology, system, modeller.positions


def milliseconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of calls made in turn, after a warm-up."""
    for call in calls.values():
        for _ in range(3):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return times


def jump_of(topology, system, positions, backend: str, threads: int, guard: bool) -> Callable[[], object]:
    integrator = LearnedIntegrator(
        identity(), schedule=Schedule(0, 1, classical=openmm.VerletIntegrator(0.002)), guard=guard, seed=1
    )
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = LearnedSimulation(
        topology, copy.deepcopy(system), integrator, platform, {"Threads": str(threads)}, backend=backend
    )
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.context.setTime(0)
    integrator._half_step = False  # conversions cost force evaluations, which are the force field's
    return lambda: simulation.integrator.step(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    topology, system, positions = water(2.72, rigid=True)
    flexible = water(2.72, rigid=False)
    rows = []
    calls = {}
    for backend in ("host", "python"):
        calls[f"{backend}, transport"] = jump_of(*flexible, backend, arguments.threads, guard=False)
        calls[f"{backend}, rigid water, guards"] = jump_of(
            topology, system, positions, backend, arguments.threads, guard=True
        )
    for name, times in milliseconds(calls, arguments.repeats).items():
        warm = milliseconds({name: calls[name]}, arguments.repeats)[name]
        rows.append(
            {
                "jump": name,
                "ms, in turn": statistics.median(times),
                "p90": float(np.quantile(times, 0.9)),
                "ms, back to back": statistics.median(warm),
            }
        )

    contexts = {}
    for name in ("without", "host", "python"):
        one = copy.deepcopy(system)
        if name != "without":
            add_jump_force(one, topology, identity(), backend=name)
        platform = openmm.Platform.getPlatformByName("CPU")
        context = openmm.Context(one, openmm.VerletIntegrator(0.001), platform, {"Threads": str(arguments.threads)})
        context.setPositions(positions)
        contexts[name] = context

    def energy(context: openmm.Context) -> Callable[[], object]:
        # A changed position, or OpenMM answers from what it knows.
        places = np.array(positions.value_in_unit(unit.nanometer))

        def call() -> object:
            places[0, 0] += 1e-6
            context.setPositions(places)
            return context.getState(energy=True).getPotentialEnergy()

        return call

    times = milliseconds({name: energy(context) for name, context in contexts.items()}, arguments.repeats)
    for name in ("host", "python"):
        ratios = np.array(times[name]) / np.array(times["without"])
        rows.append(
            {
                "idle": name,
                "getState(energy=True), ms": statistics.median(times[name]),
                "without, ms": statistics.median(times["without"]),
                "ratio, median of pairs": float(np.median(ratios)),
            }
        )
    result = {
        "machine": {**machine(), "threads": arguments.threads},
        "atoms": system.getNumParticles(),
        "rows": rows,
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
