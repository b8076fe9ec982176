"""What a calculator says, in one form: ASE leaves the type and the shape of its answers to each calculator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..._extras import naming_extras
from ...errors import EngineError, FastEGNNMDError, NotFiniteError, Remedy, StateError
from .calculators import asked_calculator

with naming_extras(__name__):
    from ase import Atoms
    from ase.calculators.calculator import PropertyNotImplementedError


class CheckedCalculator:
    """A calculator whose forces are float64 of shape (N, 3) and finite, and whose energy is a float.

    Machine-learned potentials answer in float32, some calculators in lists, read-only arrays or arrays of one energy.
    It stands in for the calculator where atoms are handed to a dynamics or an optimiser of ASE; everything else is
    asked of the calculator itself.

    Parameters
    ----------
    calculator : ase calculator

    Raises
    ------
    EngineError
        By every question: if the calculator raises (its own error is the cause), or answers in another shape (there is
        no cause).
    NotFiniteError
        If a force is not finite. An energy may be: whoever asks for it decides what that means.
    """

    def __init__(self, calculator: Any):
        self.calculator = calculator

    def __getattr__(self, name: str) -> Any:
        if name == "calculator":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.calculator, name)

    def get_forces(self, atoms: Atoms) -> np.ndarray:
        """Forces (N, 3) in eV/Å, a copy."""
        answer = self._ask("forces", atoms)
        try:
            forces = np.array(answer, dtype=np.float64)
        except (TypeError, ValueError):
            raise EngineError(f"the forces of {self._name} are not numbers of shape ({len(atoms)}, 3)") from None
        if forces.shape != (len(atoms), 3):
            raise EngineError(f"the forces of {self._name} have shape {forces.shape}; expected ({len(atoms)}, 3)")
        wrong = np.flatnonzero(~np.isfinite(forces).all(axis=1))
        if len(wrong):
            atom = int(wrong[0])
            raise NotFiniteError(
                f"the forces of {self._name} have a NaN or infinite value at index {atom} "
                f"({atoms.symbols[atom]} at {np.round(atoms.positions[atom], 3).tolist()} Å); the geometry is beyond "
                "what it can compute",
                "forces",
                atom,
            )
        return forces

    def get_potential_energy(self, atoms: Atoms | None = None, force_consistent: bool = False) -> float:
        """Potential energy in eV."""
        options = {"force_consistent": True} if force_consistent else {}
        answer = self._ask("potential_energy", atoms, **options)
        try:
            energy = np.asarray(answer, dtype=np.float64)
        except (TypeError, ValueError):
            raise EngineError(f"the energy of {self._name} is {answer!r}; expected a number") from None
        if answer is None:  # NaN to NumPy
            raise EngineError(f"the energy of {self._name} is None; expected a number")
        if energy.size != 1:
            raise EngineError(f"the energy of {self._name} has shape {energy.shape}; expected one number")
        return float(energy.reshape(()))

    @property
    def _name(self) -> str:
        return f"the calculator {type(asked_calculator(self.calculator)).__name__}"

    def _ask(self, what: str, atoms: Atoms | None, **options: bool) -> Any:
        try:
            return getattr(self.calculator, f"get_{what}")(atoms, **options)
        except FastEGNNMDError:
            raise
        except PropertyNotImplementedError as error:
            if options:  # ASE's optimisers ask for free energies, and do without
                raise
            raise EngineError(f"{self._name} has no {what.replace('_', ' ')}; attach one that has") from error
        except Exception as error:  # calculators raise what they like
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise EngineError(f"{self._name} failed: {said}") from error


def forces_of(atoms: Atoms) -> np.ndarray:
    """Forces (N, 3) in eV/Å of atoms, without those of constraints.

    Raises
    ------
    StateError
        If there is no calculator, or a force is not finite.
    EngineError
        If the calculator fails.
    """
    return _checked(atoms, "forces").get_forces(atoms)


# What to do without a calculator, in Python and at the command line.
ATTACH = ("attach a calculator: atoms.calc = ...", "give --calculator, --forcefield or --system")


def energy_of(atoms: Atoms) -> float:
    """Potential energy of atoms in eV; raises as :func:`forces_of`, but an energy may be infinite or NaN."""
    return _checked(atoms, "energies").get_potential_energy(atoms)


@contextmanager
def checked_calculator(atoms: Atoms) -> Iterator[None]:
    """Let what is done inside, by a dynamics of ASE, say, see a :class:`CheckedCalculator` at the atoms."""
    own = atoms.calc
    atoms.calc = _checked(atoms, "forces")
    try:
        yield
    finally:
        atoms.calc = own


def _checked(atoms: Atoms, what: str) -> CheckedCalculator:
    if atoms.calc is None:
        raise StateError(Remedy(f"{what} are needed but the atoms have no calculator; ", *ATTACH))
    return atoms.calc if isinstance(atoms.calc, CheckedCalculator) else CheckedCalculator(atoms.calc)
