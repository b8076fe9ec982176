"""What an adaptation is asked for, checked before the engine is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extras import naming_extras
from ..errors import ConfigError, Remedy
from ..propagator.base import Propagator, load
from ..state import State
from .ase import describe_factory
from .plan import BurstPlan, is_positive, positive_time
from .rounds import FEWEST, burst_of
from .sampling import EQUILIBRATION, SPACING

if TYPE_CHECKING:
    from ase import Atoms

MIRRORED = 8  # calls of a harvest that compare with mirror images
_FIXED = MIRRORED + 1  # calls of a round, however many bursts it has; one begins the sampling
_WARMING = EQUILIBRATION - SPACING  # calls before the first burst of all


@dataclass(frozen=True)
class Asked:
    """The arguments of an adaptation, checked.

    Attributes
    ----------
    model : Propagator
    atoms : ase.Atoms
    factory : callable
    target : float
    budget : int
    temperature : float, K
    bonds : ndarray of int64, shape (M, 2), or None
    seed : int
    times : dict of str to float, ps
        Of the bursts, as :func:`.harvest` calls them.
    plan : BurstPlan
    """

    model: Propagator
    atoms: Atoms
    factory: Callable[[], Any]
    target: float
    budget: int
    temperature: float
    bonds: np.ndarray | None
    seed: int
    times: dict[str, float]
    plan: BurstPlan

    @classmethod
    def make(
        cls,
        model: Any,
        atoms: Any,
        factory: Any,
        target: Any,
        budget: Any,
        temperature: Any,
        timestep: float | str,
        bonds: Any,
        seed: int,
    ) -> Asked:
        """Check what :func:`.adapt` was given; raises as it does."""
        with naming_extras("adapting a model"):
            from ase import Atoms

            from ..engines.ase.atoms import bond_array, guess_bonds, state_from_atoms
        model = load(model) if isinstance(model, (str, Path)) else model
        if not isinstance(model, Propagator):
            raise ConfigError(
                f"model is a {type(model).__name__}; expected a Propagator, or the name or file of one (members of a "
                "committee are adapted one by one)"
            )
        if not model.predicts_velocities:
            raise ConfigError(f"kind {model.kind!r} has no velocities and cannot be adapted; train it on a trajectory")
        if not isinstance(atoms, Atoms):
            raise ConfigError(f"atoms is a {type(atoms).__name__}; expected an ase.Atoms object")
        if not callable(factory):
            raise ConfigError(
                f"engine_factory is a {type(factory).__name__}; expected a function that returns an ASE calculator"
            )
        if not is_positive(target):
            raise ConfigError(f"target is {target!r}; expected a positive number, as 0.05")
        if not is_positive(budget) or budget != int(budget):
            raise ConfigError(f"budget is {budget!r}; expected a number of calls of the engine")
        if bonds is not None:
            bonds = bond_array(bonds)
        elif model.uses_bonds:
            bonds = guess_bonds(atoms)
        _check_fits(model, state_from_atoms(atoms, bonds=bonds))
        times = {**burst_of(model.config, model.timestep), "timestep": positive_time("timestep", timestep)}
        plan = BurstPlan.make(times["burst"], times["interval"], times["timestep"], temperature, seed)
        asked = cls(model, atoms, factory, float(target), int(budget), float(temperature), bonds, seed, times, plan)
        if asked.affordable(asked.budget, first=True) < 2 * FEWEST:
            least = 2 * FEWEST * asked.calls_per_burst + 2 * _FIXED + _WARMING
            raise ConfigError(
                Remedy(
                    f"a budget of {budget} calls is too small for two exams of {FEWEST} bursts, a burst takes "
                    f"{asked.calls_per_burst}: ",
                    f"give budget={least} at least",
                    f'give --budget "{least} calls" at least',
                )
            )
        return asked

    @property
    def calls_per_burst(self) -> int:
        """Of the engine, with those that lead to its start and those of exams."""
        places = 2 * self.plan.n_frames if "midpoint" in self.times else 0
        # Of an exam: where the model leads; in the last round where the given one led, too.
        exams = 2 if self.model.config.middle_frames else 0
        return SPACING + 1 + (self.plan.n_frames - 1) * self.plan.steps_between + places + exams

    def affordable(self, calls: int, *, first: bool) -> int:
        """Bursts of a round and those of a last exam that so many calls are enough for."""
        left = calls - _FIXED - (_WARMING if first else 0)
        alone = max(0, left) // self.calls_per_burst
        return alone if alone < 2 * FEWEST else (left - _FIXED) // self.calls_per_burst

    @property
    def identity(self) -> dict[str, Any]:
        """What two calls must share for one to continue the other."""
        atoms = self.atoms
        return {
            "model": self.model.identity()["weights"],
            "atoms": _digest(atoms.numbers, atoms.get_masses(), atoms.positions.round(6), atoms.cell.array.round(6)),
            "bonds": "" if self.bonds is None else _digest(self.bonds),
            "constraints": [type(one).__name__ for one in atoms.constraints],
            "engine": describe_factory(self.factory),
            "temperature": self.temperature,
            "timestep": self.times["timestep"],
            "seed": self.seed,
        }


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array + 0.0).tobytes())  # no zero is negative
    return digest.hexdigest()[:16]


def _check_fits(model: Propagator, state: State) -> None:
    """Refuse atoms that the model cannot be adapted to; forces of zero stand for those of the engine."""
    zeros = state.positions.new_zeros(state.positions.shape)
    model.check(state.replace(forces=zeros, midpoint_forces=zeros))
