"""What became of the jumps of a simulation, counted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from scipy.stats import binom

from .guards import GuardReport

MOST_REDRAWS = 0.01  # per jump
_FEWEST = 200  # jumps from which the share itself is held against it
_FEW = 5  # from which so many redraws that they are no chance are told
_BY_CHANCE = 1e-6  # probability of as many; small, as draws from one geometry are refused in a row


class RedrawWarning(UserWarning):
    """Guards refuse more draws of a stochastic map than those of a sound model."""


@dataclass
class JumpStatistics:
    """What became of the jumps of a simulation.

    Attributes
    ----------
    tried, accepted : int
        Jumps.
    rejected : dict of str to int
        Refused jumps by guard; of stochastic maps those whose last redraw was refused as well.
    redrawn : dict of str to int
        Refused draws of stochastic maps that another draw replaced, by guard.
    fallback_steps, relax_steps : int
        Classical sub-steps in place of refused jumps, and after jumps that redraw velocities.
    audits : int
        Jumps after which the engine was asked for the total energy.
    volume_moves, volume_accepted : int
        Changes of the volume that a barostat of ours tried, and of these accepted.
    """

    tried: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    redrawn: dict[str, int] = field(default_factory=dict)
    fallback_steps: int = 0
    relax_steps: int = 0
    audits: int = 0
    volume_moves: int = 0
    volume_accepted: int = 0
    _sum: float = field(default=0.0, repr=False)  # of the changes of the total energy, in kT, and of their squares
    _squares: float = field(default=0.0, repr=False)
    _per_kt: float = field(default=0.0, repr=False)  # heating for each kT of energy_change; 0: nobody knows

    def __add__(self, other: JumpStatistics) -> JumpStatistics:
        """Counts of two simulations of one system and thermostat together."""
        sums: dict[str, Any] = {}
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            sums[one.name] = dict(Counter(mine) + Counter(theirs)) if isinstance(mine, dict) else mine + theirs
        return JumpStatistics(**sums | {"_per_kt": self._per_kt or other._per_kt})

    @property
    def energy_change(self) -> tuple[float, float]:
        """Mean change of the total energy over an audited jump and its standard error, in kT of the whole system.

        nan where there are too few audits.
        """
        if not self.audits:
            return math.nan, math.nan
        mean = self._sum / self.audits
        if self.audits == 1:
            return mean, math.nan
        variance = max(0.0, self._squares - self.audits * mean**2) / (self.audits - 1)
        return mean, math.sqrt(variance / self.audits)

    @property
    def heating(self) -> tuple[float, float]:
        """How much hotter than its thermostat jumps keep the system, as a share of the temperature, and its error.

        What jumps bring in on average, ΔE, is in balance with what the thermostat takes away when frames are hotter by
        ΔE / (f sinh(γ Δt)) of the temperature; f degrees of freedom, γ the friction. Audits tell it far sooner
        than temperatures do. It is a mean over all motion: elements may be apart. nan without a thermostat, where
        jumps are scaled to the energy, and with classical steps between them.
        """
        if not self._per_kt:
            return math.nan, math.nan
        mean, error = self.energy_change
        return mean * self._per_kt, error * self._per_kt

    def record_audit(self, change: float, per_kt: float = 0.0) -> None:
        """Count an audit, which found this change of the total energy, in kT.

        Parameters
        ----------
        change : float
        per_kt : float
            :attr:`heating` for each kT of the mean change; 0 where its balance does not hold.
        """
        self._per_kt = per_kt
        self.audits += 1
        self._sum += change
        self._squares += change**2

    @property
    def redraws(self) -> int:
        """Refused draws of stochastic maps that another draw replaced."""
        return sum(self.redrawn.values())

    @property
    def redraw_share(self) -> float:
        """Redraws per jump; more than :data:`MOST_REDRAWS` is a failure of the model."""
        return self.redraws / self.tried if self.tried else 0.0

    def record_redraw(self, report: GuardReport) -> None:
        """Count a draw that another one replaces."""
        self.redrawn[report.guard] = self.redrawn.get(report.guard, 0) + 1

    def record(self, report: GuardReport) -> None:
        """Count a jump that was tried."""
        self.tried += 1
        if report.ok:
            self.accepted += 1
        else:
            self.rejected[report.guard] = self.rejected.get(report.guard, 0) + 1

    @property
    def too_many_redraws(self) -> bool:
        """Whether so many draws were refused that the model is to blame.

        From 200 jumps on that is so if the share is too large; from five on if a model at the limit would have as
        many by chance less than once in a million runs: 5 in 10 jumps, 10 in 100.
        """
        if self.tried < _FEW or self.redraw_share <= MOST_REDRAWS:
            return False
        draws = self.tried + self.redraws
        return self.tried >= _FEWEST or bool(binom.sf(self.redraws - 1, draws, MOST_REDRAWS) < _BY_CHANCE)

    @property
    def of_redraws(self) -> str:
        """What redraws say of the model, in words."""
        by = ", ".join(f"{count} by the {guard} guard" for guard, count in self.redrawn.items())
        return (
            f"{self.redraws} redraws in {self.tried} jumps ({self.redraw_share:.1%}; {by}): more than "
            f"{MOST_REDRAWS:.0%} is a failure of the model. Train it longer or on more data, or take it for molecules "
            "and temperatures like those of its training only"
        )
