"""How many jumps and bursts seeds come to, and how long these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import units
from ..errors import ConfigError
from .plan import BurstPlan, is_positive, positive_time

FEWEST = 10  # bursts


@dataclass(frozen=True)
class SeedPlan:
    """Numbers and times (ps)."""

    jumps: int
    replicas: int
    starts: int
    repeats: int
    interval: float
    frames: int  # of a burst
    dropped: int  # of them, at its beginning
    lag: int  # frames

    @classmethod
    def make(
        cls, jumps: int, replicas: int, starts: int, repeats: int, burst: Any, interval: Any, burn_in: Any, lag: Any
    ) -> SeedPlan:
        """Check numbers, and read times in ps or with a unit.

        Raises
        ------
        ConfigError, DataError
            If one is out of range, or they do not fit together.
        """
        for name, value in {"jumps": jumps, "replicas": replicas, "starts": starts, "repeats": repeats}.items():
            if not is_positive(value) or value != int(value):
                raise ConfigError(f"{name} is {value!r}; expected a whole number, 1 or more")
        if starts * repeats < FEWEST:
            raise ConfigError(
                f"{starts * repeats} bursts are too few for populations; give {FEWEST} at least, a hundred or more to "
                "be of use (starts times repeats)"
            )
        length, step = positive_time("burst", burst), positive_time("interval", interval)
        frames = BurstPlan.make(length, step, step, None, 0).n_frames
        dropped = round(positive_time("burn_in", burn_in) / step)
        left = frames - dropped
        if dropped < 1 or left < 4:
            raise ConfigError(
                f"a burst of {units.format_time(length)} leaves {max(0, left)} frames after a burn-in of "
                f"{units.format_time(dropped * step)}; drop at least one frame and leave four: longer bursts, a "
                "shorter interval or burn-in"
            )
        count = max(1, left // 5) if lag is None else round(positive_time("lag", lag) / step)
        if not 1 <= count < left - 1:
            raise ConfigError(
                f"the lag {units.format_time(count * step)} must be a frame at least and shorter than the "
                f"{units.format_time((left - 1) * step)} that are left of a burst after the burn-in"
            )
        return cls(int(jumps), int(replicas), int(starts), int(repeats), step, frames, dropped, count)
