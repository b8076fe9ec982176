"""The classical engine of a validation."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..units import EV, KJ_PER_MOL

if TYPE_CHECKING:
    from ase import Atoms

    from ..mechanics.constraints import Constraints

NO_ENGINE = "no engine; give --forcefield, --system or --calculator"
_CALLS = 20


class Engine:
    """Forces, constraints and the price of a force call, by a copy of the user's atoms."""

    def __init__(self, atoms: Atoms):
        from ..engines.ase.stepper import FORCE, read_constraints

        self.constraints: Constraints = read_constraints(atoms)
        self._atoms, self._unit = atoms.copy(), FORCE
        self._atoms.set_constraint()
        self._atoms.calc = atoms.calc

    def forces(self, positions: torch.Tensor) -> torch.Tensor:
        """In amu Å/ps² at positions (N, 3) in Å."""
        self._atoms.set_positions(positions.numpy())
        from ..engines.ase.calculated import forces_of

        return torch.tensor(forces_of(self._atoms) * self._unit)

    def energy(self, positions: np.ndarray) -> float:
        """Potential energy in kJ/mol at positions (N, 3) in Å."""
        from ..engines.ase.calculated import energy_of

        self._atoms.set_positions(positions)
        return energy_of(self._atoms) * EV / KJ_PER_MOL

    def milliseconds(self) -> float:
        """Median time of a force call."""
        spent = []
        for _ in range(_CALLS):
            self._atoms.positions += 1e-9  # a new geometry, or the calculator answers from its cache
            begun = time.perf_counter()
            self._atoms.get_forces()
            spent.append(time.perf_counter() - begun)
        return 1e3 * statistics.median(spent)
