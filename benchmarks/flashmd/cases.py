"""A molecule and a crystal: pairs to train on, held-out ones, where roll-outs start, and what is looked at in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixBondLengths
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.data.topology import quiet
from fastegnn_md.engines.mdanalysis import RolloutWriter
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator.config import PropagatorConfig

sys.path.append(str(Path(__file__).resolve().parents[1]))
from alanine import AlanineDipeptide, Settings

RANGE = (0.7, 1.5)  # Å, of a bond to hydrogen; what leaves it has broken
FRICTION = 10.0  # 1/ps, of the half steps before and after a jump
_RADII = np.linspace(1.5, 3.6, 43)  # Å, of g(r) in the small cell


@dataclass(frozen=True)
class Case:
    """One system; ``pairs`` makes its data in a folder where they are missing."""

    name: str
    lag_fs: float
    kelvin: float
    ours: dict[str, Any]
    theirs: dict[str, Any]
    batch_size: int
    pairs: Callable[[Path], tuple[TrajectoryPairs, TrajectoryPairs, TrajectoryPairs]]
    constrained: bool = False


def _peptide(folder: Path) -> tuple[TrajectoryPairs, ...]:
    """Those of ``from_nothing.py``."""
    settings, system, store = Settings(), AlanineDipeptide(), folder / "bursts.h5md"
    if not store.exists():
        if not (folder / "reference.dcd").exists():
            system.write_reference(folder / "part.dcd", settings, progress=False)
            (folder / "part.dcd").rename(folder / "reference.dcd")
        with quiet():
            universe = mda.Universe(system.topology, str(folder / "reference.dcd"))
        harvest(
            universe,
            system.system,
            store=store,
            burst=settings.burst,
            interval=settings.lag,
            midpoint=settings.lag,
            temperature=settings.temperature,
            seed=settings.seed,
            progress=False,
        )
    return TrajectoryPairs(store, lag=settings.lag, time_reversal=True, progress=False).split(settings.split)


def copper() -> Atoms:
    """32 atoms, periodic."""
    return bulk("Cu", a=3.65, cubic=True) * (2, 2, 2)


def _copper(folder: Path) -> tuple[TrajectoryPairs, ...]:
    """Bursts of 160 fs from frames of 600 and 800 K, 100 fs apart."""
    store = folder / "bursts.h5md"
    if not store.exists():
        copper().write(folder / "copper.xyz")
        files = []
        for kelvin in (600, 800):
            path = folder / f"{kelvin}K.trr"
            files.append(str(path))
            if path.exists():
                continue
            dynamics = classical(kelvin, seed=kelvin)
            dynamics.run(400)
            part = folder / "part.trr"
            with RolloutWriter(part) as writer:
                for frame in range(250):
                    dynamics.run(20)
                    writer.write(dynamics.atoms, 0.1 * (frame + 1))
            part.rename(path)
        with quiet():
            universe = mda.Universe(str(folder / "copper.xyz"), files)
        harvest(universe, EMT, store=store, burst="160 fs", interval="40 fs", timestep="5 fs", progress=False)
    return TrajectoryPairs(store, lag="40 fs", time_reversal=True, progress=False).split((0.8, 0.05, 0.15))


def classical(kelvin: float, seed: int) -> Langevin:
    """Dynamics of the copper cell by EMT, 5 fs a step."""
    atoms, rng = copper(), np.random.default_rng(seed)
    atoms.calc = EMT()
    thermalize_momenta(atoms, kelvin, rng=rng)
    rate = FRICTION / (1000 * units.fs)
    return Langevin(atoms, 5 * units.fs, temperature_K=kelvin, friction=rate, rng=rng, fixcm=False)


CASES = {
    "ala2": Case(
        "alanine dipeptide in vacuum, amber14, bonds to hydrogen fixed",
        lag_fs=8.0,
        kelvin=300.0,
        ours={},
        theirs={},
        batch_size=16,
        pairs=_peptide,
        constrained=True,
    ),
    "copper": Case(
        "copper, 32 atoms, EMT",
        lag_fs=40.0,
        kelvin=600.0,
        ours={"cutoff": 3.6, "virtual_nodes": 1, "use_bonds": False},
        theirs={"cutoff": 3.6},
        batch_size=8,
        pairs=_copper,
    ),
}


def network(case: Case) -> PropagatorConfig:
    """Ours, without forces."""
    return PropagatorConfig(kind="force-free", **case.ours)


def constraint(start: Any) -> FixBondLengths:
    """Of the bonds to hydrogen, at their lengths in a held-out frame, which has them fixed."""
    return FixBondLengths(hydrogen_bonds(start), tolerance=1e-8)


def hydrogen_bonds(start: Any) -> list[tuple[int, int]]:
    """Pairs of atoms."""
    numbers = start.numbers.numpy()
    return [(int(a), int(b)) for a, b in start.bonds.numpy() if 1 in (numbers[a], numbers[b])]


def radial(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Distribution of distances in an orthogonal cell, g(r) up to 3.6 Å."""
    gaps = positions[:, None] - positions[None]
    gaps -= np.round(gaps / np.diag(cell)) * np.diag(cell)
    distances = np.linalg.norm(gaps, axis=-1)[np.triu_indices(len(positions), 1)]
    counts = np.histogram(distances, _RADII)[0]
    shells = 4 / 3 * np.pi * np.diff(_RADII**3) * len(positions) * (len(positions) - 1) / 2 / np.prod(np.diag(cell))
    found: np.ndarray = counts / shells
    return found
