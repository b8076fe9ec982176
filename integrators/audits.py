"""Audits: at jumps drawn by chance the engine says by how much the total energy changed, in kT."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from scipy import stats

from fastegnn_md.errors import JumpError

_MOST = 0.1  # of jumps: more tells little more, however cheap the engine
_WINDOW = 100  # audits of which the mean is watched: a run may leave its home late
_CONFIDENCE = 0.99
_FEWEST = 3  # audits for a mean
_FEWEST_SPREAD = 10  # and for a spread
_OUTLIER = 10  # times the limit of the mean, in one jump
_PAUSE = 20  # jumps that classical steps replace after a bad verdict
_STRIKES = 3  # bad verdicts that end a run

_FAR_FROM_HOME = (
    "The propagator is wrong about this system or state: train it on frames like these (harvest from this run), take a "
    "shorter time step, or run classically"
)


class AuditWarning(UserWarning):
    """Audits find that jumps change the total energy."""


@dataclass
class Audits:
    """When to audit, what was found, and the verdict.

    The first jump is audited; of the others so many, drawn by chance, that audits take ``share`` of the time at most,
    and a tenth of them at most. A jump of the true dynamics leaves the total energy as it is. The run is out of bounds
    if the mean change per jump is beyond 1 kT, or 1 % of kT per degree of freedom if that is more, or if the changes
    scatter by more than a quarter of the square root of the degrees of freedom; each with 99 % confidence, over the
    last hundred audits. One change of ten times the limit of the mean is enough.

    Parameters
    ----------
    share : float
        Of the time.

    Attributes
    ----------
    paused : int
        Jumps still to be replaced after a bad verdict.
    strikes : int
        Bad verdicts so far.
    """

    share: float
    paused: int = 0
    strikes: int = 0
    clock: Callable[[], float] = time.perf_counter
    _changes: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW), repr=False)
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0), repr=False)
    _begun: float | None = None
    _asked: int = 0
    _spent: float = 0.0
    _made: int = 0

    def due(self) -> bool:
        """Whether to audit the present jump."""
        now = self.clock()
        if self._begun is None:
            self._begun = now
        asked, self._asked = self._asked, self._asked + 1
        drawn = self._rng.random()
        if not self._made:
            return True
        step = (now - self._begun - self._spent) / max(1, asked)
        cost = self._spent / self._made
        affordable = self.share / (1 - self.share) * step / cost if cost > 0 else 1.0
        return drawn < min(_MOST, affordable)

    @property
    def changes(self) -> list[float]:
        """Of the total energy, in kT, that the verdict is about."""
        return list(self._changes)

    def pauses(self) -> bool:
        """Whether the present jump is one of those that classical steps replace; counts it."""
        if not self.paused:
            return False
        self.paused -= 1
        return True

    def record(self, change: float, seconds: float) -> None:
        """Take in a change of the total energy, in kT, and what it took to find."""
        self._changes.append(change)
        self._made += 1
        self._spent += seconds

    def verdict(self, degrees: int) -> str | None:
        """What is wrong, or None.

        Parameters
        ----------
        degrees : int
            Degrees of freedom of the system.
        """
        changes = np.array(self._changes)
        count = len(changes)
        if not np.isfinite(changes).all():
            return "the total energy is not finite after a jump"
        bound = max(1.0, 0.01 * degrees)
        if count and abs(changes[-1]) > _OUTLIER * bound:
            return f"the total energy changed by {changes[-1]:.3g} kT in one jump, limit {_OUTLIER * bound:.3g}"
        if count < _FEWEST:
            return None
        mean, deviation = float(changes.mean()), float(changes.std(ddof=1))
        error = _students(count) * deviation / math.sqrt(count)
        if abs(mean) - error > bound:
            return (
                f"the total energy changes by {mean:.3g} ± {error:.2g} kT per jump ({count} audits), limit {bound:.3g}"
            )
        widest = 0.25 * math.sqrt(degrees)
        if count >= _FEWEST_SPREAD:
            lowest = deviation * math.sqrt((count - 1) / _chi_square(count))
            if lowest > widest:
                return f"changes of the total energy scatter by {deviation:.3g} kT ({count} audits), limit {widest:.3g}"
        return None

    def act(self, degrees: int, *, may_pause: bool) -> None:
        """Do what the verdict asks for: nothing, a pause, or the end of the run.

        Parameters
        ----------
        degrees : int
            As in :meth:`verdict`.
        may_pause : bool
            Whether classical steps may take the place of jumps.

        Raises
        ------
        JumpError
            If audits are out of bounds and jumps may not be replaced, or for the third time.

        Warns
        -----
        AuditWarning
            If they are out of bounds.
        """
        found = self.verdict(degrees)
        if found is None:
            return
        self.strikes += 1
        if not may_pause or self.strikes >= _STRIKES:
            raise JumpError(f"the audits end the run: {found}. {_FAR_FROM_HOME}")
        self.paused = _PAUSE
        self._changes.clear()
        warnings.warn(
            f"{found}. The next {self.paused} jumps are replaced by classical steps. {_FAR_FROM_HOME}",
            AuditWarning,
            stacklevel=3,
        )


@cache
def _students(count: int) -> float:
    """Of so many audits the quantile for both ends of their mean. SciPy takes as long as some jumps for it."""
    return float(stats.t.ppf(0.5 + 0.5 * _CONFIDENCE, count - 1))


@cache
def _chi_square(count: int) -> float:
    """The same for the lower end of their spread."""
    return float(stats.chi2.ppf(_CONFIDENCE, count - 1))
