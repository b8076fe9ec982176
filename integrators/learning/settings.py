"""How a simulation learns its propagator: one value with every number that decides it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from numbers import Integral, Real

from fastegnn_md.errors import ConfigError

from .exams import FEWEST


@dataclass(frozen=True)
class Learning:
    """When to jump, how much to train, how often to check.

    Parameters
    ----------
    target : float
        Error of v′ in % of the thermal velocity √(k_B T/m), of the element that is worst. Jumps begin when the upper
        end of the interval of the running error is below it, and end when the lower end is above it.
    first : int
        Segments before the first model is made.
    updates : int
        Optimiser updates for each new pair. The time of a step therefore does not grow with the number of pairs.
    batch_size : int
        Pairs per update.
    learning_rate : float, optional
        Peak of Adam. Default: 4e-3 for a new model, 1e-3 for one that is trained already.
    memory : int
        Pairs kept; a new one takes the place of one drawn by chance when there are as many.
    window : int
        Exams that the running error is the mean of; at least 10, fewer say nothing.
    audits : float
        Share of the time to spend on audits while jumping: whole classical segments in place of jumps drawn by chance.
        At least one jump in 200 and at most one in ten is audited.
    renew : int
        New pairs after which a better model takes the place of the one that jumps.
    freeze_after : int, optional
        Jumps in a row after which learning ends by itself; None waits for ``freeze()``.
    seed : int
        Of initial weights, batches, audits.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    target: float = 3.0
    first: int = 20
    updates: int = 20
    batch_size: int = 8
    learning_rate: float | None = None
    memory: int = 2000
    window: int = 30
    audits: float = 0.2
    renew: int = 10
    freeze_after: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.name in ("learning_rate", "freeze_after"):
                continue
            whole = one.name not in ("target", "learning_rate", "audits")
            kind, what = (Integral, "a whole number") if whole else (Real, "a number")
            least = {"first": 2, "window": FEWEST, "seed": 0, "updates": 0}.get(one.name, 1)
            if isinstance(value, bool) or not isinstance(value, kind) or (whole and value < least):
                bound = f" >= {least}" if whole else ""
                raise ConfigError(f"Learning({one.name}={value!r}); expected {what}{bound}")
        if not 0 < self.target < 1000:
            raise ConfigError(f"Learning(target={self.target}); expected an error in % of the thermal velocity, > 0")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ConfigError(f"Learning(learning_rate={self.learning_rate}); expected a number between 0 and 1")
        if not 0 < self.audits < 1:
            raise ConfigError(f"Learning(audits={self.audits}); expected a share of the time between 0 and 1")
        if self.memory < self.first:
            raise ConfigError(f"Learning(memory={self.memory}) holds fewer pairs than first={self.first}; give more")

    def differences(self, other: Learning) -> list[str]:
        """In words, what is another value in ``other``."""
        names = [one.name for one in fields(self)]
        return [
            f"{name} was {getattr(self, name)!r}, is now {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]
