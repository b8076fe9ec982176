"""Engines for tests of adaptation: three atoms on springs, as functions of a module that other processes import."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import MDAnalysis as mda
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.harvest import harvest
from fastegnn_md.training import TrainingConfig, fit

SMALL: dict[str, Any] = {"hidden": 16, "layers": 2, "virtual_nodes": 1, "radial_functions": 6, "use_bonds": False}
REST = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])  # water, more or less


class Springs(Calculator):
    """E = ½ k Σ (r − r₀)² over the pairs; counts what is computed, over all instances."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]  # type: ignore[misc]
    calls = 0

    def __init__(self, stiffness: float = 12.0, **options: Any):
        super().__init__(**options)
        self.stiffness = stiffness

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        super().calculate(atoms, properties, system_changes)
        Springs.calls += 1
        x, energy, forces = atoms.get_positions(), 0.0, np.zeros((len(atoms), 3))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            apart = x[i] - x[j]
            length = np.linalg.norm(apart)
            stretch = length - np.linalg.norm(REST[i] - REST[j])
            energy += 0.5 * self.stiffness * stretch**2
            forces[i] -= self.stiffness * stretch * apart / length
            forces[j] += self.stiffness * stretch * apart / length
        self.results = {"energy": energy, "forces": forces}


def soft() -> Springs:
    return Springs(12.0)


def stiff() -> Springs:
    return Springs(24.0)


class Unsteady(Springs):
    """Fails at the calls whose number over all instances is in a set."""

    failing: ClassVar[set[int]] = set()
    error: ClassVar[type[BaseException]] = RuntimeError

    def calculate(self, *arguments: Any, **options: Any) -> None:
        if Springs.calls + 1 in self.failing:
            Springs.calls += 1
            self.failing.discard(Springs.calls)  # type: ignore[arg-type]
            raise self.error("SCF not converged")
        super().calculate(*arguments, **options)


def unsteady() -> Unsteady:
    return Unsteady(24.0)


def water() -> Atoms:
    return Atoms("OH2", REST)


def trained(folder: Path, kind: str = "force-midpoint", updates: int = 150) -> Propagator:
    """A small model of the soft springs at 350 K, 4 fs."""
    universe = mda.Universe.empty(3, trajectory=False)
    universe.add_TopologyAttr("elements", ["O", "H", "H"])
    universe.add_TopologyAttr("masses", water().get_masses())
    x = REST + 0.03 * np.random.default_rng(0).normal(size=(40, 3, 3))
    universe.load_new(x.astype(np.float32), dt=1.0)
    midpoint = "4 fs" if kind == "force-midpoint" else None
    times = {"burst": "8 fs", "interval": "4 fs", "timestep": "0.5 fs", "midpoint": midpoint}
    store = harvest(universe, soft, store=folder / f"{kind}.h5md", temperature=350.0, progress=False, **times)
    train, held_out, _ = TrajectoryPairs(store, lag="4 fs", time_reversal=True, progress=False).split()
    propagator = {**SMALL, "kind": kind, "cutoff": 3.0}
    config = TrainingConfig(propagator=propagator, updates=updates, learning_rate=1e-2, logger="none")
    return fit(train, held_out, config, progress=False).propagator
