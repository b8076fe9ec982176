"""Runs of molecules that no model has seen, at 350 K: by a model, and classically for comparison.

    python benchmarks/organic/build.py EXAM --exam                       # starting frames
    export OMP_NUM_THREADS=1
    python benchmarks/organic/dynamics.py run RUNS EXAM --model classical --picoseconds 25 --runs 2
    python benchmarks/organic/dynamics.py run RUNS EXAM --model organic-xtb --friction 10
    python benchmarks/organic/dynamics.py run RUNS EXAM --model organic-xtb --friction 1
    python benchmarks/organic/dynamics.py run RUNS EXAM --model organic-xtb --friction nve --picoseconds 20
    python benchmarks/organic/dynamics.py clock RUNS EXAM --model organic-xtb
    python benchmarks/organic/dynamics.py collect RUNS --output benchmarks/results/organic_dynamics.json

Every run is a file of ``RUNS``; one that is there, as long and of the same weights, is not run again, so that a command
that was stopped goes on when it is given again. ``collect`` adds to what its output has of the same weights. ``--model
classical`` is Langevin dynamics or velocity Verlet of ASE with ``--timestep``, of natural masses or hydrogens of
``--hydrogen``; learned runs have the masses of the model's training. Frictions are in 1/ps. Learned runs have the
default guards and audits; times by the clock hold everything.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from engine import about_machine, xtb
from lists import Molecule, read_list, seed_of
from observed import observe

from fastegnn_md import Propagator
from fastegnn_md.engines.ase.atoms import guess_bonds
from fastegnn_md.integrators import AuditWarning, LearnedDynamics

TEMPERATURE = 350.0
FRAME = 20.0  # fs between stored positions, about
ROUNDS, JUMPS = 9, 10  # of the clock
CLASSICAL = "classical"
# Of the exam: small and large, and one at least of each group held out.
MOLECULES = (
    *("ethanol", "benzene", "acetamide", "isobutane", "furan", "trimethylamine"),
    *("nitromethane", "nitrobenzene", "methanesulfonamide", "glycidol", "acetone-oxime"),
    *("vanillin", "isoamyl-acetate", "menthol", "alanine-dipeptide", "glycylglycine"),
    *("aspirin", "paracetamol", "caffeine", "clomethiazole"),
    *("nicotine", "captopril", "clofibrate", "ibuprofen", "lidocaine"),
)


def beginning(
    exam: Path, name: str, seed: int, nve: bool, propagator: Propagator | None = None, hydrogen: float | None = None
) -> Atoms:
    """A frame at 350 K of the first conformer, with new velocities; at constant energy without overall motion.

    Masses are natural, with hydrogens of so many u, or, of a propagator that knows no natural ones, its own.
    """
    atoms = read(exam / f"{name}.traj", index=0)
    assert isinstance(atoms, Atoms)  # one frame was asked for
    atoms = Atoms(atoms.numbers, atoms.positions)
    if hydrogen is not None:
        atoms.set_masses(np.where(atoms.numbers == 1, hydrogen, atoms.get_masses()))
    if propagator is not None and not all(
        propagator.domain.knows(torch.as_tensor(atoms.numbers), torch.as_tensor(atoms.get_masses()))
    ):
        atoms.set_masses(propagator.domain.masses_of(atoms.numbers).numpy())
    atoms.calc = xtb()
    thermalize_momenta(atoms, TEMPERATURE, rng=np.random.default_rng([seed_of(name), seed]))
    if nve:
        Stationary(atoms)
        ZeroRotation(atoms)
    return atoms


def classical(atoms: Atoms, timestep: float, friction: float | None, seed: int) -> Any:
    """ASE's dynamics with a step in fs."""
    if friction is None:
        return VelocityVerlet(atoms, timestep * units.fs)
    return Langevin(
        atoms,
        timestep * units.fs,
        temperature_K=TEMPERATURE,
        friction=friction / (1000 * units.fs),
        rng=np.random.default_rng(seed),
        fixcm=False,
    )


