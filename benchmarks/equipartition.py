"""Temperatures at low friction, and what cures those that are wrong: kinds, training, noise, symmetrised jumps.

    python benchmarks/equipartition.py harvest silicon-chgnet         # classical runs, bursts from their frames
    python benchmarks/equipartition.py train silicon-chgnet force-free
    python benchmarks/equipartition.py train silicon-chgnet conservative
    python benchmarks/equipartition.py run silicon-chgnet force-free --friction 1 --picoseconds 100
    python benchmarks/equipartition.py run silicon-chgnet force-free --friction 1 --picoseconds 100 --cure noise
    python benchmarks/equipartition.py collect silicon-chgnet --output benchmarks/results/equipartition_silicon.json

``--folder`` is where all of it lies. Kind symplectic asks the engine once a jump, the others never. CHGNet has to be
importable for silicon.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import torch
from ase import Atoms, units
from ase.io import read
from ase.neighborlist import neighbor_list
from equipartition_cures import CURES, cured
from equipartition_systems import SYSTEMS, bursts
from physics_systems import ASESystem

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.errors import JumpError
from fastegnn_md.integrators import LearnedDynamics
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.units import BOLTZMANN

# Networks of one size for all kinds; silicon's second neighbours are within 4.5 Å, copper's first within 4.
_NETWORKS: dict[str, dict[str, Any]] = {
    "silicon-chgnet": {"hidden": 32, "layers": 3, "cutoff": 4.5, "virtual_nodes": 1, "use_bonds": False},
    "copper-emt": {"hidden": 32, "layers": 3, "cutoff": 4.0, "virtual_nodes": 1, "use_bonds": False},
}
_BATCH = 8
# Settings of training by name; "from" names the model that training goes on from.
TRAININGS: dict[str, dict[str, Any]] = {
    "force-free": {"updates": 1000},
    "heavier-v": {"updates": 1000, "velocity_weight": 10.0},
    "unrolled": {"from": "force-free", "updates": 150, "unroll": 2, "learning_rate": 1e-3},
    "conservative": {"kind": "conservative", "kicks": 2, "force_updates": 250, "updates": 550},
    "conservative-longer": {"from": "conservative", "kind": "conservative", "kicks": 2}
    | {"force_updates": 450, "updates": 800, "learning_rate": 3e-3},
    "symplectic": {"kind": "symplectic", "kicks": 3, "force_updates": 250, "updates": 450},
}


def train(system: ASESystem, folder: Path, name: str) -> None:
    """One model, on one thread."""
    settings = {"batch_size": _BATCH, **TRAININGS[name]}
    initial = settings.pop("from", None)
    options = {key: settings.pop(key) for key in ("kind", "kicks") if key in settings}
    network = PropagatorConfig(**_NETWORKS[system.name], **options)
    pairs = TrajectoryPairs(folder / "bursts.h5md", lag=f"{system.lag} fs", time_reversal=True)
    training, validation = pairs.split((0.85, 0.15))
    config = TrainingConfig(propagator=network, validate_every=250, validation_pairs=32, seed=1, **settings)
    begun = time.process_time()
    start = None if initial is None else Propagator.load(folder / f"{initial}.safetensors")
    result = fit(training, validation, config, folder / f"{name}.safetensors", initial=start)
    found = {"training CPU s": time.process_time() - begun, "one step": result.metrics["over_best_baseline"]}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1))
    print(name, json.dumps(found))


def run(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """Learned dynamics from the last frame of the classical run, and temperatures of parts of the motion."""
    model = cured(Propagator.load(folder / f"{arguments.model}.safetensors"), arguments, folder, system)
    atoms, friction = start(system, folder, arguments.frame), arguments.friction
    if model.wants_forces is not None or arguments.energy:
        atoms.calc = system.calculator()
    heat = {} if friction == 0 else {"temperature_K": system.temperature, "friction": f"{friction:g}/ps"}
    dynamics = LearnedDynamics(atoms, model, guard=not arguments.unguarded, rng=arguments.seed, **heat)
    parts, steps = Parts(atoms), round(1000 * arguments.picoseconds / system.lag)
    rows, energies, begun = [], [], time.process_time()
    name = f"run-{arguments.model}-{arguments.cure}-{friction:g}-{arguments.seed}-{arguments.frame}.json"
    ended: str | None = None
    for step in range(steps):
        try:
            dynamics.run(1)
        except JumpError as error:
            ended = str(error)
        rows.append(parts(atoms))
        if arguments.energy and step % arguments.energy == 0:
            energies.append(float(atoms.get_potential_energy() + atoms.get_kinetic_energy()))
        if ended is None and step % 250 != 249 and step + 1 < steps:
            continue
        found = {
            "model": arguments.model,
            "cure": arguments.cure,
            "friction": friction,
            "start": arguments.frame,
            "picoseconds": len(rows) * system.lag / 1000,
            "CPU ms per jump": 1000 * (time.process_time() - begun) / len(rows),
            "jumps refused": sum(dynamics.statistics.rejected.values()),
            "ended early": ended,
            "temperatures": summary(np.array(rows), parts.names, 0 if friction == 0 else round(2000 / system.lag)),
        }
        if friction == 0:
            found["temperature by tenths"] = [float(part.mean()) for part in np.array_split(np.array(rows)[:, 0], 10)]
        if energies:
            unit = units.kB * system.temperature
            found["total energy from the start, kT"] = [(one - energies[0]) / unit for one in energies]
        (folder / name).write_text(json.dumps(found, indent=1))
        if ended is not None:
            break
    print(json.dumps(found))


def start(system: ASESystem, folder: Path, frame: int) -> Atoms:
    """A frame of the classical run at the temperature."""
    atoms = read(folder / "topology.xyz")
    atoms.calc = None
    universe = mda.Universe(str(folder / "topology.xyz"), str(folder / f"starts-{system.temperature:.0f}K.trr"))
    universe.trajectory[frame]
    atoms.positions = universe.atoms.positions
    atoms.set_velocities(universe.atoms.velocities / PICOSECOND)
    return atoms


class Parts:
    """Temperatures, K, of all motion, of each element, of stretching of bonds and of centres of bonds."""

    def __init__(self, atoms: Atoms):
        reach = {"Si": 2.8, "Cu": 3.0}
        i, j = neighbor_list("ij", atoms, reach[atoms.symbols[0]])
        self.i, self.j = i[i < j], j[i < j]
        self.elements = sorted(set(atoms.symbols))
        self.names = ["all", *self.elements, "bonds stretching", "centres of bonds"]

    def __call__(self, atoms: Atoms) -> list[float]:
        v, m = atoms.get_velocities() * PICOSECOND, atoms.get_masses()
        each = m * (v**2).sum(1) / (3 * BOLTZMANN)
        along = atoms.positions[self.i] - atoms.positions[self.j]
        along -= np.round(along @ np.linalg.inv(atoms.cell)) @ np.asarray(atoms.cell)
        along /= np.linalg.norm(along, axis=1)[:, None]
        mi, mj = m[self.i], m[self.j]
        stretch = mi * mj / (mi + mj) * (((v[self.i] - v[self.j]) * along).sum(1)) ** 2 / BOLTZMANN
        centre = (mi[:, None] * v[self.i] + mj[:, None] * v[self.j]) / np.sqrt(mi + mj)[:, None]
        symbols = np.array(atoms.symbols)
        return [
            float(each.mean()),
            *(float(each[symbols == element].mean()) for element in self.elements),
            float(stretch.mean()),
            float((centre**2).sum(1).mean() / (3 * BOLTZMANN)),
        ]


def summary(rows: np.ndarray, names: list[str], settle: int) -> dict[str, list[float]]:
    """Mean and standard error of the mean from ten blocks."""
    rows = rows[min(settle, len(rows) // 3) :]
    blocks = np.array([part.mean(0) for part in np.array_split(rows, 10)])
    error = blocks.std(0, ddof=1) / np.sqrt(len(blocks))
    return {
        name: [round(float(m), 2), round(float(e), 2)] for name, m, e in zip(names, rows.mean(0), error, strict=True)
    }


def collect(folder: Path, output: Path) -> None:
    """All trainings and runs in one file."""
    trained = {name: json.loads(path.read_text()) for name in TRAININGS if (path := folder / f"{name}.json").exists()}
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("run-*.json"))]
    output.write_text(json.dumps({"settings": TRAININGS, "trained": trained, "runs": runs}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["harvest", "train", "run", "collect"])
    parser.add_argument("system", choices=list(SYSTEMS))
    parser.add_argument("model", nargs="?", choices=list(TRAININGS))
    parser.add_argument("--folder", type=Path, default=Path("equipartition"))
    parser.add_argument("--friction", type=float, default=1.0, help="1/ps; 0 is constant energy")
    parser.add_argument("--picoseconds", type=float, default=100.0)
    parser.add_argument("--minutes", type=float, default=60.0, help="of CPU time, after which a run ends")
    parser.add_argument("--cure", choices=list(CURES), default="none")
    parser.add_argument("--energy", type=int, default=0, help="ask the engine for the energy every so many jumps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--frame", type=int, default=-1, help="of the classical run, to start from; the last is at 741 K"
    )
    parser.add_argument("--unguarded", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("equipartition.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    system, folder = SYSTEMS[arguments.system], arguments.folder / arguments.system
    if arguments.stage == "harvest":
        bursts(system, folder)
    elif arguments.stage == "train":
        train(system, folder, arguments.model)
    elif arguments.stage == "run":
        run(system, folder, arguments)
    else:
        collect(folder, arguments.output)


if __name__ == "__main__":
    main()
