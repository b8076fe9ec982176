"""ASE: conversion of ``Atoms``, and a learned step with the ergonomics of a calculator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._extras import naming_extras
from ...errors import CompatibilityError
from ...propagator.advance import advance
from .atoms import (
    FORCE,
    PICOSECOND,
    forces_at,
    guess_bonds,
    read_constraints,
    state_from_atoms,
    update_atoms,
    write_state,
)
from .generators import as_generator

with naming_extras(__name__):
    from ase import Atoms
    from ase.calculators.calculator import PropertyNotImplementedError

if TYPE_CHECKING:
    from ...propagator.learned_map import LearnedMap
    from ...state import State

__all__ = [
    "FORCE",
    "PICOSECOND",
    "LearnedStepper",
    "guess_bonds",
    "read_constraints",
    "state_from_atoms",
    "update_atoms",
    "write_state",
]


class LearnedStepper:
    """Predict where atoms will be after the time step of a propagator, or move them there.

    It is asked like a calculator (``get_property``, ``results``) but never assigned to ``atoms.calc``: the cache of
    ASE's calculators does not look at momenta, and would give the answer of an earlier step. This one's does.
    Predictions are not guarded; :class:`~fastegnn_md.integrators.LearnedDynamics` is the class for simulations.

    Properties: ``displacements`` and ``new_positions`` (N, 3) in Å, ``new_velocities`` (N, 3) in Å per ASE time unit,
    all with the constraints of the atoms satisfied.

    Parameters
    ----------
    propagator : LearnedMap
    bonds : array of int, shape (M, 2), optional
        For propagators trained with bonds.
    types : array of int, shape (N,), optional
        Topology types.
    temperature_K : float, optional
        For propagators that redraw velocities.
    rng : numpy.random.Generator or int, optional
        Generator or seed for propagators that draw random numbers; by default a seed is drawn and kept as ``seed``.

    Raises
    ------
    CompatibilityError
        If the propagator redraws velocities and no temperature is given.
    """

    bonds: Sequence[Sequence[int]] | np.ndarray | None
    types: Sequence[int] | np.ndarray | None
    temperature_K: float | None
    rng: np.random.Generator
    seed: int | None

    implemented_properties: tuple[str, ...] = ("displacements", "new_positions", "new_velocities")
    name = "learnedstepper"

    def __init__(
        self,
        propagator: LearnedMap,
        *,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
        types: Sequence[int] | np.ndarray | None = None,
        temperature_K: float | None = None,
        rng: np.random.Generator | int | None = None,
    ):
        if not propagator.predicts_velocities and temperature_K is None:
            raise CompatibilityError(
                "this propagator predicts positions only and redraws velocities: give temperature_K"
            )
        self.propagator = propagator
        self.bonds, self.types, self.temperature_K = bonds, types, temperature_K
        self.rng, self.seed = as_generator(rng)
        self.results: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        self._after: State | None = None

    @property
    def timestep(self) -> float:
        """Time step in ASE units."""
        return self.propagator.timestep * PICOSECOND

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> np.ndarray | None:
        """One of :attr:`implemented_properties`, predicted anew if anything about the atoms has changed.

        Parameters
        ----------
        name : str
        atoms : ase.Atoms, optional
            Default: those of the last prediction.
        allow_calculation : bool
            If False, None is returned where a prediction would be needed.

        Raises
        ------
        ase.calculators.calculator.PropertyNotImplementedError
            For another name, or without atoms before the first prediction.
        """
        if name not in self.implemented_properties:
            known = ", ".join(self.implemented_properties)
            raise PropertyNotImplementedError(f"{name} is not a property of a learned step; it has {known}")
        if atoms is not None and self.calculation_required(atoms, [name]):
            if not allow_calculation:
                return None
            self._predict(atoms)
        if name not in self.results:
            raise PropertyNotImplementedError(f"{name} is not known yet; give the atoms")
        return self.results[name].copy()

    def calculation_required(self, atoms: Atoms, properties: Sequence[str]) -> bool:
        """Whether a property of these atoms would need a new prediction."""
        now = _seen(atoms)
        same = now.keys() == self._known.keys() and all(np.array_equal(now[key], self._known[key]) for key in now)
        return not same or any(name not in self.results for name in properties)

    def step(self, atoms: Atoms) -> None:
        """Move atoms in place by one time step.

        Raises
        ------
        StateError
            If the prediction is not finite; the atoms are then unchanged.
        ConstraintError
            If the constraints are not supported or cannot be satisfied; the atoms are then unchanged.
        CompatibilityError
            If the propagator was not trained for such a system.
        """
        if self._after is None or self.calculation_required(atoms, self.implemented_properties):
            self._predict(atoms)
        assert self._after is not None  # _predict has set it
        write_state(atoms, self._after)

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers and databases."""
        return {
            "type": "learned-stepper",
            "timestep": self.timestep,
            "temperature_K": self.temperature_K,
            "seed": self.seed,
            "training-data": self.propagator.fingerprint,
        }

    def _predict(self, atoms: Atoms) -> None:
        before = state_from_atoms(atoms, bonds=self.bonds, types=self.types)
        where = self.propagator.force_positions(before)
        if where is not None:
            before = self.propagator.with_forces(before, forces_at(atoms, where))
        constraints = read_constraints(atoms)
        after = constraints.project(before, advance(self.propagator, before, self.rng, self.temperature_K))
        self.results = {
            "displacements": (after.positions - before.positions).numpy(),
            "new_positions": after.positions.numpy().copy(),
            "new_velocities": after.velocities.numpy() / PICOSECOND,
        }
        self._after, self._known = after, _seen(atoms)


def _seen(atoms: Atoms) -> dict[str, np.ndarray]:
    """Everything a prediction depends on, momenta included."""
    known = {
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "numbers": atoms.get_atomic_numbers(),
        "masses": atoms.get_masses(),
        "charges": atoms.get_initial_charges(),
        "cell": np.array(atoms.cell),
        "pbc": atoms.get_pbc(),
    }
    for i, constraint in enumerate(atoms.constraints):
        for key, value in vars(constraint).items():
            if isinstance(value, np.ndarray):
                known[f"constraint {i} {type(constraint).__name__} {key}"] = value.copy()
    return known
