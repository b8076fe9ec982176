"""ASE dynamics that sample the canonical distribution of the calculator exactly, by jumps and a Metropolis test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import FORCE, PICOSECOND, bond_array, forces_at
from fastegnn_md.engines.ase.calculated import ATTACH, energy_of
from fastegnn_md.engines.ase.same_atoms import SameAtoms
from fastegnn_md.errors import CompatibilityError, Remedy
from fastegnn_md.mechanics.verlet import Forces
from fastegnn_md.propagator.learned_map import LearnedMap

from ..arguments import ANEW, TIMESTEP, propagator_of
from ..metropolis import MetropolisStatistics, MetropolisStep, Potential
from ..thermostats import in_unit
from .base import JumpDynamics, check_atoms

with naming_extras(__name__):
    from ase import Atoms


class MetropolizedDynamics(JumpDynamics):
    """Canonical sampling by jumps that are accepted or rejected with the energy of the calculator.

    A step refreshes the velocities, jumps, asks the calculator for one energy, and accepts with probability
    min(1, exp(-ΔH/kT)); where it rejects, the atoms stay and their velocities turn round. The distribution is that of
    the calculator at this temperature whatever the error of the propagator, which costs acceptance only
    (:class:`~fastegnn_md.integrators.metropolis.MetropolisStep`). With rejections and refreshed velocities time means
    nothing: this samples, it does not give rates.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator. ``FixCom`` is the one constraint that is allowed.
    propagator : LearnedMap
        Reversible and volume preserving: one of kind "kick-drift", "symplectic" or "conservative".
    temperature_K : float
        Of the canonical distribution.
    friction : float, optional
        Velocities are refreshed partially, with this friction: 1/(ASE time), or with its unit (``"10/ps"``). None
        draws them anew for each step.
    jumps : int
        Of a step: more make a longer proposal at the same one energy.
    rng : numpy.random.Generator or int, optional
        Generator or seed. By default a seed is drawn and kept as ``seed``.
    bonds : array of int, shape (M, 2), optional
        Bonded pairs, for propagators trained with bonds.
    trajectory, logfile, loginterval
        As in every ASE dynamics. The log holds the energies of all steps, a trajectory those of accepted jumps: ASE
        writes energies of the calculator's last positions only. To continue a run use :meth:`restart`.
    restart_file : str or Path, optional
        Written by :meth:`save_restart` every ``loginterval`` steps (:meth:`attach_restart` takes another interval).

    Attributes
    ----------
    statistics : MetropolisStatistics
    seed : int or None
        Repeats the run as ``rng=``; None where a generator was given.
    rng : numpy.random.Generator

    Raises
    ------
    CompatibilityError
        If the propagator is not reversible and volume preserving, does not fit the system, or there is no
        calculator.
    ConstraintError
        If the atoms have a constraint other than FixCom.
    ConfigError
        If an option is out of range.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: LearnedMap | str | Path,
        *misplaced: Any,
        temperature_K: float,
        friction: float | str | None = None,
        jumps: int = 1,
        rng: np.random.Generator | int | None = None,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
        trajectory: Any = None,
        logfile: IO[str] | str | Path | None = None,
        loginterval: int = 1,
        restart_file: str | Path | None = None,
    ):
        call = "MetropolizedDynamics(atoms, propagator, temperature_K=…)"
        propagator = propagator_of(propagator, call, misplaced)
        check_atoms(atoms)
        self.metropolis: MetropolisStep = MetropolisStep(propagator, temperature_K, _per_picosecond(friction), jumps)
        if atoms.calc is None:
            raise CompatibilityError(Remedy("the Metropolis test needs energies; ", *ATTACH))
        self.bonds: np.ndarray | None = None if bonds is None else bond_array(bonds)
        self._same = SameAtoms(atoms, self.bonds)
        self.metropolis.check(self._same.constraints())
        state = self._same.read()
        # Forces of zero stand for those of the first step.
        propagator.check(state.replace(midpoint_forces=torch.zeros_like(state.positions)))
        self._known: tuple[Any, np.ndarray, np.ndarray, float] | None = None
        super().__init__(
            atoms,
            propagator,
            rng=rng,
            timestep=self.metropolis.timestep * PICOSECOND,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            restart_file=restart_file,
        )
        self._made = True

    @property
    def temperature_K(self) -> float:
        """Temperature of the canonical distribution in K; may be assigned."""
        return self.metropolis.temperature

    @temperature_K.setter
    def temperature_K(self, kelvin: float) -> None:
        self.set_temperature(temperature_K=kelvin)

    @property
    def friction(self) -> float | None:
        """Of the partial refreshment in 1/(ASE time), None where velocities are drawn anew; may be assigned."""
        friction = self.metropolis.friction
        return None if friction is None else friction / PICOSECOND

    @friction.setter
    def friction(self, friction: float | None) -> None:
        self.set_friction(friction)

    def set_temperature(self, temperature_K: float) -> None:
        """Another temperature (K) from the next step on; ConfigError if it is no number > 0."""
        self.metropolis.change(temperature=temperature_K)

    def set_friction(self, friction: float | str | None) -> None:
        """Another friction from the next step on: 1/(ASE time), or with its unit; None draws velocities anew."""
        self.metropolis.change(friction=_per_picosecond(friction))

    _read_once: ClassVar[dict[str, str]] = {
        "temperature": "assign temperature_K",
        "dt": TIMESTEP,
        "timestep": TIMESTEP,
        **dict.fromkeys(("propagator", "jumps", "bonds"), ANEW),
    }

    @property
    def statistics(self) -> MetropolisStatistics:
        """What became of the jumps so far."""
        return self.metropolis.statistics

    def step(self) -> None:
        """A proposal, accepted or rejected.

        Raises
        ------
        EngineError
            If the calculator fails; its own error is the cause. Atoms and random numbers are then as before the step.
        """
        drawn, counted = self.rng.bit_generator.state, dataclasses.replace(self.statistics)
        try:
            constraints, state = self._same.constraints(), self._same.read()
            self.metropolis.check(constraints)
            energy_at, forces = self._engine()
            ended, energy = self.metropolis(state, energy_at, self.rng, constraints, self._known_energy(), forces)
        except BaseException:
            self.rng.bit_generator.state, self.metropolis.statistics = drawn, counted
            raise
        self._same.write(ended)
        self._remember(energy)

    def logged_energy(self) -> float:
        """Potential energy at the present positions, eV; computed only if it is not known."""
        energy = self._known_energy()
        if energy is None:
            self.statistics.energies += 1
            energy = self._engine()[0](self._same.read().positions)
            self._remember(energy)
        return energy / FORCE

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        return {**super().todict(), **self._ensemble()}

    def restart_options(self) -> dict[str, Any]:
        """See :class:`JumpDynamics`."""
        return {**super().restart_options(), **self._ensemble()}

    @classmethod
    def from_restart(cls, atoms: Atoms, propagator: LearnedMap, options: dict[str, Any], **keywords: Any) -> Any:
        """See :class:`JumpDynamics`."""
        if keywords.pop("classical") is not None:
            raise CompatibilityError("sampling by Metropolis has no classical steps; leave classical out")
        names = ("temperature_K", "friction", "jumps", "loginterval")
        return cls(atoms, propagator, **{name: options[name] for name in names}, **keywords)

    def _ensemble(self) -> dict[str, Any]:
        return {"temperature_K": self.temperature_K, "friction": self.friction, "jumps": self.metropolis.jumps}

    def restart_arrays(self) -> dict[str, np.ndarray | None]:
        """See :class:`JumpDynamics`."""
        energy = self._known_energy()
        return {"bonds": self.bonds, "energy": None if energy is None else np.array(energy)}

    def continue_from(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """See :class:`JumpDynamics`."""
        self.metropolis.statistics = MetropolisStatistics(**header["statistics"])
        if "energy" in arrays:
            self._remember(arrays["energy"].item())

    def _engine(self) -> tuple[Potential, Forces]:
        """Energy (amu Å²/ps²) and forces (amu Å/ps²) of positions, on a copy: the user's atoms rest during a step."""
        copy = self.atoms.copy()
        copy.set_constraint()
        copy.calc = self.atoms.calc

        def energy(positions: Tensor) -> float:
            copy.set_positions(positions.numpy())
            return energy_of(copy) * FORCE

        def forces(positions: Tensor) -> Tensor:
            return forces_at(copy, positions)

        return energy, forces

    def _known_energy(self) -> float | None:
        """Energy at the present positions, amu Å²/ps², where it is known."""
        if self._known is None:
            return None
        calculator, positions, cell, energy = self._known
        same = np.array_equal(positions, self.atoms.positions) and np.array_equal(cell, self.atoms.cell)
        return energy if same and calculator is self.atoms.calc else None

    def _remember(self, energy: float) -> None:
        self._known = (self.atoms.calc, self.atoms.get_positions(), np.array(self.atoms.cell), energy)


def _per_picosecond(friction: float | str | None) -> Any:
    return friction * PICOSECOND if isinstance(friction, Real) else in_unit(friction, "friction")
