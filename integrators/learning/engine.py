"""What the calculator is asked: every call logged with its time, and refused where it cannot have been one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import FORCE
from fastegnn_md.engines.ase.calculated import energy_of, forces_of
from fastegnn_md.engines.ase.calculators import asked_calculator
from fastegnn_md.errors import EngineError, NotFiniteError

from ..engine import Classical

with naming_extras(__name__):
    from ase import Atoms
    from ase.calculators.calculator import compare_atoms

_TYPICAL = 200  # last calls that the typical time is of
_FEWEST = 10  # calls before a time is typical
_SLOW = 0.02  # s; below, the clock and the processor's moods say nothing
_TOO_FAST = 0.01  # of the typical time: nothing was computed


class LoggedEngine:
    """The calculator of atoms at positions that others choose; the atoms stay as they are.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator. Cell and labels are read at each call.
    """

    calls: int

    def __init__(self, atoms: Atoms):
        self.atoms = atoms
        self._copy: Atoms | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # positions and forces
        self._compared: tuple[Atoms, float] | None = None  # the last energy
        self._seconds = np.zeros(64, dtype=np.float32)
        self.calls = 0

    @property
    def durations(self) -> np.ndarray:
        """Seconds of each call so far, float32."""
        return self._seconds[: self.calls]

    @property
    def seconds(self) -> float:
        """Of all calls together."""
        return float(self.durations.sum(dtype=np.float64))

    @property
    def typical(self) -> float:
        """Median of the seconds of the last calls; 0 without any."""
        return float(np.median(self.durations[-_TYPICAL:])) if self.calls else 0.0

    def classical(self) -> Classical:
        """What a guarded step asks, answered by this engine."""
        return Classical(self.forces, self.energy, self._minimise)

    def forces(self, positions: Tensor) -> Tensor:
        """Forces (N, 3) in amu Å/ps² at positions (N, 3) in Å, without those of constraints.

        Raises
        ------
        EngineError
            If the calculator fails, answers in no time, or answers what it has answered for another geometry.
        NotFiniteError
            If a force is not finite.
        """
        atoms = self._at(positions)
        found = self._ask(forces_of, atoms, "forces")
        last, self._last = self._last, None  # what is refused is no measure for what comes next
        if last is not None and not np.array_equal(last[0], atoms.positions):
            self._check_new(last[1], found)
        self._last = atoms.positions.copy(), found
        return torch.tensor(found * FORCE)

    def energy(self, positions: Tensor) -> float:
        """Potential energy in amu Å²/ps²; a call of its own where the calculator does not keep it.

        Raises
        ------
        EngineError
            As of :meth:`forces`.
        NotFiniteError
            If the energy is not finite.
        """
        found = self.energy_at(self._at(positions))
        if not np.isfinite(found):
            raise NotFiniteError(f"the energy of the engine is {found}; the geometry is beyond what it can compute")
        return found * FORCE

    def energy_at(self, atoms: Atoms) -> float:
        """Potential energy in eV of the same atoms, maybe in another cell; it may be infinite or NaN.

        Raises
        ------
        EngineError
            As of :meth:`forces`.
        """
        found = self._ask(energy_of, atoms, "energy")
        last, self._compared = self._compared, None
        if last is not None and found == last[1] != 0 and compare_atoms(last[0], atoms):
            last[0].calc = atoms.calc  # energies that are alike may be chance, forces are not
            self._check_new(self._ask(forces_of, last[0], "forces"), self._ask(forces_of, atoms, "forces"))
        self._compared = atoms.copy(), found
        return found

    def kept_forces(self) -> np.ndarray | None:
        """Forces (N, 3) in eV/Å at the present geometry, where the calculator has them without computing anything."""
        return None if _computes(self.atoms, "forces") else forces_of(self.atoms)

    def restore(self, durations: np.ndarray) -> None:
        """Go on counting after calls of these seconds."""
        self._seconds = np.array(durations, dtype=np.float32)
        self.calls = len(durations)

    def _at(self, positions: Tensor) -> Atoms:
        copy = self._copy
        same = copy is not None and copy.calc is self.atoms.calc and np.array_equal(copy.cell, self.atoms.cell)
        if not same:
            copy = self.atoms.copy()
            copy.set_constraint()
            copy.calc = self.atoms.calc
            self._copy, self._last = copy, None
        assert copy is not None  # made above
        copy.set_positions(positions.numpy())
        return copy

    def _log(self, seconds: float) -> None:
        if self.calls == len(self._seconds):
            self._seconds = np.concatenate([self._seconds, np.zeros(max(64, self.calls), dtype=np.float32)])
        self._seconds[self.calls] = seconds
        self.calls += 1

    def _ask(self, function: Callable[[Atoms], Any], atoms: Atoms, name: str) -> Any:
        """The answer; logged, and held against the usual time, where it has to be computed."""
        computes, begun = _computes(atoms, name), time.perf_counter()
        try:
            found = function(atoms)
        finally:
            if computes:
                self._log(time.perf_counter() - begun)
        spent, typical = float(self._seconds[self.calls - 1]), self.typical
        if computes and self.calls > _FEWEST and typical > _SLOW and spent < _TOO_FAST * typical:
            raise EngineError(
                f"the calculator {self._name} answered in {1e3 * spent:.2g} ms, it takes {1e3 * typical:.3g} ms as a "
                "rule: it did not compute; look at its own output"
            )
        return found

    def _check_new(self, before: np.ndarray, forces: np.ndarray) -> None:
        """A program that died unnoticed answers what it has answered before."""
        if np.array_equal(before, forces) and forces.any():
            raise EngineError(
                f"the calculator {self._name} gave the same forces for two geometries: it did not compute the second; "
                "look at its own output"
            )

    @property
    def _name(self) -> str:
        return type(asked_calculator(self.atoms.calc)).__name__

    def _minimise(self, positions: Tensor, steps: int) -> Tensor:
        raise EngineError("nothing is minimised while a propagator is learned")  # no kind that learns here asks for it


def _computes(atoms: Atoms, name: str) -> bool:
    """Whether the calculator has to compute a property; where it cannot say, it is taken to."""
    asked = getattr(atoms.calc, "calculation_required", None)
    return asked is None or bool(asked(atoms, [name]))
