"""A jump that is made ready before its step, so that it can be predicted with those of other Contexts."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from fastegnn_md.propagator.learned_map import LearnedMap

from ..schedule import Schedule
from ..together import Waiting
from .annealing import Annealing
from .classical import StepGenerator
from .jump import ContextJump


class Ahead(Annealing):
    """Part of :class:`LearnedIntegrator`."""

    propagator: LearnedMap
    schedule: Schedule
    jump_seconds: float
    _jump: ContextJump
    _custom: Any
    _half_step: bool
    _generator: StepGenerator
    _ahead: np.random.Generator | None  # random numbers of a jump that is prepared

    @property
    def _half(self) -> float:
        """Half a classical step in ps, where velocities are those of so long ago and a jump looks at them."""
        if not self._half_step or self._inner is None or self.propagator.stochastic:
            return 0.0
        step: float = self._inner.getStepSize()._value
        return 0.5 * step

    def prepare(self) -> Waiting | None:
        """Make ready for the jump of the next step, so that it can be predicted with those of others.

        Returns
        -------
        Waiting or None
            None if the next step is a classical one. :meth:`step` then makes the jump, :meth:`forget` leaves it.
        """
        context = self._jump.context
        self._recover()
        count = context.getStepCount()
        pending = int(self._custom.getGlobalVariableByName("pending")) if self.schedule.adaptive else 0
        if self.schedule.hybrid and self.schedule.classical_steps_due(count, pending):
            return None
        begun = time.perf_counter()
        self._follow_thermostat()
        self._read_energy()
        self._ahead = rng = self._generator.at(self.seed, count)
        state = self._jump.prepare(self._half, rng)
        self.jump_seconds += time.perf_counter() - begun
        return Waiting(state, rng, self._guarded, self._jump.take, partial(self._jump.propose, rng))

    def forget(self) -> None:
        """Undo :meth:`prepare`, where it was not followed by a step."""
        if self._ahead is not None:
            self._ahead = None
            self._jump.forget()

    @property
    def seed(self) -> int:
        """Of jumps and their thermostat."""
        raise NotImplementedError

    def _recover(self) -> None:
        raise NotImplementedError

    def _read_energy(self) -> None:
        raise NotImplementedError
