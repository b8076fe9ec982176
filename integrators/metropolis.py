"""Jumps that a Metropolis test accepts or rejects with the true energy: exact sampling with any learned map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, GraphError, StateError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.mechanics.verlet import Forces
from fastegnn_md.propagator.advance import advance
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

from .thermostats import Langevin

Potential = Callable[[Tensor], float]  # of positions (N, 3) in Å, amu Å²/ps²


@dataclass
class MetropolisStatistics:
    """What became of the jumps.

    Attributes
    ----------
    tried, accepted : int
    not_finite : int
        Jumps rejected because prediction or energy was not finite.
    energies : int
        Evaluations of the potential energy.
    """

    tried: int = 0
    accepted: int = 0
    not_finite: int = 0
    energies: int = 0

    @property
    def acceptance(self) -> float:
        """Share of the jumps that were accepted; nan before the first."""
        return self.accepted / self.tried if self.tried else math.nan


@dataclass
class MetropolisStep:
    """Refresh velocities, jump, accept with probability min(1, exp(-ΔH/kT)); else turn the velocities round.

    H = U + K with the true potential energy U. With a map that is reversible and preserves volume this leaves the
    canonical distribution of positions and velocities as it is, whatever the map's error (generalised hybrid Monte
    Carlo: Horowitz, Phys. Lett. B 268, 247 (1991); Duane et al., Phys. Lett. B 195, 216 (1987)). The velocities are
    refreshed partially, v ← c v + √((1 - c²) k_B T / m) ξ with c = exp(-γ Δt), or drawn anew.

    Parameters
    ----------
    propagator : LearnedMap
        Reversible and volume preserving.
    temperature : float
        T in K.
    friction : float, optional
        γ in 1/ps; None draws all velocities anew before each proposal.
    jumps : int
        Of a proposal, one after the other: a product of such maps is one itself, and a longer proposal costs no more
        energies.

    Raises
    ------
    CompatibilityError
        If the propagator is not reversible and volume preserving.
    ConfigError
        If the temperature is not positive, the friction negative, or the number of jumps below 1.
    """

    propagator: LearnedMap
    temperature: float
    friction: float | None = None
    jumps: int = 1
    statistics: MetropolisStatistics = field(default_factory=MetropolisStatistics)
    _refreshment: Langevin | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        propagator = self.propagator
        if not isinstance(propagator, LearnedMap):
            raise ConfigError(
                f"propagator is a {type(propagator).__name__}; expected a Propagator, from "
                "fastegnn_md.load(name_or_path)"
            )
        if propagator.stochastic:
            raise CompatibilityError(
                "the Metropolis test needs the probability of each draw, and that of a propagator of kind 'flow' costs "
                "many times the draw: run without the test, or take draws as starting points of classical bursts, "
                "whose statistics are exact (fastegnn-md seeds)"
            )
        if not (propagator.reversible and propagator.volume_preserving):
            raise CompatibilityError(
                "the Metropolis test is right only for maps that are reversible and preserve volume, and this "
                "propagator is not made so: train one of kind 'kick-drift', 'symplectic' or 'conservative'"
            )
        number = isinstance(self.temperature, (int, float, np.number)) and not isinstance(self.temperature, bool)
        if not (number and math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(f"temperature is {self.temperature!r}; expected a number of K > 0")
        if isinstance(self.jumps, bool) or not isinstance(self.jumps, int) or self.jumps < 1:
            raise ConfigError(f"jumps is {self.jumps!r}; expected a whole number >= 1")
        if self.friction is not None:
            self._refreshment = Langevin(self.temperature, self.friction)

    def change(self, **values: Any) -> None:
        """Another ``temperature`` (K) or ``friction`` (1/ps) from the next step on; refused as at construction."""
        other = replace(self, **values)
        self.temperature, self.friction, self._refreshment = other.temperature, other.friction, other._refreshment

    @property
    def timestep(self) -> float:
        """Length of a proposal, ps."""
        return self.jumps * self.propagator.timestep

    def check(self, constraints: Constraints) -> None:
        """Refuse constraints under which the test would be wrong.

        Raises
        ------
        ConstraintError
            If a bond length is fixed, an atom is frozen, or the centre of mass rests although the propagator moves it.
        """
        if len(constraints.bonds):
            raise ConstraintError(
                "the Metropolis test cannot be combined with fixed bond lengths: putting a jump back onto them does "
                "not preserve volume, and the wrong distribution would be sampled; remove the constraints"
            )
        if constraints.holds_atoms:
            raise ConstraintError(
                "the Metropolis test cannot be combined with frozen atoms: a jump that is undone for some atoms is not "
                "reversible; remove the constraint"
            )
        if constraints.fixed_com and not self.propagator.domain.conserves_momentum:
            raise ConstraintError(
                "the centre of mass is to rest, but this propagator learned that momentum is not conserved; remove the "
                "constraint"
            )

    def __call__(
        self,
        state: State,
        potential: Potential,
        rng: np.random.Generator,
        constraints: Constraints,
        energy: float | None = None,
        forces: Forces | None = None,
    ) -> tuple[State, float]:
        """State after a jump, or the same positions with velocities turned round; and its potential energy.

        Parameters
        ----------
        state : State
            One system on the CPU in float64.
        potential : callable
            The true potential energy (amu Å²/ps²) of positions; asked once, and for those of ``state`` if their energy
            is not given. What it raises is passed on.
        rng : numpy.random.Generator
            Advanced.
        constraints : Constraints
            That :meth:`check` lets pass: the centre of mass may rest, velocities are then drawn without its motion.
        energy : float, optional
            Potential energy of ``state``, where it is known.
        forces : callable, optional
            The true forces (N, 3) in amu Å/ps² at positions, for propagators that ask for them.

        Raises
        ------
        CompatibilityError
            If the propagator asks for forces and there are none.
        StateError
            If the energy of ``state`` is not finite.
        """
        if energy is None:
            energy = self._evaluate(potential, state.positions)
        if not math.isfinite(energy):
            raise StateError(f"the potential energy of the present positions is {energy}; start from other positions")
        state = self._refreshed(state, rng, constraints)
        ended, after = self._proposed(state, potential, rng, forces)
        threshold = rng.random()  # drawn always, so that random numbers do not depend on energies
        change = after + _kinetic(ended) - energy - _kinetic(state)
        accepted = change <= 0 or threshold < math.exp(-change / (BOLTZMANN * self.temperature))  # nan is never less
        self.statistics.tried += 1
        self.statistics.accepted += accepted
        self.statistics.not_finite += not math.isfinite(change)
        return (ended, after) if accepted else (state.replace(velocities=-state.velocities), energy)

    def _refreshed(self, state: State, rng: np.random.Generator, constraints: Constraints) -> State:
        def allowed(velocities: Tensor) -> Tensor:
            return constraints.project_velocities(state, velocities)

        if self._refreshment is None:
            velocities = allowed(thermal_velocities(state.masses, self.temperature, rng))
        else:
            velocities = self._refreshment.refresh(state.velocities, state.masses, self.timestep, rng, allowed)
        return state.replace(velocities=velocities)

    def _proposed(
        self, state: State, potential: Potential, rng: np.random.Generator, forces: Forces | None
    ) -> tuple[State, float]:
        """The jump and its potential energy; nan where there is none."""
        try:
            ended = state
            for _ in range(self.jumps):
                ended = advance(self.propagator, self._informed(ended, forces), rng)
        except (StateError, GraphError):  # not finite, or atoms on each other: nothing there has an energy
            return state, math.nan
        after = self._evaluate(potential, ended.positions)
        return ended, after if math.isfinite(after) else math.nan

    def _informed(self, state: State, forces: Forces | None) -> State:
        places = self.propagator.force_positions(state)
        if places is None:
            return state
        if forces is None:
            raise CompatibilityError("this propagator needs the forces of an engine; give forces")
        return self.propagator.with_forces(state, forces(places))

    def _evaluate(self, potential: Potential, positions: Tensor) -> float:
        self.statistics.energies += 1
        return potential(positions)


def _kinetic(state: State) -> float:
    return float(0.5 * state.masses @ state.velocities.square().sum(dim=1))
