"""One call of a learned map for the jumps of many systems, and one more for those whose draws are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastegnn_md.errors import StateError
from fastegnn_md.propagator.advance import advance_with_trust
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State

from .engine import Predicted
from .guards import GuardReport
from .step import GuardedStep

_MOVING = ("positions", "velocities", "forces", "midpoint_forces", "midpoint_positions")


class Waiting(NamedTuple):
    """A system whose jump is prepared.

    Attributes
    ----------
    state : State
        What the map is given.
    rng : numpy.random.Generator
        Of the system.
    guarded : GuardedStep
    take : callable
        Is given the prediction.
    propose : callable
        Holds the prediction against the guards and relaxes it; asked of stochastic maps alone.
    """

    state: State
    rng: np.random.Generator
    guarded: GuardedStep
    take: Callable[[Predicted], None]
    propose: Callable[[], GuardReport]


class Together:
    """Predicts the jumps of several systems in one batch, each as it would be alone."""

    def __init__(self, propagator: LearnedMap):
        self.propagator = propagator
        self._last: tuple[list[State], State | None] = [], None  # joined at the last jump

    def predict(self, waiting: Sequence[Waiting]) -> None:
        """Predict the jumps of all; of a stochastic map draw those anew that guards refuse, again together."""
        drawn, left = 0, list(waiting)
        while left:
            try:
                predicted = self._predicted(left)
            except StateError:
                return  # one of them is not finite: alone, each finds out for itself
            for one, prediction in zip(left, predicted, strict=True):
                one.take(prediction)
            if not self.propagator.stochastic:
                return
            again = []
            for one in left:
                report = one.propose()
                if not report.ok and one.guarded.redraws_left(drawn):
                    one.guarded.statistics.record_redraw(report)
                    again.append(one)
            drawn, left = drawn + 1, again

    def _predicted(self, waiting: Sequence[Waiting]) -> list[Predicted]:
        states = [one.state for one in waiting]
        kelvin = [one.guarded.temperature for one in waiting]
        ended, trust = advance_with_trust(
            self.propagator, self._joined(states), [one.rng for one in waiting], kelvin[0]
        )
        sizes = [state.n_atoms for state in states]
        parts = zip(states, ended.positions.split(sizes), ended.velocities.split(sizes), strict=True)
        ends = []
        for (state, positions, velocities), own in zip(parts, kelvin, strict=True):
            moved = {"positions": positions, "velocities": _at(velocities, own, kelvin[0], self.propagator)}
            ends.append(state.replace(**moved, forces=None, midpoint_forces=None, midpoint_positions=None))
        return [Predicted(*both) for both in zip(ends, trust.split(sizes), strict=True)]

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
        if len(states) >= len(known):  # redraws of a few do not make the next batch of all anew
            self._last = states, batch
        return batch


def _at(velocities: Tensor, kelvin: float | None, drawn_at: float | None, propagator: LearnedMap) -> Tensor:
    """Velocities that were redrawn at another temperature than that of their system."""
    if propagator.predicts_velocities or kelvin is None or not drawn_at or kelvin == drawn_at:
        return velocities
    return velocities * float(np.sqrt(kelvin / drawn_at))
