"""Guarded jumps of ASE Atoms, and what their calculator computes around them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import FORCE, bond_array
from fastegnn_md.engines.ase.calculated import ATTACH, CheckedCalculator, energy_of, forces_of
from fastegnn_md.engines.ase.calculators import charge_of, describe_calculator, multiplicity_of
from fastegnn_md.engines.ase.same_atoms import SameAtoms
from fastegnn_md.errors import CompatibilityError, JumpError, Remedy
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.state import State

from ..engine import Classical, Predicted
from ..guards import GuardReport, jump_error
from ..home import check_home
from ..step import GuardedStep, Proposed
from ..verdict import RunWatch

with naming_extras(__name__):
    from ase import Atoms
    from ase.optimize import FIRE

_MINIMUM = 0.05  # eV/Å, ASE's own default
_UNRELAXED = (
    "no engine relaxes what the propagator draws: bonds and angles stay as the network leaves them, and energies are "
    "not those of a temperature; ",
    "attach a calculator to the atoms, or say relax_steps=0 in the schedule",
    "give --forcefield (or --system, or --calculator), or --relax-steps 0",
)


class Before(NamedTuple):
    """What a step changes beside the atoms, as it was before."""

    drawn: Mapping[str, Any]  # state of the random numbers
    target: float | None  # energy to conserve
    left: tuple[np.ndarray, np.ndarray] | None  # positions and momenta that the last step left


class PreparedJump(NamedTuple):
    """What a propagator is given, and maybe its answer."""

    state: State
    constraints: Constraints
    before: Before
    predicted: Predicted | None = None
    proposed: Proposed | None = None


class AtomsJump:
    """Jumps of an ``Atoms`` object; nothing is written before a jump has succeeded.

    Parameters
    ----------
    atoms : ase.Atoms
    guarded : GuardedStep
    bonds : array of int, shape (M, 2), optional

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the atoms, or a calculator is needed and missing.
    ConstraintError
        If a constraint cannot be combined with jumps.
    """

    atoms: Atoms
    guarded: GuardedStep

    def __init__(
        self,
        atoms: Atoms,
        guarded: GuardedStep,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
    ):
        self.atoms, self.guarded = atoms, guarded
        self.bonds: np.ndarray | None = None if bonds is None else bond_array(bonds)
        self.waiting: PreparedJump | None = None  # of the step that comes next
        self._same = SameAtoms(atoms, self.bonds)
        self._checked: Constraints | None = None
        self._known_forces: tuple[Any, np.ndarray, np.ndarray, np.ndarray] | None = None
        self._left: tuple[np.ndarray, np.ndarray] | None = None
        if guarded.propagator.stochastic and atoms.calc is None and guarded.schedule.relax_steps is None:
            guarded.relax_steps = 0
            warnings.warn(Remedy(*_UNRELAXED), stacklevel=4)
        self._check()

    def step(self, rng: np.random.Generator) -> None:
        """One jump, counted, or the classical steps that replace it.

        Raises
        ------
        JumpError
            If a guard refuses the jump and nothing can replace it.
        """
        prepared, classical = self._prepared(rng), self._classical()
        ended, report = self._attempt(prepared, rng, classical)
        self.guarded.record(report)
        if not report.ok:
            ended = self.guarded.replace(prepared.state, prepared.constraints, rng, classical, report)
        self._write(ended)

    def attempt(self, rng: np.random.Generator) -> GuardReport:
        """One jump, or nothing and the reason; not counted."""
        ended, report = self._attempt(self._prepared(rng), rng, self._classical())
        if report.ok:
            self._write(ended)
        return report

    def _attempt(self, prepared: PreparedJump, rng: np.random.Generator, classical: Classical | None) -> Proposed:
        state, constraints, _, predicted, proposed = prepared
        return self.guarded.attempt(state, constraints, rng, classical, predicted, proposed)

    def take(self, predicted: Predicted) -> None:
        """Be given the prediction of the step that comes next."""
        assert self.waiting is not None  # it was prepared
        self.waiting = self.waiting._replace(predicted=predicted)

    def propose(self, rng: np.random.Generator) -> GuardReport:
        """Hold the prediction of the step that comes next against the guards; nothing is written."""
        assert self.waiting is not None  # it was prepared
        state, constraints, _, predicted, _ = self.waiting
        proposed = self.guarded.propose(state, constraints, rng, self._classical(), predicted)
        self.waiting = self.waiting._replace(proposed=proposed)
        return proposed[1]

    def refusal(self, report: GuardReport, advice: str) -> JumpError:
        """The error of a jump that was refused and is not replaced."""
        return jump_error(self._same.read(), report, advice)

    def classical_step(self, rng: np.random.Generator) -> None:
        """One step of velocity Verlet, with the thermostat around it."""
        classical = self._classical()
        if classical is None:
            raise CompatibilityError(Remedy("classical steps need forces; ", *ATTACH))
        constraints = self._read_constraints()
        state = self._same.read(self.forces())
        self._write(self.guarded.classical_step(state, constraints, rng, classical))

    def _prepared(self, rng: np.random.Generator) -> PreparedJump:
        prepared = self.prepare(rng) if self.waiting is None else self.waiting
        self.waiting = None
        return prepared

    def prepare(self, rng: np.random.Generator) -> PreparedJump:
        """Read the atoms and make the half step of the thermostat before the jump; nothing is written."""
        before = self.before(rng)
        self._look_for_changes()
        constraints, state = self._read()
        return PreparedJump(self.guarded.prepare(state, constraints, rng, self._classical()), constraints, before)

    def before(self, rng: np.random.Generator) -> Before:
        """What :meth:`undo` goes back to: the start of the present step, if it has been prepared already."""
        if self.waiting is not None:
            return self.waiting.before
        energy = self.guarded.energy
        return Before(rng.bit_generator.state, None if energy is None else energy.target, self._left)

    def undo(self, before: Before, rng: np.random.Generator) -> None:
        """Forget a step that failed or was only prepared; the atoms are still as they were."""
        self.waiting = None
        rng.bit_generator.state, self._left = before.drawn, before.left
        if self.guarded.energy is not None:
            self.guarded.energy.target = before.target

    def temperature(self) -> float:
        """K, of the motion that constraints and conserved momenta leave."""
        constraints, state = self._read_constraints(), self._same.read()
        return self.guarded.freedom(state, constraints).temperature(state)

    def watch(self) -> RunWatch:
        """A watch over the temperatures of a run that begins here."""
        constraints, state = self._read_constraints(), self._same.read()
        return RunWatch(state, self.guarded.freedom(state, constraints), self.guarded.bath_temperature)

    def known_forces(self) -> np.ndarray | None:
        """Forces at the present positions (N, 3) in eV/Å, without those of constraints, if they are known."""
        if self._known_forces is None:
            return None
        calculator, positions, cell, forces = self._known_forces
        same = np.array_equal(positions, self.atoms.positions) and np.array_equal(cell, self.atoms.cell)
        return forces if same and calculator is self.atoms.calc else None

    def remember_forces(self, forces: np.ndarray) -> None:
        """Use these forces (N, 3) in eV/Å for the present positions instead of a call of the calculator."""
        self._known_forces = (self.atoms.calc, self.atoms.get_positions(), np.array(self.atoms.cell), forces.copy())

    def forces(self) -> np.ndarray:
        """Forces at the present positions (N, 3) in eV/Å, without those of constraints."""
        forces = self.known_forces()
        if forces is None:
            forces = forces_of(self.atoms)
            self.remember_forces(forces)
        return forces

    def take_energy(self, change: float) -> None:
        """The atoms were moved on purpose and their potential energy changed, in eV: so does the energy to conserve."""
        energy = self.guarded.energy
        if energy is not None and energy.target is not None:
            energy.target += change * FORCE
            self._left = self.atoms.get_positions(), self.atoms.get_momenta()

    def _read(self) -> tuple[Constraints, State]:
        constraints = self._read_constraints()
        forces = self.forces() if self.guarded.propagator.wants_forces == "start" else None
        return constraints, self._same.read(forces)

    def _look_for_changes(self) -> None:
        """Take the energy to conserve anew where somebody else has moved the atoms or changed their momenta."""
        energy = self.guarded.energy
        if energy is not None and self._left is not None:
            now = self.atoms.positions, self.atoms.get_momenta()
            if not all(np.array_equal(a, b) for a, b in zip(now, self._left, strict=True)):
                energy.target = None

    def _write(self, ended: State) -> None:
        self._same.write(ended)
        if self.guarded.energy is not None:
            self._left = self.atoms.get_positions(), self.atoms.get_momenta()
        if ended.forces is not None:  # those of the last classical step serve the next jump
            self.remember_forces(ended.forces.numpy() / FORCE)

    def _classical(self) -> Classical | None:
        """What the calculator computes, on a copy: the user's atoms stay as they are until the step has succeeded."""
        if self.atoms.calc is None:
            self._check_calculator()
            return None
        copy: Atoms | None = None

        def at(positions: Tensor) -> Atoms:
            nonlocal copy
            if copy is None:
                copy = self.atoms.copy()
                copy.set_constraint()
                copy.calc = self.atoms.calc
            copy.set_positions(positions.numpy())
            return copy

        def forces(positions: Tensor) -> Tensor:
            return torch.tensor(forces_of(at(positions)) * FORCE)

        def energy(positions: Tensor) -> float:
            return energy_of(at(positions)) * FORCE

        def minimise(positions: Tensor, steps: int) -> Tensor:
            held = self.atoms.copy()
            held.calc = CheckedCalculator(self.atoms.calc)
            held.set_positions(positions.numpy(), apply_constraint=False)
            FIRE(held, logfile=None).run(fmax=_MINIMUM, steps=steps)
            return torch.tensor(held.get_positions())

        return Classical(forces, energy, minimise)

    def _read_constraints(self) -> Constraints:
        constraints = self._same.constraints()
        if constraints is not self._checked:
            self.guarded.check(constraints, bool(self.atoms.pbc.any()))
            self._checked = constraints
        return constraints

    def _check_calculator(self) -> None:
        """Refuse what needs a calculator where there is none."""
        needs = {
            **self.guarded.needs,
            "forces, an input of this propagator": self.guarded.propagator.wants_forces == "start",
        }
        for what, asked in needs.items():
            if asked:
                raise CompatibilityError(Remedy(f"{what}: needs the engine; ", *ATTACH))

    def _check(self) -> None:
        propagator = self.guarded.propagator
        if self.atoms.calc is None:
            self._check_calculator()
        self._read_constraints()
        state = self._same.read()
        known = propagator.provenance
        check_home(
            known,
            state,
            self._read_constraints(),
            temperature=self.guarded.temperature,
            theory=describe_calculator(self.atoms.calc, "" if known is None else known.theory),
            charge=charge_of(self.atoms.calc, self.atoms),
            multiplicity=multiplicity_of(self.atoms.calc, self.atoms),
            unusual_forces=getattr(self.atoms.calc, "unusual_forces", ()),
            lenient=self.guarded.guard is None,
            holds_atoms=self.guarded.tolerates_frozen_atoms,
            drawn=propagator.stochastic,
        )
        # Forces of zero stand for those of the first step, which are not worth a call here.
        zeros = torch.zeros_like(state.positions)
        propagator.check(state.replace(forces=zeros, midpoint_forces=zeros))
        if self.bonds is None and self.guarded.guard is not None and propagator.limits.bonds:
            warnings.warn(
                Remedy(
                    "no bonds were given, so the guard cannot check bond lengths; give ",
                    "bonds=, from the topology or from fastegnn_md.engines.ase.guess_bonds(atoms)",
                    "a topology that has them, or --bonds guess",
                ),
                stacklevel=4,
            )
