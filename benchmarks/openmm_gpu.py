"""Back-ends × precisions × sizes of jumps in OpenMM on a CUDA GPU: agreement with the host jump, and milliseconds.

    python benchmarks/openmm_gpu.py --output benchmarks/results/openmm_gpu.json

Without the CUDA platform of OpenMM or without a GPU that torch sees it prints "not run" and exits with 0. A run takes a
few minutes. Systems: alanine dipeptide in vacuum (22 atoms), and TIP3P boxes of about 2,000 and 24,000 atoms, of which
every atom jumps; the network is untrained, which changes nothing about the cost.

``--platform CPU`` (or OpenCL, Reference) runs the same matrix where there is no GPU, to try the script.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

from fastegnn_md import Propagator
from fastegnn_md.engines.openmm.backends import plugin_has
from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation, Schedule
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.limits import JumpLimits

sys.path.insert(0, str(Path(__file__).parent))
from hybrid_ala2 import Molecule, machine
from openmm_machinery import water

SIDES = {"2k": 2.72, "24k": 6.2}  # nm


def system_of(size: str):
    """Topology, System and positions."""
    if size == "22":
        molecule = Molecule("vacuum")
        return molecule.topology, molecule.system(), molecule.pdb.positions
    return water(SIDES[size], rigid=True)


def network(periodic: bool, device: str) -> Propagator:
    domain = Domain(
        masses={1: (1.0, 1.1), 6: (12.0, 12.1), 7: (14.0, 14.1), 8: (15.9, 16.1)},
        limits=JumpLimits({}),
        periodic=periodic,
        bonds=True,
        conserves_momentum=True,
        neighbours=15.0,
        velocity_scale=10.0,
        force_scale=1e4,
    )
    propagator = Propagator.build(PropagatorConfig(), 0.008, domain)
    propagator.linear.scale.data[:] = torch.tensor([0.002, 0.2])
    return propagator.eval().to(device)


def simulation_of(system, backend: str, platform: str, precision: str | None, device: str) -> LearnedSimulation:
    topology, made, positions = system
    made = copy.deepcopy(made)
    propagator = network(made.usesPeriodicBoundaryConditions(), device)
    integrator = LearnedIntegrator(
        propagator, schedule=Schedule(10, 1, classical=openmm.VerletIntegrator(0.001)), guard=False, seed=1
    )
    properties = {"Precision": precision} if precision else {}
    simulation = LearnedSimulation(
        topology, made, integrator, openmm.Platform.getPlatformByName(platform), properties, backend=backend
    )
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    return simulation


def phase_space(simulation: app.Simulation) -> tuple[np.ndarray, np.ndarray]:
    state = simulation.context.getState(positions=True, velocities=True)
    return state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value


def measure(simulation: LearnedSimulation, cycles: int) -> dict[str, float]:
    integrator = simulation.integrator
    jumps, classical = [], []
    for _ in range(cycles):
        before = integrator.jump_seconds, integrator.classical_seconds
        simulation.step(10)
        phase_space(simulation)  # waits for the GPU, so that its steps are not counted as the jump's
        simulation.step(1)
        jumps.append(1e3 * (integrator.jump_seconds - before[0]))
        classical.append(1e2 * (integrator.classical_seconds - before[1]))
    return {"ms per jump": statistics.median(jumps[1:]), "ms per classical step": statistics.median(classical[1:])}


def copied(simulation: LearnedSimulation) -> dict[str, object]:
    """What one jump copies between a GPU and the host, seen by the profiler: copies and bytes of the largest one."""
    simulation.step(10)
    phase_space(simulation)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        simulation.step(1)
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    sizes: dict[str, list[int]] = {"DtoH": [], "HtoD": []}
    for event in events:
        if event.get("cat") == "gpu_memcpy":
            for way, found in sizes.items():
                if way in event["name"]:
                    found.append(int(event.get("args", {}).get("bytes", 0)))
    waits = sum(event.get("name", "").endswith("Synchronize") for event in events)
    # Of 22 atoms positions are 264 bytes in single precision.
    least = 12 * simulation.system.getNumParticles()
    return {
        "copies from the GPU": len(sizes["DtoH"]),
        "largest copy from the GPU, bytes": max(sizes["DtoH"], default=0),
        "copies to the GPU": len(sizes["HtoD"]),
        "largest copy to the GPU, bytes": max(sizes["HtoD"], default=0),
        "positions leave the GPU": max(sizes["DtoH"], default=0) >= least,
        "waits": waits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="CUDA")
    parser.add_argument("--sizes", nargs="+", default=["22", "2k", "24k"], choices=["22", "2k", "24k"])
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    gpu = arguments.platform in ("CUDA", "HIP")
    if arguments.platform not in known or (gpu and not torch.cuda.is_available()):
        missing = f"OpenMM has {', '.join(known)}; torch sees {torch.cuda.device_count()} GPUs"
        print(f"not run: no {arguments.platform} ({missing})")
        return
    device = "cuda" if gpu else "cpu"
    backends = ["host", "python"]
    backends += [
        name for name, kind in (("torch", "TorchForce"), ("python_torch", "PythonTorchForce")) if plugin_has(kind)
    ]
    precisions = ["single", "mixed", "double"] if arguments.platform in ("CUDA", "HIP", "OpenCL") else [None]
    rows = []
    for size in arguments.sizes:
        system = system_of(size)
        for precision in precisions:
            expected = None
            for backend in backends:
                row = {"atoms": system[1].getNumParticles(), "precision": precision, "back-end": backend}
                try:
                    simulation = simulation_of(system, backend, arguments.platform, precision, device)
                    simulation.context.setStepCount(10)  # the next step is a jump
                    simulation.step(1)
                    found = phase_space(simulation)
                    expected = found if expected is None else expected
                    row["largest difference to the host, nm"] = float(np.abs(found[0] - expected[0]).max())
                    row["largest difference to the host, nm/ps"] = float(np.abs(found[1] - expected[1]).max())
                    row |= measure(simulation, arguments.cycles)
                    if gpu:
                        row |= copied(simulation)
                except Exception as error:  # a back-end that fails here is a result, and the others are still measured
                    row["error"] = f"{type(error).__name__}: {error}"
                rows.append(row)
                print(json.dumps(row), flush=True)
                if arguments.output is not None:
                    name = torch.cuda.get_device_name() if gpu else "none"
                    result = {"machine": machine(), "platform": arguments.platform, "gpu": name, "rows": rows}
                    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
