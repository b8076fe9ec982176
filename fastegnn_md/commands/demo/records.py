"""What a demo is told, and what each of its steps measures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...integrators.statistics import JumpStatistics
from ...report.page import Table


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo.

    Attributes
    ----------
    frames, updates, copper_jumps : int
        Copper: frames of its trajectory, 20 fs apart; updates of the training; jumps of 40 fs.
    molecule_steps, molecule_jumps : int
        Aspirin: classical steps of 1 fs, jumps of 4 fs.
    classical_ps, replicas, replica_jumps
        Alanine dipeptide: classical dynamics; copies, and jumps of 10 ps of each.
    seed : int
        Of velocities, thermostats and the training.
    """

    frames: int = 750
    updates: int = 1000
    copper_jumps: int = 1000
    molecule_steps: int = 2000
    molecule_jumps: int = 1000
    classical_ps: int = 1000
    replicas: int = 64
    replica_jumps: int = 60
    seed: int = 0


COLOURS = {"classical": "tab:orange", "learned": "tab:blue", "with learning": "tab:cyan"}

QUICK = DemoSettings(
    frames=100,
    updates=40,
    copper_jumps=10,
    molecule_steps=40,
    molecule_jumps=10,
    classical_ps=20,
    replicas=3,
    replica_jumps=5,
)


@dataclass(frozen=True)
class Pace:
    """How long a stretch of dynamics took, in seconds by the clock and of this process on the processor."""

    ps: float
    seconds: float
    cpu: float

    @classmethod
    def since(cls, begun: tuple[float, float], ps: float) -> Pace:
        """Of so many ps simulated since :func:`now` was asked."""
        seconds, cpu = now()
        return cls(ps, seconds - begun[0], cpu - begun[1])

    @property
    def seconds_per_ns(self) -> float:
        """Seconds by the clock for a simulated nanosecond."""
        return 1000 * self.seconds / self.ps


def now() -> tuple[float, float]:
    """Seconds by the clock and of this process on the processor."""
    return time.perf_counter(), time.process_time()


def energy_change(statistics: JumpStatistics) -> str:
    """What audits found, in kT; one audit alone has no error."""
    mean, error = statistics.energy_change
    return f"{mean:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")


@dataclass(frozen=True)
class StepResult:
    """One step of the demo.

    Attributes
    ----------
    name, system : str
        A few words each, of the step and of what moves.
    classical, learned : Pace
        Of the engine alone, and of jumps with everything they need.
    learning : float
        Seconds of training and of what it learned from; 0 for a model that is shipped.
    physics : str
        What a check of the physics found, in one line.
    draw : callable
        Draws that check on the axes of a figure.
    reading : str
        How that figure is read, in words that a student understands.
    paragraphs, tables
        For the report.
    """

    name: str
    system: str
    classical: Pace
    learned: Pace
    physics: str
    draw: Callable[[Any], None]
    reading: str
    learning: float = 0.0
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """How many times faster jumps are, learning left out."""
        return self.classical.seconds_per_ns / self.learned.seconds_per_ns

    @property
    def cpu_gain(self) -> float:
        """The same by time on the processor, which other work on the machine does not change."""
        return self.classical.cpu / self.classical.ps * self.learned.ps / self.learned.cpu

    @property
    def pays_after_ps(self) -> float | None:
        """Simulated time after which learning has paid; None if it never does."""
        saved = (self.classical.seconds_per_ns - self.learned.seconds_per_ns) / 1000
        return self.learning / saved if saved > 0 else None
