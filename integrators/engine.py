"""What a step asks of an engine, and what it may know of the jump beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fastegnn_md.mechanics.verlet import Forces
from fastegnn_md.propagator.prediction import Trust
from fastegnn_md.state import State


class Predicted(NamedTuple):
    """State that the propagator predicts, and how far to trust it."""

    state: State
    trust: Trust = Trust()


@dataclasses.dataclass(frozen=True)
class Classical:
    """What an engine answers about the classical potential, at positions (N, 3) in Å.

    Attributes
    ----------
    forces : callable
        (N, 3) in amu Å/ps², without those of constraints.
    energy : callable
        amu Å²/ps².
    minimise : callable
        Positions (N, 3) in Å closer to a minimum, after at most so many steps.
    verlet : callable, optional
        A state after so many steps of velocity Verlet of so many ps, where the engine makes these faster than
        :func:`~fastegnn_md.mechanics.verlet.velocity_verlet` with its forces.
    """

    forces: Forces
    energy: Callable[[Tensor], float]
    minimise: Callable[[Tensor, int], Tensor]
    verlet: Callable[[State, float, int], State] | None = None
