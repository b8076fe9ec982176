"""What a demo is told, and what it measures for its report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..training.one_step import Errors

if TYPE_CHECKING:
    from ..integrators import JumpStatistics


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo; times in ps, temperature in K, friction in 1/ps."""

    updates: int = 1500
    batch_size: int = 32
    jumps: int = 1000
    seed: int = 0
    temperature: float = 300.0
    friction: float = 10.0
    classical_step: float = 0.002
    equilibration: int = 5000
    frame_every: int = 25
    frames: int = 6000
    lag: str = "8 fs"
    burst: str = "32 fs"
    pairs_per_burst: int = 4
    split: tuple[float, float, float] = (0.9, 0.03, 0.07)


@dataclass
class LearnedRun:
    """A run of learned dynamics.

    Attributes
    ----------
    energy : ndarray, shape (jumps + 1,), kJ/mol
        Potential energy.
    temperature, reference_temperature : dict of str to float
        2 K / 3 N k_B of each element, not corrected for constraints, in K; of the run, and of Maxwell-Boltzmann
        velocities on the constraints.
    statistics : JumpStatistics
    ms_per_jump : float
        Everything included.
    topology, trajectory : Path
    """

    energy: np.ndarray
    temperature: dict[str, float]
    reference_temperature: dict[str, float]
    statistics: JumpStatistics
    ms_per_jump: float
    topology: Path
    trajectory: Path


@dataclass
class DemoResult:
    """What a demo run measured, for its report."""

    settings: DemoSettings
    seconds: dict[str, float] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    histories: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    errors: dict[str, dict[str, Errors]] = field(default_factory=dict)
    reference_energy: np.ndarray = field(default_factory=lambda: np.empty(0))
    chosen: str = ""
    run: LearnedRun | None = None
    classical_ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say on the terminal that it begins."""
        print(f"== {name}", flush=True)
        begun = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - begun
