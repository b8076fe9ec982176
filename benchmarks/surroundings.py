"""The guard of surroundings: what it notices, and what it costs of a jump.

    python benchmarks/surroundings.py --output benchmarks/results/surroundings.json

Distances are the largest of any atom in frames of classical dynamics; costs are medians of jumps with and without the
guard, in turn in one process, on one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from hybrid_ala2 import machine

from fastegnn_md import Propagator, State, load
from fastegnn_md.engines.ase import guess_bonds
from fastegnn_md.engines.ase.atoms import state_from_atoms
from fastegnn_md.graph import neighbour_list
from fastegnn_md.propagator.surroundings import Surroundings

LIMIT = 2.0


def frames(atoms: Atoms, temperature: float, count: int = 20) -> Iterator[State]:
    """Frames of EMT dynamics, 0.1 ps apart."""
    atoms.calc, rng = EMT(), np.random.default_rng(0)
    thermalize_momenta(atoms, 2 * temperature, rng=rng)
    dynamics = Langevin(atoms, 5 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng, fixcm=False)
    dynamics.run(200)
    for _ in range(count):
        dynamics.run(20)
        yield state_from_atoms(atoms)


def rattled(atoms: Atoms, deviation: float, count: int, seed: int) -> list[State]:
    """Atoms displaced by chance, Å."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        moved = atoms.copy()
        moved.positions += deviation * rng.normal(size=moved.positions.shape)
        made.append(state_from_atoms(moved))
    return made


def noticed() -> Iterator[dict[str, object]]:
    """Distances in systems that are at home and others."""
    copper = load("copper-emt")
    crystal = bulk("Cu", a=3.61, cubic=True) * (3, 3, 3)
    slab, vacancy = fcc111("Cu", (4, 4, 4), a=3.61, vacuum=8), crystal.copy()
    slab.pbc = True
    del vacancy[50]
    systems = [(f"copper, {kelvin} K", crystal.copy(), kelvin) for kelvin in (100, 300, 600, 900, 1200)]
    systems += [("slab, 600 K", slab, 600), ("vacancy, 600 K", vacancy, 600)]
    systems += [("stretched by 10 %, 600 K", bulk("Cu", a=1.1 * 3.61, cubic=True) * (3, 3, 3), 600)]
    for name, atoms, kelvin in systems:
        yield row(name, [unlike(copper, state) for state in frames(atoms, kelvin)])
    silicon = bulk("Si", a=5.43, cubic=True) * (2, 2, 2)
    measured = Surroundings.measure(State.concatenate(rattled(silicon, 0.08, 100, 0)), 4.5)
    assert measured is not None
    defect = silicon.copy()
    del defect[10]
    for name, atoms in (("silicon, displaced by 0.08 Å", silicon), ("the same with a vacancy", defect)):
        states = rattled(atoms, 0.08, 20, 1)
        yield row(name, [measured(state.numbers, neighbour_list(state, 4.5)) for state in states])


def unlike(propagator: Propagator, state: State) -> torch.Tensor:
    found = propagator.predict(state).trust.unlike
    assert found is not None
    return found


def row(name: str, found: list[torch.Tensor]) -> dict[str, object]:
    largest = [float(one.max()) for one in found]
    outside = statistics.mean(float((one > LIMIT).double().mean()) for one in found)
    return {"system": name, "largest distance": [min(largest), max(largest)], "share of atoms beyond 2": outside}


def costs(repeats: int) -> Iterator[dict[str, object]]:
    """Milliseconds of a prediction with and without."""
    ala2 = read(Path(__file__).parents[1] / "fastegnn_md" / "assets" / "ala2.pdb")
    molecule = state_from_atoms(ala2, bonds=guess_bonds(ala2))
    for name, model, state in (
        ("alanine dipeptide, 22 atoms", "ala2-vacuum", molecule),
        ("copper, 108 atoms", "copper-emt", rattled(bulk("Cu", a=3.61, cubic=True) * (3, 3, 3), 0.1, 1, 0)[0]),
        ("copper, 2,048 atoms", "copper-emt", rattled(bulk("Cu", a=3.61, cubic=True) * (8, 8, 8), 0.1, 1, 0)[0]),
    ):
        propagator, times = load(model), {True: [], False: []}  # type: ignore[var-annotated]
        guard = propagator.surroundings
        for repeat in range(repeats + 3):
            for guarded in (True, False):
                propagator.surroundings = guard if guarded else None
                begun = time.perf_counter()
                with torch.no_grad():
                    propagator.predict(state)
                if repeat >= 3:
                    times[guarded].append(1e3 * (time.perf_counter() - begun))
        with_it, without = (statistics.median(times[one]) for one in (True, False))
        share = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True)) - 1
        yield {"system": name, "ms with": with_it, "ms without": without, "share": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {"machine": machine(), "limit": LIMIT}
    for name, rows in (("noticed", noticed()), ("cost", costs(arguments.repeats))):
        result[name] = []
        for one in rows:
            result[name].append(one)  # type: ignore[attr-defined]
            print(json.dumps(one), flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
