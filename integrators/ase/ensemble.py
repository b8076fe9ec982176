"""Many learned dynamics advanced together: one call of the network per step for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fastegnn_md._progress import progress_bar
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError, StateError
from fastegnn_md.state import State

from ..engine import Predicted
from .dynamics import LearnedDynamics

_MOVING = ("positions", "velocities", "forces", "midpoint_forces", "midpoint_positions")


class LearnedEnsemble:
    """Advance several :class:`LearnedDynamics` step by step, their jumps predicted in one batch.

    Each keeps its own atoms, random numbers, thermostat, constraints, guards, observers, trajectory and restart file,
    and gives the numbers it would give alone, to rounding. A small molecule leaves most of a processor idle: replicas
    fill it.

    Parameters
    ----------
    dynamics : sequence of LearnedDynamics
        With one and the same propagator, of any systems it fits. A calculator must not be shared by atoms of which it
        keeps results.

    Raises
    ------
    ConfigError
        If there are none, or one is given twice.
    CompatibilityError
        If they have different propagators, or one that redraws velocities.

    Examples
    --------
    >>> replicas = [LearnedDynamics(atoms, propagator, rng=k) for k, atoms in enumerate(copies)]  # doctest: +SKIP
    >>> LearnedEnsemble(replicas).run(1000)  # doctest: +SKIP
    """

    def __init__(self, dynamics: Sequence[LearnedDynamics]):
        self.dynamics = list(dynamics)
        if not self.dynamics:
            raise ConfigError("an ensemble of no dynamics; give at least one LearnedDynamics")
        atoms = {id(one.atoms) for one in self.dynamics}
        if len(atoms) < len(self.dynamics):
            raise ConfigError("two dynamics of the ensemble move the same atoms; give each a copy")
        self._propagator = self.dynamics[0].propagator
        self._last: tuple[list[State], State | None] = [], None  # joined at the last step
        if any(one.propagator is not self._propagator for one in self.dynamics):
            raise CompatibilityError("the dynamics of an ensemble have different propagators; load it once for all")
        if not self._propagator.predicts_velocities:
            raise CompatibilityError(
                "this propagator redraws velocities, each replica from its own random numbers; run them one by one"
            )

    def set_temperature(self, temperature_K: float) -> None:
        """Another temperature (K) of all from the next step on; see :meth:`LearnedDynamics.set_temperature`."""
        for one in self.dynamics:
            one.set_temperature(temperature_K)

    def run(self, steps: int, progress: bool = False) -> None:
        """Make a number of steps of each dynamics; ``progress`` shows a bar.

        Raises
        ------
        JumpError
            If a guard refuses the jump of a replica and nothing can replace it; it names the replica. Those before it
            have made the step, it and those after it have not.
        """
        for _ in progress_bar(self.irun(steps), total=steps, disable=not progress, unit="step"):
            pass

    def irun(self, steps: int) -> Iterator[int]:
        """The same as a generator that yields after each step how many were made."""
        runs = [one.irun(steps) for one in self.dynamics]
        for run in runs:
            next(run)  # step 0, for observers that have not seen it
        for made in range(1, steps + 1):
            try:
                self._predict()
                for k, run in enumerate(runs):
                    try:
                        next(run)
                    except JumpError as error:
                        raise JumpError(f"replica {k}: {error}", error.atom) from error
            finally:
                self._forget()
            yield made

    def _predict(self) -> None:
        prepared = []
        jumping = [one for one in self.dynamics if one.jumps_next]
        if not jumping:
            return
        for one in jumping:
            one.follow_thermostat()
            one.jump.waiting = one.jump.prepare(one.rng)
            prepared.append(one.jump.waiting)
        sizes = [each.state.n_atoms for each in prepared]
        try:
            together = self._joined([each.state for each in prepared])
            ended, trust = self._propagator.with_trust(together)
        except StateError:
            return  # one of them is not finite: alone, each finds out for itself
        parts = zip(ended.positions.split(sizes), ended.velocities.split(sizes), trust.split(sizes), strict=True)
        for one, each, (positions, velocities, trusted) in zip(jumping, prepared, parts, strict=True):
            one.rng.integers(2**63)  # as a jump of its own would, for whatever a propagator may draw
            state = each.state.replace(positions=positions, velocities=velocities, forces=None, midpoint_forces=None)
            one.jump.waiting = each._replace(predicted=Predicted(state, trusted))

    def _joined(self, states: list[State]) -> State:
        """One batch of them; as long as they are states of the same atoms, its tensors say so."""
        known, batch = self._last
        same = len(known) == len(states) and all(map(State.has_atoms_of, states, known))
        if batch is None or not same:
            batch = State.concatenate(states)
        else:
            moving = {name: [getattr(state, name) for state in states] for name in _MOVING}
            batch = batch.replace(
                **{name: None if any(x is None for x in rows) else torch.cat(rows) for name, rows in moving.items()}
            )
        self._last = states, batch
        return batch

    def _forget(self) -> None:
        for one in self.dynamics:
            if one.jump.waiting is not None:
                one.jump.undo(one.jump.waiting.before, one.rng)