def learned(atoms: Atoms, propagator: Propagator, friction: float | None, seed: int) -> LearnedDynamics:
    """Jumps with default guards and audits."""
    bath = {} if friction is None else {"temperature_K": TEMPERATURE, "friction": f"{friction}/ps"}
    return LearnedDynamics(atoms, propagator, bonds=guess_bonds(atoms), rng=seed, **bath)


def record(dynamics: Any, atoms: Atoms, step: float, picoseconds: float, energies: bool) -> dict[str, Any]:
    """Run and record: kinetic energies of elements at every step, positions and, if asked for, energies now and then.

    A run that ends early keeps what it has and says why.
    """
    numbers = atoms.get_atomic_numbers()
    elements, of = np.unique(numbers, return_inverse=True)
    steps, every = round(1000 * picoseconds / step), max(1, round(FRAME / step))
    kinetic, frames, total = [], [], []
    stopped, seconds = "", 0.0
    for index in range(steps):
        begun = time.perf_counter()
        try:
            dynamics.run(1)
        except Exception as error:  # of the engine or of a guard: the end of this run, not of the others
            stopped = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            break
        seconds += time.perf_counter() - begun
        momenta = atoms.get_momenta()
        kinetic.append(np.bincount(of, weights=(momenta**2).sum(axis=1) / (2 * atoms.get_masses())))
        if index % every == 0:
            frames.append(atoms.get_positions())
            if energies:
                total.append(atoms.get_potential_energy() + atoms.get_kinetic_energy())
    return {
        "arrays": {
            "numbers": numbers,
            "elements": elements,
            "counts": np.bincount(of),
            "kinetic": np.array(kinetic, dtype=np.float32).reshape(-1, len(elements)),
            "positions": np.array(frames, dtype=np.float32).reshape(-1, len(numbers), 3),
            "energies": np.array(total),
        },
        "about": {
            "step, fs": step,
            "frame, fs": every * step,
            "asked for, ps": picoseconds,
            "run, ps": 1e-3 * step * len(kinetic),
            "ms per step": 1e3 * seconds / max(1, len(kinetic)),
            "stopped": stopped,
        },
    }


def run_one(arguments: argparse.Namespace, molecule: Molecule, seed: int, propagator: Propagator | None) -> None:
    """One run, to two files; the second says that it is complete."""
    nve = arguments.friction is None
    mode = "nve" if nve else f"{arguments.friction:g}"
    heavy = "" if arguments.hydrogen is None else f"-H{arguments.hydrogen:g}"
    model = f"{CLASSICAL}-{arguments.timestep:g}fs{heavy}" if propagator is None else Path(arguments.model).stem
    path = arguments.runs_folder / model / f"{molecule.name}_{mode}_{seed}.json"
    identity = None if propagator is None else propagator.identity()
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["identity"] == identity and known["asked for, ps"] >= arguments.picoseconds:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    atoms = beginning(arguments.exam, molecule.name, seed, nve, propagator, arguments.hydrogen)
    if propagator is None:
        dynamics, step = classical(atoms, arguments.timestep, arguments.friction, seed), arguments.timestep
    else:
        dynamics, step = learned(atoms, propagator, arguments.friction, seed), 1e3 * propagator.timestep
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AuditWarning)
        found = record(dynamics, atoms, step, arguments.picoseconds, nve)
    about = {
        "molecule": molecule.name,
        "atoms": molecule.n_atoms,
        "model": model,
        "identity": identity,
        "friction, 1/ps": arguments.friction,
        "seed": seed,
        **found["about"],
    }
    if propagator is not None:
        statistics = dynamics.statistics
        change = [None if math.isnan(value) else value for value in statistics.energy_change]
        about |= {
            "jumps tried": statistics.tried,
            "jumps refused": statistics.rejected,
            "refused share": 1 - statistics.accepted / max(1, statistics.tried),
            "audits": statistics.audits,
            "energy change per jump, kT": change,
            "audit warnings": sum(issubclass(one.category, AuditWarning) for one in caught),
        }
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **found["arrays"])
    part.rename(path.with_suffix(".npz"))
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"{molecule.name} {mode}: {about['run, ps']:.1f} ps, {about['ms per step']:.1f} ms a step {about['stopped']}")


