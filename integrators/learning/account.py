"""What learning has cost and saved so far, and its course in rows whose number does not grow with the run."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.data.ase_files import FROZEN as FROZEN

with naming_extras(__name__):
    from ase import Atoms, units

_RECENT = 500  # steps that the share of jumps is of
_SHARES = (1 / 10, 1 / 20, 1 / 50, 1 / 100, 1 / 200)  # of jumps that are audited
_ROWS = 1000  # of the course; then two neighbours become one
LEARNING, JUMPING = "learning", "jumping"
SEGMENT, AUDIT, REFUSED, JUMP = "segment", "audit", "refused", "jump"  # what a step was


@dataclass
class Row:
    """Means over some steps.

    Attributes
    ----------
    steps, jumps : int
    error, upper : float
        Running error and the upper end of its interval at the last of them, %; nan where there is none.
    wall : float
        Seconds since the beginning of the run at the last of them, without moves of the volume.
    kelvin : list of float
        Temperature of each element, K.
    """

    steps: int
    jumps: int
    error: float
    upper: float
    wall: float
    kelvin: list[float]

    def merged(self, later: Row) -> Row:
        """Both as one."""
        steps = self.steps + later.steps
        kelvin = [(a * self.steps + b * later.steps) / steps for a, b in zip(self.kelvin, later.kelvin, strict=True)]
        return Row(steps, self.jumps + later.jumps, later.error, later.upper, later.wall, kelvin)


@dataclass
class Account:
    """Times by the clock, and the course.

    Attributes
    ----------
    segments, jumps, audits, refused : int
        Classical segments in all; jumps that count; of the segments those that were audits, and those in place of
        refused jumps.
    segment_seconds, jump_seconds, training_seconds, volume_seconds : float
        Segments with their calls, jumps with theirs, exams with training, and a barostat's moves of the volume.
    """

    segments: int = 0
    jumps: int = 0
    audits: int = 0
    refused: int = 0
    segment_seconds: float = 0.0
    jump_seconds: float = 0.0
    training_seconds: float = 0.0
    volume_seconds: float = 0.0
    returns: int = 0
    stride: int = 1
    rows: list[Row] = field(default_factory=list)
    _recent: deque[bool] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _open: Row | None = None

    @property
    def steps(self) -> int:
        """Of both kinds."""
        return self.segments + self.jumps

    @property
    def wall(self) -> float:
        """Seconds of everything."""
        return self.segment_seconds + self.jump_seconds + self.training_seconds + self.volume_seconds

    @property
    def recent_share(self) -> float:
        """Share of jumps in the last 500 steps."""
        return float(np.mean(self._recent)) if self._recent else 0.0

    @property
    def segment(self) -> float:
        """Mean seconds of a classical segment; nan without any."""
        return self.segment_seconds / self.segments if self.segments else math.nan

    @property
    def classical(self) -> float:
        """Seconds that classical segments would have taken for all steps, with the same moves of the volume."""
        return self.steps * self.segment + self.volume_seconds

    def audited_jumps(self, share: float) -> float:
        """Share of jumps to audit, one of five: the clock's moods must not decide the course of a run.

        Parameters
        ----------
        share : float
            Of the time, that audits may take.
        """
        if not self.jumps:
            return _SHARES[0]
        jump = self.jump_seconds / self.jumps
        audit = self.segment + self.training_seconds / self.segments  # its pair is learned
        most = share / (1 - share) * jump / audit
        return next((one for one in _SHARES if one <= most), _SHARES[-1])

    @property
    def pays_after(self) -> float:
        """Steps from the beginning after which the run is as fast as a classical one; inf if never at this rate.

        A run that has paid: the number of steps at which it did, from the course.
        """
        if self.wall <= self.classical:
            return float(self._paid_at())
        rate = self._rate()
        if not rate < self.segment:
            return math.inf
        return self.steps + (self.wall - self.classical) / (self.segment - rate)

    def _rate(self) -> float:
        """Seconds of a step at the end of the course: of jumps, audits and training as they are now."""
        if len(self.rows) < 2:
            return math.nan
        last = self.rows[-max(2, len(self.rows) // 10) :]
        steps = sum(one.steps for one in last[1:])
        return (last[-1].wall - last[0].wall) / steps

    def _paid_at(self) -> int:
        done, late = 0, 0
        for row in self.rows:
            done += row.steps
            if row.wall > done * self.segment:
                late = done
        return late

    def count(self, kind: str, seconds: float) -> None:
        """Count a step of a kind and its time, training not included."""
        if kind == JUMP:
            self.jumps += 1
            self.jump_seconds += seconds
            return
        self.segments += 1
        self.segment_seconds += seconds
        self.audits += kind == AUDIT
        self.refused += kind == REFUSED

    def record(self, jumped: bool, error: float, upper: float, kelvin: list[float]) -> None:
        """Count a step in the course."""
        self._recent.append(jumped)
        row = Row(1, int(jumped), error, upper, self.wall - self.volume_seconds, kelvin)
        self._open = row if self._open is None else self._open.merged(row)
        if self._open.steps >= self.stride:
            self.rows.append(self._open)
            self._open = None
        if len(self.rows) >= _ROWS:
            pairs = zip(self.rows[::2], self.rows[1::2], strict=True)
            self.rows = [first.merged(second) for first, second in pairs]
            self.stride *= 2

    def state(self) -> dict[str, Any]:
        """For a restart file."""
        plain = asdict(self)
        plain["rows"] = [_plain(one) for one in self.rows]
        plain["_open"] = None if self._open is None else _plain(self._open)
        plain["_recent"] = [int(one) for one in self._recent]
        return plain

    @classmethod
    def of(cls, state: dict[str, Any]) -> Account:
        """Undo :meth:`state`."""
        values = dict(state)
        rows = [_row(one) for one in values.pop("rows")]
        opened, recent = values.pop("_open"), values.pop("_recent")
        made = cls(**values, rows=rows)
        made._open = None if opened is None else _row(opened)
        made._recent.extend(bool(one) for one in recent)
        return made


def temperatures(atoms: Atoms) -> dict[int, float]:
    """Kinetic temperature in K of each element, by its atomic number; in the order of those of a :class:`Row`."""
    numbers, of = np.unique(atoms.numbers, return_inverse=True)
    kinetic = (atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses()
    kelvin = np.bincount(of, weights=kinetic) / (3 * np.bincount(of)) / units.kB
    return dict(zip(numbers.tolist(), kelvin.tolist(), strict=True))


def _plain(row: Row) -> list[Any]:
    finite = [None if not math.isfinite(value) else value for value in (row.error, row.upper)]
    return [row.steps, row.jumps, *finite, row.wall, row.kelvin]


def _row(plain: list[Any]) -> Row:
    steps, jumps, error, upper, wall, kelvin = plain
    return Row(
        steps,
        jumps,
        math.nan if error is None else float(error),
        math.inf if upper is None else float(upper),
        float(wall),
        [float(one) for one in kelvin],
    )
