"""Lattice constants of copper without stress: jumps of copper-emt under a barostat, beside classical dynamics.

    python benchmarks/npt_copper.py RUNS --output benchmarks/results/npt_copper.json

108 atoms, EMT, 1 bar. ``learned``: jumps of 40 fs (Langevin 10/ps), a move of the volume every 0.12 ps; ``axes``: the
same, cell vectors one at a time; ``classical``: ASE's Langevin with steps of 5 fs and the same moves; ``mtk``: the
barostat of Martyna, Tobias and Klein as ASE has it, which integrates an equation of motion of the volume and shares
nothing with ours. Each run writes RUNS/NAME-TEMPERATURE-SEED.npz when it is done, and is kept when the command is given
again; ``--only`` chooses some.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin as ASELangevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.velocitydistribution import thermalize_momenta
from hybrid_ala2 import machine
from physics_systems import copper
from tqdm import tqdm

from fastegnn_md import load
from fastegnn_md._files import write_atomically
from fastegnn_md.integrators import Langevin, LearnedDynamics, MonteCarloBarostat
from fastegnn_md.integrators.ase.volume import AtomsVolume

PS = 1000 * units.fs
LATTICE = {300: 3.61, 600: 3.63}  # Å, to start from
PRESSURE, FRICTION = "1 bar", 10.0  # 1/ps
EVERY = 0.12  # ps between moves, and between volumes that are written
SETTLE = 4.8  # ps
CLASSICAL = 5.0  # fs
SPANS = {"learned": 60.0, "axes": 60.0, "classical": 30.0, "mtk": 30.0}  # ps
BLOCKS = 10


class CountedEMT(EMT):
    """EMT that counts what it computes."""

    calls = 0

    def calculate(self, *arguments: Any, **options: Any) -> None:
        self.calls += 1
        super().calculate(*arguments, **options)


def start(kelvin: float, seed: int) -> Atoms:
    atoms = copper()
    atoms.set_cell(LATTICE[round(kelvin)] * 3 * np.eye(3), scale_atoms=True)  # near the answer: less to settle
    atoms.calc = CountedEMT()
    thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(seed))
    return atoms


def learned(atoms: Atoms, kelvin: float, seed: int, anisotropic: bool = False) -> tuple[Callable[[], Any], Any]:
    propagator = load("copper-emt")
    every = round(EVERY / propagator.timestep)
    dynamics = LearnedDynamics(
        atoms,
        propagator,
        thermostat=Langevin(kelvin, FRICTION),
        barostat=MonteCarloBarostat(PRESSURE, every=every, anisotropic=anisotropic, adapt=40 // (2 * anisotropic + 1)),
        rng=seed,
    )
    return lambda: dynamics.run(every), dynamics


def classical(atoms: Atoms, kelvin: float, seed: int) -> tuple[Callable[[], Any], Any]:
    rng = np.random.default_rng(seed)
    dynamics = ASELangevin(
        atoms, CLASSICAL * units.fs, temperature_K=kelvin, friction=FRICTION / PS, rng=rng, fixcm=False
    )
    volume = AtomsVolume(atoms, MonteCarloBarostat(PRESSURE, adapt=40))

    def stretch() -> None:
        dynamics.run(round(1000 * EVERY / CLASSICAL))
        volume.attempt(kelvin, rng)

    return stretch, volume


def mtk(atoms: Atoms, kelvin: float, seed: int) -> tuple[Callable[[], Any], Any]:
    momenta = atoms.get_momenta()
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    dynamics = IsotropicMTKNPT(
        atoms,
        CLASSICAL * units.fs,
        temperature_K=kelvin,
        pressure_au=1e5 * units.Pascal,
        tdamp=100 * CLASSICAL * units.fs,
        pdamp=200 * CLASSICAL * units.fs,
    )
    return lambda: dynamics.run(round(1000 * EVERY / CLASSICAL)), None


METHODS: dict[str, Callable[..., tuple[Callable[[], Any], Any]]] = {
    "learned": learned,
    "axes": lambda *a: learned(*a, anisotropic=True),
    "classical": classical,
    "mtk": mtk,
}


def simulate(path: Path, name: str, kelvin: float, seed: int, picoseconds: float) -> None:
    """A run, and its volumes, lengths and temperatures."""
    atoms = start(kelvin, seed)
    stretch, kept = METHODS[name](atoms, kelvin, seed + 1)
    for _ in range(round(SETTLE / EVERY)):
        stretch()
    calls, begun = atoms.calc.calls, time.process_time()
    lengths, temperatures, pressures = [], [], []
    for _ in tqdm(range(round(picoseconds / EVERY)), desc=path.name, mininterval=20):
        stretch()
        lengths.append(atoms.cell.lengths())
        temperatures.append(atoms.get_temperature())
        pressures.append(-atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.GPa)
    extra: dict[str, Any] = {}
    if kept is not None:
        moves = kept.moves if isinstance(kept, AtomsVolume) else kept.volume.moves
        extra = {"tried": sum(moves.tried), "accepted": sum(moves.accepted), "step": moves.steps}
    if isinstance(kept, LearnedDynamics):
        found = kept.statistics
        extra |= {"jumps": found.tried, "refused": found.tried - found.accepted, "audited": found.energy_change}
    np.savez(
        path,
        lengths=np.array(lengths),
        temperatures=np.array(temperatures),
        pressures=np.array(pressures),
        calls=atoms.calc.calls - calls,
        seconds=time.process_time() - begun,
        extra=json.dumps(extra),
    )


def correlation(values: np.ndarray) -> float:
    """Samples that count as one, 1 + 2 Σ ρ: of a variance blocks say too little, a rejected move keeps its volume."""
    away, count = values - values.mean(), 1.0
    for lag in range(1, len(away) // 3):
        count += 2.0 * float((away[:-lag] * away[lag:]).sum() / np.square(away).sum())
        if lag >= 5 * count:
            break
    return max(1.0, count)


def summary(path: Path) -> dict[str, Any]:
    """Lattice constant with its error from blocks, fluctuation of the volume, costs."""
    found = np.load(path)
    name, of_run, seed = path.stem.split("-")
    lattice, volumes = found["lengths"] / 3, found["lengths"].prod(axis=1)
    blocks = np.array([block.mean(axis=0) for block in np.array_split(lattice, BLOCKS)])
    errors = blocks.std(axis=0, ddof=1) / math.sqrt(BLOCKS)
    kelvin = float(of_run)
    variance, temperatures, span = volumes.var(), found["temperatures"], EVERY * len(volumes)
    row = {
        "method": name,
        "temperature_K": kelvin,
        "seed": int(seed),
        "picoseconds": round(span, 3),
        "lattice constant, A": float(lattice.mean()),
        "standard error, A": float(blocks.mean(axis=1).std(ddof=1) / math.sqrt(BLOCKS)),
        "std of the volume over its mean": float(math.sqrt(variance) / volumes.mean()),
        "bulk modulus, GPa": float(units.kB * kelvin * volumes.mean() / variance / units.GPa),
        "relative error of the bulk modulus": math.sqrt(2 * correlation(volumes) / len(volumes)),
        "distinct volumes": len(np.unique(volumes)),
        "mean temperature, K": float(temperatures.mean()),
        "engine calls per ps": float(found["calls"] / span),
        "CPU seconds per ps": float(found["seconds"] / span),
        **json.loads(str(found["extra"])),
    }
    if "pressures" in found:  # of the virial theorem, which no move looks at
        means = np.array([block.mean() for block in np.array_split(found["pressures"], BLOCKS)])
        row |= {"internal pressure, GPa": float(means.mean())}
        row |= {"its standard error, GPa": float(means.std(ddof=1) / math.sqrt(BLOCKS))}
        slope = np.polyfit(np.log(volumes), found["pressures"], 1)[0]
        row |= {"bulk modulus from pressures at the volumes, GPa": float(-slope)}
    if name == "axes":
        row |= {"of each axis, A": lattice.mean(axis=0).tolist(), "their errors, A": errors.tolist()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--temperatures", type=int, nargs="+", choices=list(LATTICE), default=list(LATTICE))
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picoseconds", type=float, help=f"default: {SPANS}")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        for kelvin in arguments.temperatures:
            path = arguments.runs / f"{name}-{kelvin}-{arguments.seed}.npz"
            if not path.exists():
                simulate(path, name, float(kelvin), arguments.seed, arguments.picoseconds or SPANS[name])
            print(json.dumps(summary(path)), flush=True)
    if arguments.output is not None:
        rows = [summary(path) for path in sorted(arguments.runs.glob("*.npz"))]
        result = {"pressure": PRESSURE, "atoms": len(copper()), "machine": machine(), "rows": rows}
        write_atomically(arguments.output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
