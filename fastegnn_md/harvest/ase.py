"""Bursts by ASE: a calculator, ``VelocityVerlet`` and, for fixed bonds, the RATTLE of ``FixBondLengths``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import naming_extras
from ..errors import ConstraintError, EngineError, NotFiniteError
from .bursts import Burst, Start, midpoint_mark

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True, eq=False)
class ASERecipe:
    """A calculator factory and the atoms it is for."""

    factory: Callable[[], Any]
    numbers: np.ndarray
    masses: np.ndarray
    timestep: float
    midpoint: float | None
    pairs: np.ndarray
    lengths: np.ndarray
    bonds: None = field(default=None, init=False)
    periodic: None = field(default=None, init=False)  # decided by the frames
    name: str = field(default="ASE", init=False)

    @property
    def n_constraints(self) -> int:
        """Number of fixed bond lengths."""
        return len(self.pairs)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what can be known about the factory and of the constraints."""
        digest = hashlib.sha256(
            f"{describe_factory(self.factory)} {self.timestep!r}{midpoint_mark(self.midpoint)}".encode()
        )
        for array in (self.numbers, self.masses, self.pairs, self.lengths):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def build(self) -> ASERunner:
        """Make the calculator in this process."""
        return ASERunner(self)


def ase_recipe(
    factory: Callable[[], Any],
    *,
    numbers: np.ndarray,
    masses: np.ndarray,
    timestep: float,
    midpoint: float | None,
    first: Start,
    constraints: Sequence[Any],
) -> ASERecipe:
    """Check a calculator factory and its constraints.

    Bond lengths that a constraint does not name are those of the first frame, for every burst.

    Raises
    ------
    ConstraintError
        If a constraint is not ``FixBondLengths``.
    """
    with naming_extras("harvest with an ASE calculator"):
        from ase.constraints import FixBondLengths
    pairs: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    atoms = _atoms(numbers, masses, first)
    for constraint in constraints:
        if not isinstance(constraint, FixBondLengths):
            raise ConstraintError(
                f"{type(constraint).__name__} is not supported in bursts; give FixBondLengths or nothing"
            )
        known = constraint.bondlengths
        pairs.append(np.asarray(constraint.pairs, dtype=np.int64).reshape(-1, 2))
        lengths.append(
            np.asarray(constraint.initialize_bond_lengths(atoms) if known is None else known, dtype=np.float64)
        )
    return ASERecipe(
        factory=factory,
        numbers=numbers,
        masses=masses,
        timestep=timestep,
        midpoint=midpoint,
        pairs=np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64),
        lengths=np.concatenate(lengths) if lengths else np.empty(0),
    )


class ASERunner:
    """One calculator, used for every burst."""

    def __init__(self, recipe: ASERecipe):
        with naming_extras("harvest with an ASE calculator"):
            from ase.constraints import FixBondLengths

            from ..engines.ase.atoms import PICOSECOND
            from ..engines.ase.calculated import CheckedCalculator
            from ..engines.ase.calculators import about_calculator, new_calculator
        self._ps = PICOSECOND
        self._recipe = recipe
        calculator = new_calculator(recipe.factory)
        self._calculator = CheckedCalculator(calculator)
        atoms = _atoms(recipe.numbers, recipe.masses, Start(np.zeros((len(recipe.numbers), 3)), np.zeros(0), None))
        self.about: dict[str, Any] = about_calculator(calculator, atoms)
        self._constraints = []
        if len(recipe.pairs):
            self._constraints = [FixBondLengths(recipe.pairs, bondlengths=recipe.lengths)]

    def run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        """One burst."""
        try:
            return self._run(start, n_frames, steps_between)
        except (EngineError, NotFiniteError) as error:
            cause = _gave_up(error)
            both = self._recipe.midpoint is not None
            return Burst.failed(n_frames, len(start.positions), start.cell, cause, both)

    def forces(self, x: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
        """Forces at positions (N, 3) in Å; units and failures as :meth:`BurstRunner.forces`."""
        atoms = _atoms(self._recipe.numbers, self._recipe.masses, Start(x, np.zeros_like(x), cell))
        atoms.calc = self._calculator
        try:
            return self._forces(atoms, x[None])[0]
        except (EngineError, NotFiniteError) as error:
            _gave_up(error)
            return np.full(x.shape, np.nan)

    def reset(self) -> None:
        """Reset the calculator, if it is one of those that have results to forget."""
        if hasattr(self._calculator.calculator, "reset"):
            self._calculator.reset()

    def atoms(self, start: Start) -> Atoms:
        """ASE Atoms at a starting point, with the calculator and the constraints, which they satisfy."""
        recipe = self._recipe
        atoms = _atoms(recipe.numbers, recipe.masses, start)
        atoms.calc = self._calculator
        atoms.set_constraint(self._constraints)
        atoms.set_positions(start.positions)  # projects: positions of files are rounded
        atoms.set_momenta(recipe.masses[:, None] * start.velocities / self._ps)
        return atoms

    def _run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        from ase.md.verlet import VelocityVerlet

        recipe, ps = self._recipe, self._ps
        atoms = self.atoms(start)
        dynamics = VelocityVerlet(atoms, timestep=recipe.timestep * ps)
        frames = []
        for index in range(n_frames):
            if index:
                dynamics.run(steps_between)
            forces = atoms.get_forces(apply_constraint=False)
            kinetic = atoms.get_kinetic_energy()
            frames.append(
                (atoms.get_positions(), atoms.get_velocities(), forces, kinetic, atoms.get_potential_energy())
            )
        x, v, f, kinetic, potential = (np.array(values) for values in zip(*frames, strict=True))
        ahead = behind = None
        if recipe.midpoint is not None:
            flight = 0.5 * recipe.midpoint * ps * v
            ahead, behind = self._forces(atoms, x + flight), self._forces(atoms, x - flight)
        # ASE's units of length, mass and energy are 1, so its time unit converts the rest
        return Burst(
            positions=x.astype(np.float32),
            velocities=(v * ps).astype(np.float32),
            forces=(f * ps**2).astype(np.float32),
            energies=(kinetic + potential) * ps**2,
            kinetic=float(kinetic[0]) * ps**2,
            cell=start.cell,
            ahead=ahead,
            behind=behind,
        )

    def _forces(self, atoms: Atoms, places: np.ndarray) -> np.ndarray:
        """Forces at several places (n_frames, N, 3), without those of constraints; ``atoms`` end at the last one."""
        found = []
        for x in places:
            atoms.set_positions(x, apply_constraint=False)
            found.append(atoms.get_forces(apply_constraint=False))
        return (np.array(found) * self._ps**2).astype(np.float32)


def _atoms(numbers: np.ndarray, masses: np.ndarray, start: Start) -> Atoms:
    from ase import Atoms

    return Atoms(numbers, start.positions, masses=masses, cell=start.cell, pbc=start.cell is not None)


def _gave_up(error: EngineError | NotFiniteError) -> BaseException:
    """Why a calculator gave up on a geometry; raises the error anew if no other geometry would help."""
    if isinstance(error, NotFiniteError):
        return error
    cause = error.__cause__  # what the calculator raised: programs say that they did not converge as they like
    if cause is None or isinstance(cause, NotImplementedError):
        raise error
    return cause


def describe_factory(factory: Any) -> str:
    """Name of a factory, with the arguments of a :func:`functools.partial`."""
    if hasattr(factory, "func"):
        return f"{describe_factory(factory.func)} {factory.args!r} {sorted(factory.keywords.items())!r}"
    return f"{factory.__module__}.{getattr(factory, '__qualname__', repr(factory))}"
