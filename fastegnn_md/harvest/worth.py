"""What an adaptation cost, and after how much dynamics it has paid."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from ..propagator.learned_map import LearnedMap
from ..state import State

CLASSICAL = 0.001  # ps, of the classical steps that jumps are compared with
_WARM, _TIMED = 3, 15  # jumps


@dataclass(frozen=True)
class Worth:
    """Costs of an adaptation, all measured, and what they buy.

    Attributes
    ----------
    calls : int
        Of the engine, for energy and forces of one geometry.
    engine_seconds, training_seconds : float
        Of all calls together, and of all training.
    call_seconds, jump_seconds : float
        Of a call of the engine (median), and of a jump without it.
    calls_per_jump : int
        1 for models that ask the engine for the force, else 0.
    timestep : float
        Of a jump, ps.
    """

    calls: int
    engine_seconds: float
    training_seconds: float
    call_seconds: float
    jump_seconds: float
    calls_per_jump: int
    timestep: float

    @property
    def classical_seconds_per_ps(self) -> float:
        """Of classical steps of 1 fs."""
        return self.call_seconds / CLASSICAL

    @property
    def learned_seconds_per_ps(self) -> float:
        """Of jumps with the calls they need; audits are not counted."""
        return (self.jump_seconds + self.calls_per_jump * self.call_seconds) / self.timestep

    @property
    def gain(self) -> float:
        """How many times faster jumps are."""
        return self.classical_seconds_per_ps / self.learned_seconds_per_ps

    @property
    def pays_after_ps(self) -> float:
        """Dynamics after which the time that jumps save is that of the adaptation; infinite if they save none."""
        saved = self.classical_seconds_per_ps - self.learned_seconds_per_ps
        return (self.engine_seconds + self.training_seconds) / saved if saved > 0 else math.inf


def seconds_of_jump(model: LearnedMap, start: State) -> float:
    """Time of one jump of one system (median), s; forces of zero stand for those of the engine."""
    start = start.to("cpu", torch.float64)
    if model.wants_forces is not None:
        start = model.with_forces(start, torch.zeros_like(start.positions))
    times = []
    for _ in range(_WARM + _TIMED):
        begun = time.perf_counter()
        model(start)
        times.append(time.perf_counter() - begun)
    return sorted(times[_WARM:])[_TIMED // 2]