def run(arguments: argparse.Namespace, molecules: list[Molecule]) -> None:
    """All runs that are not there yet."""
    propagator = None if arguments.model == CLASSICAL else Propagator.load(arguments.model)
    for seed in range(arguments.runs):
        for molecule in molecules:
            run_one(arguments, molecule, seed, propagator)


def clock(arguments: argparse.Namespace, molecules: list[Molecule]) -> None:
    """What a jump saves: jumps and the classical steps in their place, measured in turn."""
    propagator = Propagator.load(arguments.model)
    jump = 1e3 * propagator.timestep
    folder = arguments.runs_folder / Path(arguments.model).stem
    folder.mkdir(parents=True, exist_ok=True)
    for molecule in molecules:
        path = folder / f"{molecule.name}_clock.json"
        identity = propagator.identity()
        if path.exists() and json.loads(path.read_text(encoding="utf-8"))["identity"] == identity:
            continue
        steppers: dict[str, tuple[Callable[[int], Any], int]] = {}
        atoms = beginning(arguments.exam, molecule.name, 0, False, propagator)
        steppers["jump"] = (learned(atoms, propagator, arguments.friction, 0).run, JUMPS)
        for step in (0.5, 1.0):
            own = beginning(arguments.exam, molecule.name, 0, False)
            steppers[f"{step} fs"] = (classical(own, step, arguments.friction, 0).run, round(JUMPS * jump / step))
        try:
            times = {name: _turn(*stepper) for name, stepper in steppers.items()}  # warm
            turns = []
            for _ in range(ROUNDS):
                times = {name: _turn(*stepper) for name, stepper in steppers.items()}
                turns.append(times)
        except Exception as error:  # a run that ends has no time
            print(f"{molecule.name}: {error}")
            continue
        row: dict[str, Any] = {"molecule": molecule.name, "atoms": molecule.n_atoms, "jump, fs": jump}
        for name, (_, count) in steppers.items():
            row[f"CPU ms of a {name}"] = 1e3 * float(np.median([turn[name][1] for turn in turns])) / count
        for name in list(steppers)[1:]:
            row[f"gain over {name}"] = float(np.median([turn[name][0] / turn["jump"][0] for turn in turns]))
        path.write_text(
            json.dumps(row | {"identity": identity, "load": os.getloadavg()[0]}, indent=1) + "\n", encoding="utf-8"
        )
        print(json.dumps(row), flush=True)


def _turn(stepper: Callable[[int], Any], count: int) -> tuple[float, float]:
    begun = time.perf_counter(), time.process_time()
    stepper(count)
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def collect(arguments: argparse.Namespace, molecules: list[Molecule]) -> None:
    """Everything that the runs show, to one file, beside what it has of runs whose files are gone."""
    known = json.loads(arguments.output.read_text("utf-8")) if arguments.output.exists() else {"models": {}}
    models = observe(arguments.runs_folder, known["models"])
    found = known | {"machine": about_machine(), "temperature, K": TEMPERATURE, "models": models}
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    arguments.output.write_text(text, encoding="utf-8")


def _friction(text: str) -> float | None:
    return None if text == "nve" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, stage in (("run", run), ("clock", clock), ("collect", collect)):
        one = stages.add_parser(name)
        one.set_defaults(act=stage)
        one.add_argument("runs_folder", type=Path)
        one.add_argument("--molecules", nargs="+", default=list(MOLECULES))
        if name == "collect":
            one.add_argument("--output", type=Path, required=True)
            continue
        one.add_argument("exam", type=Path, help="folder of build.py --exam")
        one.add_argument("--model", required=True, help=f"name or file of a model, or {CLASSICAL}")
        one.add_argument("--friction", type=_friction, default=10.0, help="1/ps, or nve")
        if name == "run":
            one.add_argument("--picoseconds", type=float, default=100.0)
            one.add_argument("--timestep", type=float, default=0.5, help="of classical runs, fs")
            one.add_argument("--hydrogen", type=float, help="mass of hydrogen in classical runs, u; default: natural")
            one.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = {one.name: one for one in read_list("exam")}
    if unknown := set(arguments.molecules) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: not in exam.smi")
    arguments.act(arguments, [known[name] for name in arguments.molecules])


if __name__ == "__main__":
    main()
