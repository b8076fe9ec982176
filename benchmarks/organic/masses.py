"""Heavier hydrogens and longer jumps: at which step the symplectic map of ethanol with GFN2-xTB holds.

    export OMP_NUM_THREADS=1
    python benchmarks/organic/masses.py vibrations FOLDER
    python benchmarks/organic/masses.py make FOLDER --masses 3
    python benchmarks/organic/masses.py train FOLDER --masses 3 --lag 6 --updates 500
    python benchmarks/organic/masses.py run FOLDER --masses 3 --lag 6 --friction 1
    python benchmarks/organic/masses.py run FOLDER --masses 3 --lag 6 --friction nve
    python benchmarks/organic/masses.py run FOLDER --masses 3 --step 2 --friction nve        # classical
    python benchmarks/organic/masses.py collect FOLDER --output benchmarks/results/organic_masses.json

``--masses 1`` leaves hydrogen as it is, ``3`` gives it 3 u and takes what that is more from the atom it is bonded to,
as OpenMM's ``hydrogenMass`` does, ``4+`` gives it 4 u and leaves the others alone. A potential does not depend on
masses, so training starts from that of ``organic-xtb-4fs``; with ``--updates 0`` it is that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io import Trajectory, read
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from dynamics import TEMPERATURE, classical, learned, record
from engine import about_machine, xtb
from judging import asked_pairs
from observed import SETTLE, temperatures
from train import with_potential_of

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.data.ase_files import ase_universe
from fastegnn_md.engines.ase.atoms import guess_bonds
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import one_step_errors, ratios

START = "organic-xtb-4fs"  # whose potential training starts from
SAMPLES = {"train": (450.0, 200), "exam": (TEMPERATURE, 40)}  # K and bursts: training is hotter than what it is for
WARM_UP, EVERY = 200, 20  # steps of 1 fs


def ethanol(policy: str) -> Atoms:
    """Ethanol with the masses of a policy."""
    atoms = molecule("CH3CH2OH")
    mass, moved = float(policy.removesuffix("+")), not policy.endswith("+")
    if mass != 1:
        masses = atoms.get_masses()
        for one, other in [*guess_bonds(atoms), *guess_bonds(atoms)[:, ::-1]]:
            if atoms.numbers[one] == 1:
                masses[other] -= (mass - masses[one]) * moved
                masses[one] = mass
        atoms.set_masses(masses)
    return atoms


def vibrations(arguments: argparse.Namespace) -> None:
    """Shortest periods (fs) of all policies, from one Hessian by central differences."""
    from ase.optimize import BFGS

    atoms, step = ethanol("1"), 0.005
    atoms.calc = xtb()
    BFGS(atoms, logfile=None).run(fmax=1e-3)
    rest, rows = atoms.positions.ravel().copy(), []
    for index in range(len(rest)):
        for sign in (1, -1):
            moved = rest.copy()
            moved[index] += sign * step
            atoms.set_positions(moved.reshape(-1, 3))
            rows.append(-sign * atoms.get_forces().ravel() / (2 * step))
    hessian = np.array(rows).reshape(len(rest), 2, -1).sum(axis=1)
    found = {}
    for policy in ("1", "2", "3", "4", "2+", "3+", "4+"):
        root = np.sqrt(np.repeat(ethanol(policy).get_masses(), 3))
        squares = np.linalg.eigvalsh((hessian + hessian.T) / (2 * np.outer(root, root)))
        found[policy] = (2 * np.pi / np.sqrt(squares[-3:]) / units.fs)[::-1].round(2).tolist()
    _write(arguments.folder / "vibrations.json", found)


def make(arguments: argparse.Namespace) -> None:
    """Bursts to train on and to judge on."""
    for name, (temperature, bursts) in SAMPLES.items():
        path = arguments.folder / f"{name}-{arguments.masses}"
        atoms = ethanol(arguments.masses)
        atoms.calc = xtb()
        thermalize_momenta(atoms, 2 * temperature, rng=np.random.default_rng(bursts))  # half of it goes into bonds
        dynamics = classical(atoms, 1.0, 20.0, bursts)
        dynamics.set_temperature(temperature_K=temperature)
        dynamics.run(WARM_UP)
        with Trajectory(path.with_suffix(".traj"), "w") as file:  # a file of ASE that keeps masses
            for _ in range(bursts):
                dynamics.run(EVERY)
                file.write(atoms)
        universe = ase_universe(path.with_suffix(".traj"), dt=1e-3 * EVERY)
        times = {"burst": "16 fs", "interval": "1 fs", "timestep": "0.5 fs"}
        harvest(universe, xtb, store=path.with_suffix(".h5"), temperature=None, overwrite=True, **times)


def train(arguments: argparse.Namespace) -> None:
    """One propagator, and its error on bursts at the temperature of the runs."""
    lag, path = f"{arguments.lag:g} fs", _model(arguments)
    pairs = TrajectoryPairs(arguments.folder / f"train-{arguments.masses}.h5", lag=lag, time_reversal=True)
    training, held_out = pairs.split((0.9, 0.1))
    known = Propagator.load(START).config.model_dump()
    config = PropagatorConfig.model_validate(known | {"kicks": arguments.kicks, "mollify": None})
    made: Any = with_potential_of(START, training, config)
    if arguments.updates:
        settings = TrainingConfig(
            propagator=config,
            updates=arguments.updates,
            learning_rate=1e-3,
            ema_decay=0.99,
            validate_every=100,
            validation_pairs=128,
            logger="none",
        )
        made = fit(training, held_out, settings, path, initial=made).propagator
    exam = TrajectoryPairs(arguments.folder / f"exam-{arguments.masses}.h5", lag=lag)
    asked = asked_pairs(exam, made, xtb(), 60)
    made.metrics = {"over_best_baseline": ratios(one_step_errors(made, asked, asked.indices))}
    made.save(path)
    print(path, made.metrics)


def run(arguments: argparse.Namespace) -> None:
    """One run from a frame of the exam, classical if it has a step."""
    nve, steps = arguments.friction is None, arguments.step
    frames = read(arguments.folder / f"exam-{arguments.masses}.traj", index=":")
    atoms = frames[-1 - arguments.seed]
    atoms.calc = xtb()
    thermalize_momenta(atoms, TEMPERATURE, rng=np.random.default_rng(arguments.seed))
    row: dict[str, Any] = {"masses": arguments.masses, "friction, 1/ps": arguments.friction, "seed": arguments.seed}
    if nve:
        Stationary(atoms)
        ZeroRotation(atoms)
    if steps is None:
        model = Propagator.load(_model(arguments))
        dynamics: Any = learned(atoms, model, arguments.friction, arguments.seed)
        row |= {"jump, fs": arguments.lag, "kicks": arguments.kicks, "updates": arguments.updates}
        row["error over best baseline"], step = model.metrics["over_best_baseline"], arguments.lag
    else:
        dynamics, step = classical(atoms, steps, arguments.friction, arguments.seed), steps
        row["classical step, fs"] = steps
    begun = atoms.get_total_energy()
    found = record(dynamics, atoms, step, arguments.picoseconds, nve)
    row |= {key: found["about"][key] for key in ("run, ps", "ms per step", "stopped")}
    if steps is None:
        row |= {"refused": dynamics.statistics.rejected, "audits, kT": list(dynamics.statistics.energy_change)}
    arrays = found["arrays"]
    if nve:
        energies = (arrays["energies"] - begun) / (units.kB * TEMPERATURE)
        parts = np.array_split(energies, min(10, len(energies))) if len(energies) else []
        row["E - E0 by tenths, kT"] = [round(float(part.mean()), 3) for part in parts]
    elif found["about"]["run, ps"] > 2 * SETTLE:
        means, errors = temperatures(arrays["kinetic"], arrays["counts"], step)
        row["T, K"] = {
            symbol: [round(float(mean), 1), round(float(error), 1)]
            for symbol, mean, error in zip(Atoms(arrays["elements"]).symbols, means, errors, strict=True)
        }
    how = f"{arguments.lag:g}fs-{arguments.kicks}-{arguments.updates}" if steps is None else f"classical-{steps:g}fs"
    mode = "nve" if nve else f"{arguments.friction:g}"
    _write(arguments.folder / f"run-{arguments.masses}-{how}-{mode}-{arguments.seed}.json", row)


def collect(arguments: argparse.Namespace) -> None:
    """All runs of the folder, to one file."""
    rows = [json.loads(path.read_text()) for path in sorted(arguments.folder.glob("run-*.json"))]
    periods = json.loads((arguments.folder / "vibrations.json").read_text())
    _write(arguments.output, {"machine": about_machine(), "shortest periods, fs": periods, "runs": rows})


def _model(arguments: argparse.Namespace) -> Path:
    name = f"{arguments.masses}-{arguments.lag:g}fs-{arguments.kicks}-{arguments.updates}.safetensors"
    return Path(arguments.folder, name)


def _write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(stages := {one.__name__: one for one in STAGES}))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--masses", default="1", help="1, 3, 4+ and so on")
    parser.add_argument("--lag", type=float, default=6.0, help="fs")
    parser.add_argument("--kicks", type=int, default=5)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--friction", type=lambda text: None if text == "nve" else float(text), default=1.0)
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--step", type=float, help="of a classical run, fs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stages[arguments.stage](arguments)


STAGES = (vibrations, make, train, run, collect)

if __name__ == "__main__":
    main()
