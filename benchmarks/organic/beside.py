"""Kinetic energy of elements in jumps and in classical steps from the same places with the same velocities.

    R="RUNS EXAM --molecules acetamide"
    python benchmarks/organic/dynamics.py run $R --model classical --picoseconds 12 --runs 2
    python benchmarks/organic/beside.py $R -o benchmarks/results/organic_beside.json

A temperature from one run fluctuates: a single nitrogen atom at 1/ps says it to some 5 % in 100 ps. Places of the
classical runs with velocities drawn at 350 K are canonical, and so is what exact dynamics makes of them; a map that
cools an element shows it within a few vibrations, and exact dynamics from the same beginning fluctuates alike.
Neither has a thermostat. Beginnings that are done are kept in RUNS/beside and not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.data import chemical_symbols
from ase.md.velocitydistribution import thermalize_momenta
from dynamics import CLASSICAL, TEMPERATURE, beginning, classical, learned
from engine import xtb
from lists import seed_of

from fastegnn_md import Propagator

STEP = 0.5  # fs, of the classical steps
SKIP = 100  # frames of a classical run that are not counted
FIFTHS = 5


def energies(dynamics: Any, atoms: Atoms, count: int, steps: int) -> np.ndarray:
    """Kinetic energy of each atom over 3/2 kT, at first and after each of so many blocks of steps: (count + 1, N)."""
    found = [_kinetic(atoms)]
    for _ in range(count):
        dynamics.run(steps)
        found.append(_kinetic(atoms))
    return np.array(found)


def _kinetic(atoms: Atoms) -> np.ndarray:
    return (atoms.get_momenta() ** 2).sum(axis=1) / (3 * atoms.get_masses() * units.kB * TEMPERATURE)


def one_beginning(places: np.ndarray, atoms: Atoms, propagator: Propagator, jumps: int, seed: list[int]) -> np.ndarray:
    """Both from one beginning, shape (2, jumps + 1, N): jumps, classical steps."""
    rng = np.random.default_rng(seed)
    both = []
    start = atoms.copy()
    start.positions = places[rng.integers(len(places))]
    thermalize_momenta(start, TEMPERATURE, rng=rng)
    per_jump = round(1e3 * propagator.timestep / STEP)
    for is_learned in (True, False):
        own = start.copy()
        own.calc = xtb()
        dynamics = learned(own, propagator, None, 0) if is_learned else classical(own, STEP, None, 0)
        both.append(energies(dynamics, own, jumps, 1 if is_learned else per_jump))
    return np.array(both)


def row(name: str, numbers: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """What all beginnings (S, 2, jumps + 1, N) show of each element, means and standard errors."""
    by_element = {}
    for number in np.unique(numbers):
        of = found[:, :, 1:, numbers == number].mean(axis=3)
        difference = of[:, 0] - of[:, 1]
        by_element[chemical_symbols[number]] = {
            "jumps": _mean(of[:, 0].mean(axis=1)),
            "classical steps": _mean(of[:, 1].mean(axis=1)),
            "difference": _mean(difference.mean(axis=1)),
            "difference by fifths": [_mean(part.mean(axis=1)) for part in np.array_split(difference, FIFTHS, axis=1)],
        }
    return {"molecule": name, "beginnings": len(found), "jumps": found.shape[2] - 1, "over 3/2 kT": by_element}


def _mean(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 5), round(float(values.std(ddof=1) / np.sqrt(len(values))), 5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of dynamics.py, with classical runs")
    parser.add_argument("exam", type=Path, help="folder of build.py --exam")
    parser.add_argument("--molecules", nargs="+", required=True)
    parser.add_argument("--model", default="organic-xtb-4fs")
    parser.add_argument("--beginnings", type=int, default=100)
    parser.add_argument("--jumps", type=int, default=30)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    propagator, rows = Propagator.load(arguments.model), []
    kept = arguments.runs / "beside" / Path(arguments.model).stem
    kept.mkdir(parents=True, exist_ok=True)
    for name in arguments.molecules:
        files = sorted((arguments.runs / f"{CLASSICAL}-{STEP:g}fs").glob(f"{name}_10_*.npz"))
        if not files:
            raise SystemExit(f"{arguments.runs} has no classical runs of {name} at 10/ps; make them with dynamics.py")
        places = np.concatenate([np.load(file)["positions"][SKIP:] for file in files]).astype(np.float64)
        atoms, found = beginning(arguments.exam, name, 0, False), []
        for index in range(arguments.beginnings):
            file = kept / f"{name}_{arguments.jumps}_{index:03d}.npy"
            if not file.exists():
                made = one_beginning(places, atoms, propagator, arguments.jumps, [seed_of(name), index])
                part = file.with_suffix(".part.npy")
                np.save(part, made)
                part.rename(file)
            found.append(np.load(file))
        rows.append(row(name, atoms.get_atomic_numbers(), np.array(found)))
        print(json.dumps(rows[-1]), flush=True)
        result = {"model": arguments.model, "identity": propagator.identity(), "temperature, K": TEMPERATURE}
        text = json.dumps(result | {"molecules": rows}, indent=1, ensure_ascii=False)
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
