"""Times of bursts: how long, how many frames, how many steps of the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .. import units
from ..errors import DataError


@dataclass(frozen=True)
class BurstPlan:
    """What every burst has in common.

    Attributes
    ----------
    interval, timestep : float, ps
        Between stored frames; of the engine.
    n_frames, steps_between : int
        Stored frames of a burst, and steps of the engine between two of them.
    temperature : float, K, or None
        At which velocities are drawn; None takes those of the frames.
    seed : int
    """

    interval: float
    timestep: float
    n_frames: int
    steps_between: int
    temperature: float | None
    seed: int

    @classmethod
    def make(
        cls, burst: float | str, interval: float | str, timestep: float | str, temperature: float | None, seed: int
    ) -> BurstPlan:
        """Read times in ps or with a unit.

        Raises
        ------
        DataError
            If one is not positive, they are no whole multiples, or the temperature is not positive.
        """
        given = {"burst": burst, "interval": interval, "timestep": timestep}
        ps = {name: positive_time(name, value) for name, value in given.items()}
        counts = {}
        for long, short in (("burst", "interval"), ("interval", "timestep")):
            ratio = ps[long] / ps[short]
            counts[long] = round(ratio)
            if counts[long] < 1 or abs(ratio - counts[long]) > 1e-6 * ratio:
                raise DataError(
                    f"{long} {units.format_time(ps[long])} is not a whole number of {short}s of "
                    f"{units.format_time(ps[short])}"
                )
        if temperature is not None and not is_positive(temperature):
            raise DataError(f"temperature is {temperature!r}; expected one positive number of K for all frames")
        return cls(ps["interval"], ps["timestep"], counts["burst"] + 1, counts["interval"], temperature, int(seed))


def is_positive(value: Any) -> bool:
    """Whether it is one positive number."""
    return isinstance(value, Real) and math.isfinite(float(value)) and float(value) > 0


def positive_time(name: str, given: Any) -> float:
    """A time in ps, from a number of ps or a text with its unit."""
    if not isinstance(given, (str, Real)):
        raise DataError(f"{name} is {given!r}; expected a number of ps, or a text with its unit")
    value = units.parse_quantity(given, "time") if isinstance(given, str) else float(given)
    if not (math.isfinite(value) and value > 0):
        raise DataError(f"{name} is {given}; expected a positive time")
    return value
