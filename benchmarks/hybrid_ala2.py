"""Alanine dipeptide, amber14, in vacuum and in implicit solvent (gbn2): hybrid stepping against classical dynamics.

    python benchmarks/hybrid_ala2.py train vacuum          # frames, bursts, force-informed propagator
    python benchmarks/hybrid_ala2.py reference vacuum      # ten classical runs of 1 ns
    python benchmarks/hybrid_ala2.py hybrid vacuum         # 1 ns of hybrid stepping
    python benchmarks/hybrid_ala2.py exact vacuum          # the same with jumps that have no error
    python benchmarks/hybrid_ala2.py compare vacuum --output benchmarks/results/hybrid_ala2_vacuum.json

Jumps alone, of a force-free propagator of 10 fs::

    python benchmarks/hybrid_ala2.py train-jump vacuum
    python benchmarks/hybrid_ala2.py train-jump gbn2 --model hybrid-output/vacuum/jump-pairs.safetensors --updates 8000
    python benchmarks/hybrid_ala2.py hybrid vacuum --classical 0 --timestep 0.002 --model ala2-vacuum --nanoseconds 2

Every stage keeps its files in ``--folder`` and skips what is there already. Frames to start bursts from come half from
300 K and half from 450 K, so that the propagator knows more of the landscape than a run at 300 K visits; velocities of
the bursts are drawn at 300 K.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import time
from importlib.resources import as_file, files
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import openmm
import torch
from MDAnalysis.analysis.dihedrals import Dihedral
from openmm import app, unit
from scipy.spatial.distance import jensenshannon
from tqdm import tqdm

from fastegnn_md import Propagator, State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.harvest import harvest
from fastegnn_md.harvest.openmm import velocity_verlet
from fastegnn_md.integrators import (
    Conserve,
    Langevin,
    LearnedIntegrator,
    LearnedSimulation,
    LearnedStateReporter,
    Schedule,
)
from fastegnn_md.mechanics.thermal import temperature_per_element
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.training import TrainingConfig, fit

FORCE_FIELDS = {"vacuum": ["amber14-all.xml"], "gbn2": ["amber14-all.xml", "implicit/gbn2.xml"]}
# For 22 atoms Reference is the fastest platform in vacuum, CPU with generalised Born.
PLATFORMS = {"vacuum": ("Reference", {}), "gbn2": ("CPU", {"Threads": "1"})}
TEMPERATURE, TIMESTEP, LAG, JUMP_LAG = 300.0, 0.002, "8 fs", "10 fs"
VALIDATION = {"validate_every": 500, "validation_pairs": 512, "checkpoint_every": 500}


class Molecule:
    """Topology, System and Platform of one of the two systems."""

    def __init__(self, name: str):
        with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
            self.pdb = app.PDBFile(str(path))
        self.topology = self.pdb.topology
        self.name = name

    def system(self) -> openmm.System:
        force_field = app.ForceField(*FORCE_FIELDS[self.name])
        return force_field.createSystem(
            self.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds, removeCMMotion=False
        )

    def platform(self) -> tuple[openmm.Platform, dict[str, str]]:
        name, properties = PLATFORMS[self.name]
        return openmm.Platform.getPlatformByName(name), dict(properties)

    def langevin(
        self, friction: float, seed: int, temperature: float = TEMPERATURE, timestep: float = TIMESTEP
    ) -> openmm.Integrator:
        integrator = openmm.LangevinMiddleIntegrator(
            temperature * unit.kelvin, friction / unit.picosecond, timestep * unit.picoseconds
        )
        integrator.setRandomNumberSeed(seed + 1)  # zero means a random seed to OpenMM
        return integrator

    def settle(self, simulation: app.Simulation, seed: int, temperature: float = TEMPERATURE, ps: float = 20) -> None:
        simulation.context.setPositions(self.pdb.positions)
        openmm.LocalEnergyMinimizer.minimize(simulation.context)
        simulation.context.setVelocitiesToTemperature(temperature * unit.kelvin, seed + 1)
        simulation.step(round(ps / TIMESTEP))


def trajectory(
    molecule: Molecule, path: Path, *, frames: int, every: float, friction: float, seed: int, temperature: float
) -> None:
    """Classical Langevin dynamics: a frame every ``every`` ps as DCD, and the mean kinetic energy of each atom."""
    if path.with_suffix(".npz").exists():
        return
    integrator = molecule.langevin(friction, seed, temperature)
    simulation = app.Simulation(molecule.topology, molecule.system(), integrator, *molecule.platform())
    molecule.settle(simulation, seed, temperature)
    stride = round(every / TIMESTEP)
    simulation.reporters.append(app.DCDReporter(str(path), stride))
    record(simulation, path, frames, stride)


def record(simulation: app.Simulation, path: Path, frames: int, stride: int) -> None:
    """Step a simulation that has its reporters; save kinetic energies (amu Å²/ps²), steps of the frames, wall time."""
    masses = np.array([simulation.system.getParticleMass(i)._value for i in range(simulation.system.getNumParticles())])
    kinetic, steps, seconds = [], [], 0.0
    for _ in tqdm(range(frames), desc=path.name, mininterval=10):
        begun = time.perf_counter()
        simulation.step(stride)
        seconds += time.perf_counter() - begun
        v = 10.0 * simulation.context.getState(velocities=True).getVelocities(asNumpy=True)._value
        kinetic.append(0.5 * masses * np.square(v).sum(axis=1))
        steps.append(simulation.currentStep)
    simulation.reporters.clear()  # closes the files
    np.savez(path.with_suffix(".npz"), kinetic=np.array(kinetic), at=steps, seconds=seconds, steps=frames * stride)


def bursts(molecule: Molecule, folder: Path, name: str, burst: str, interval: str) -> Path:
    """A store of bursts at constant energy, from frames of classical runs at two temperatures."""
    topology = folder / "topology.pdb"
    with open(topology, "w", encoding="utf-8") as file:
        app.PDBFile.writeFile(molecule.topology, molecule.pdb.positions, file)
    starts = []
    for temperature in (TEMPERATURE, 450.0):
        starts.append(folder / f"starts-{temperature:.0f}K.dcd")
        trajectory(
            molecule, starts[-1], frames=5000, every=0.1, friction=10.0, seed=int(temperature), temperature=temperature
        )
    store = folder / name
    if not store.exists():
        harvest(
            mda.Universe(str(topology), *map(str, starts)),
            molecule.system(),
            store=store,
            burst=burst,
            interval=interval,
            temperature=TEMPERATURE,
            platform=PLATFORMS[molecule.name][0],
        )
    return store


def train(molecule: Molecule, folder: Path, arguments: argparse.Namespace) -> None:
    """The force-informed propagator of hybrid stepping."""
    torch.set_num_threads(1)
    store = bursts(molecule, folder, "bursts.h5md", "32 fs", LAG)
    training, validation, _ = TrajectoryPairs(store, lag=LAG, time_reversal=True).split((0.9, 0.03, 0.07))
    config = TrainingConfig(
        propagator=PropagatorConfig(kind="force-start"), updates=arguments.updates or 12_000, **VALIDATION
    )
    fit(training, validation, config, folder / "propagator.safetensors", resume=True)


def train_jump(molecule: Molecule, folder: Path, arguments: argparse.Namespace) -> None:
    """The force-free propagator of jumps alone: on pairs, from the start or from --model, then over two jumps.

    The second training has a fifth of the updates of the first.
    """
    torch.set_num_threads(1)
    store = bursts(molecule, folder, "jump-bursts.h5md", "60 fs", "5 fs")
    training, validation, _ = TrajectoryPairs(store, lag=JUMP_LAG, time_reversal=True).split((0.92, 0.03, 0.05))
    initial = Propagator.load(arguments.model) if arguments.model else None
    pairs = {"learning_rate": 2e-3} if initial else {}
    updates = arguments.updates or 30_000
    for name, schedule in (
        ("jump-pairs", {"updates": updates, **pairs}),
        ("jump", {"updates": updates // 5, "unroll": 2, "learning_rate": 1e-3}),
    ):
        config = TrainingConfig(**schedule, **VALIDATION)
        output = folder / f"{name}.safetensors"
        initial = fit(training, validation, config, output, initial=initial, resume=True).propagator


def hybrid(molecule: Molecule, folder: Path, arguments: argparse.Namespace) -> None:
    """Hybrid stepping as a user would script it; the back-end is the platform's choice."""
    torch.set_num_threads(1)
    exact = arguments.stage == "exact"
    propagator = ExactFlow(molecule) if exact else Propagator.load(arguments.model or folder / "propagator.safetensors")
    if arguments.compile:
        propagator.compile()
    step = arguments.timestep
    classical_steps = round(arguments.classical / step)
    cycle_name = "" if classical_steps else "-jumps-only"
    cycle_name += "-energy" if arguments.conserve_energy else ""
    name = f"{arguments.stage}-{arguments.friction:g}-{1e3 * step:g}fs{cycle_name}-{arguments.seed}"
    integrator: LearnedIntegrator
    if classical_steps:
        integrator = LearnedIntegrator(
            propagator,
            schedule=Schedule(
                classical_steps, classical=molecule.langevin(arguments.friction, 100 + arguments.seed, timestep=step)
            ),
            seed=arguments.seed,
        )
    else:  # without a classical integrator, whose velocities would be those of half its step ago and look too hot
        integrator = LearnedIntegrator(
            propagator,
            Langevin(TEMPERATURE, arguments.friction),
            conserve=Conserve(energy=arguments.conserve_energy),
            seed=arguments.seed,
        )
    platform, properties = molecule.platform()
    simulation = LearnedSimulation(molecule.topology, molecule.system(), integrator, platform, properties)
    molecule.settle(simulation, 100 + arguments.seed)
    cycle, steps = arguments.classical + propagator.timestep, classical_steps + 1
    # One step more than whole cycles: frames come from all places of the cycle in turn.
    stride = round(0.2 / cycle) * steps + 1
    frames = round(arguments.nanoseconds * 1000 / cycle * steps / stride)
    simulation.reporters.append(app.DCDReporter(str(folder / f"{name}.dcd"), stride))
    simulation.reporters.append(LearnedStateReporter(folder / f"{name}.csv", 100 * stride))
    begun = simulation.context.getTime()
    record(simulation, folder / f"{name}.dcd", frames, stride)
    simulated = simulation.context.getTime() - begun
    summary = {
        "nanoseconds": simulated.value_in_unit(unit.nanosecond),
        "jumps": dataclasses.asdict(integrator.statistics),
        "ms per jump": 1e3 * integrator.jump_seconds / integrator.statistics.tried,
        "classical step, fs": 1e3 * step,
        "classical steps of a cycle": classical_steps,
        "jump, fs": 1e3 * propagator.timestep,
    }
    if integrator.classical_steps_taken:
        steps_taken = integrator.classical_steps_taken
        summary["ms per classical step"] = 1e3 * integrator.classical_seconds / steps_taken
    if not exact:
        summary["one-step errors over the best baseline"] = propagator.metrics["over_best_baseline"]
        summary["training updates"] = propagator.metrics["updates"]
    (folder / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")


class ExactFlow(FakePropagator):
    """A propagator without error: sixteen steps of velocity Verlet with RATTLE at constant energy."""

    def __init__(self, molecule: Molecule):
        super().__init__(self._flow, 0.008, fingerprint="exact")
        self._integrator = velocity_verlet(openmm, 0.0005)
        self._integrator.setConstraintTolerance(1e-9)
        self._context = openmm.Context(
            molecule.system(), self._integrator, openmm.Platform.getPlatformByName("Reference")
        )

    def _flow(self, state: State) -> State:
        self._context.setPositions(state.positions.numpy() / 10)
        self._context.setVelocities(state.velocities.numpy() / 10)
        self._integrator.step(16)
        ended = self._context.getState(positions=True, velocities=True)
        return state.replace(
            positions=torch.tensor(10 * ended.getPositions(asNumpy=True)._value),
            velocities=torch.tensor(10 * ended.getVelocities(asNumpy=True)._value),
        )


def compare(molecule: Molecule, folder: Path, arguments: argparse.Namespace) -> None:
    """Temperatures of the elements and φ/ψ histograms of hybrid runs, against the classical ones."""
    symbols = np.array([atom.element.symbol for atom in molecule.topology.atoms()])
    classical = sorted(folder.glob(f"classical-{arguments.friction:g}-*.dcd"))
    references = [torsions(folder, path) for path in classical]
    kinetic = np.concatenate([np.load(path.with_suffix(".npz"))["kinetic"] for path in classical])
    expected = temperature_per_element(kinetic.mean(axis=0), symbols)
    between = [jensen_shannon(a, b) for a, b in itertools.combinations(references, 2)]
    pool = np.concatenate(references)
    rows = []
    spent = [np.load(path.with_suffix(".npz")) for path in classical]
    step_ms = float(np.median([1e3 * float(one["seconds"]) / float(one["steps"]) for one in spent]))
    for path in sorted([*folder.glob("hybrid-*.json"), *folder.glob("exact-*.json")]):
        run = np.load(path.with_suffix(".npz"))
        measured = temperature_per_element(run["kinetic"].mean(axis=0), symbols)
        blocks = np.array([block.mean(axis=0) for block in np.array_split(run["kinetic"], 50)])
        error = {}
        for symbol in measured:
            means = blocks[:, symbols == symbol].mean(axis=1)
            error[symbol] = float(means.std(ddof=1) / np.sqrt(len(means)) / means.mean())
        summary = json.loads(path.read_text())
        rows.append(
            {
                "run": path.stem,
                **summary,
                "temperature over classical": {s: measured[s] / expected[s] for s in measured},
                "temperature over classical, by place in the cycle (0: after a jump)": by_place(
                    run, summary["classical steps of a cycle"] + 1, symbols, expected
                ),
                "standard error": error,
                "JS distance to the reference": jensen_shannon(torsions(folder, path.with_suffix(".dcd")), pool),
                "break-even: ms per jump over ms of the classical steps of 2 fs in its place": summary["ms per jump"]
                / (step_ms * 1e-3 * summary["jump, fs"] / TIMESTEP),
            }
        )
    result = {
        "machine": machine(),
        "system": molecule.name,
        "friction, 1/ps": arguments.friction,
        "classical": {
            "runs": len(classical),
            "temperature, K (not corrected for constraints)": expected,
            "JS distance between two runs, mean": float(np.mean(between)),
            "JS distance between two runs, smallest and largest": [float(min(between)), float(max(between))],
            "JS distance of one run to the others pooled, mean": float(
                np.mean([jensen_shannon(one, _without(references, k)) for k, one in enumerate(references)])
            ),
            "ms per step of 2 fs, median": step_ms,
        },
        "hybrid": rows,
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)


def by_place(run, steps: int, symbols: np.ndarray, expected: dict[str, float]) -> dict[int, dict[str, float]]:
    """Temperatures over the classical ones after the jump (0) and after each classical step of the cycle."""
    places = {}
    for place in range(steps):
        measured = temperature_per_element(run["kinetic"][run["at"] % steps == place].mean(axis=0), symbols)
        places[place] = {symbol: round(measured[symbol] / expected[symbol], 3) for symbol in measured}
    return places


def _without(runs: list[np.ndarray], k: int) -> np.ndarray:
    return np.concatenate(runs[:k] + runs[k + 1 :])


def torsions(folder: Path, path: Path) -> np.ndarray:
    """φ and ψ of the alanine in degrees, shape (frames, 2)."""
    universe = mda.Universe(str(folder / "topology.pdb"), str(path))
    alanine = universe.select_atoms("resname ALA").residues[0]
    return Dihedral([alanine.phi_selection(), alanine.psi_selection()]).run().results.angles


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """Distance between two sets of torsions (frames, 2), on 50 x 50 bins; base 2, from 0 to 1."""
    edges = [np.linspace(-180, 180, 51)] * 2
    p, q = (np.histogramdd(one, bins=edges)[0].ravel() for one in (a, b))
    return float(jensenshannon(p, q, base=2))


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": cpu or platform.processor(), "torch": torch.__version__, "openmm": openmm.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=sorted(STAGES))
    parser.add_argument("system", choices=sorted(FORCE_FIELDS))
    parser.add_argument("--folder", type=Path, default=Path("hybrid-output"))
    parser.add_argument("--updates", type=int, help="of training on pairs; 12,000 in `train`, 30,000 in `train-jump`")
    parser.add_argument("--friction", type=float, default=10.0, help="1/ps")
    parser.add_argument("--runs", type=int, default=10, help="classical runs of 1 ns")
    parser.add_argument("--timestep", type=float, default=0.001, help="classical step between jumps, ps")
    parser.add_argument("--classical", type=float, default=0.010, help="time of classical steps between jumps, ps")
    parser.add_argument("--conserve-energy", action="store_true", help="scale velocities; with --classical 0")
    parser.add_argument("--nanoseconds", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="file or name of a propagator; default: that of the stage `train`")
    parser.add_argument("--compile", action="store_true", help="translate the jump first")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.conserve_energy and arguments.classical:
        parser.error("--conserve-energy is for jumps alone: give --classical 0")
    molecule = Molecule(arguments.system)
    folder = arguments.folder / arguments.system
    folder.mkdir(parents=True, exist_ok=True)
    STAGES[arguments.stage](molecule, folder, arguments)


def reference(molecule: Molecule, folder: Path, arguments: argparse.Namespace) -> None:
    for run in range(arguments.runs):
        path = folder / f"classical-{arguments.friction:g}-{run}.dcd"
        trajectory(
            molecule, path, frames=5000, every=0.2, friction=arguments.friction, seed=run, temperature=TEMPERATURE
        )


STAGES = {
    "train": train,
    "train-jump": train_jump,
    "reference": reference,
    "hybrid": hybrid,
    "exact": hybrid,
    "compare": compare,
}

if __name__ == "__main__":
    main()
