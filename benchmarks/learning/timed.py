"""A calculator that times the calls of another."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes


class Timed(Calculator):
    """The energies and forces of another calculator, with the seconds of each call.

    Attributes
    ----------
    wall, cpu : list of float, s
        One per call. On a busy machine the time by the clock is longer than that of the processor.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, inner: Calculator):
        super().__init__()
        self.inner = inner
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
        super().calculate(atoms)
        # A copy without the history of the atoms' own calculator; nothing of the inner one is cached
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        wall, cpu = time.perf_counter(), time.process_time()
        self.inner.calculate(bare, self.implemented_properties, all_changes)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        self.results = {
            "energy": float(self.inner.results["energy"]),
            "forces": np.array(self.inner.results["forces"], dtype=np.float64),
        }
