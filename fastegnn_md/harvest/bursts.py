"""Short bursts of constant-energy dynamics in the user's own engine, with velocities of the time of the frame.

A *recipe* is what travels to worker processes: strings and arrays. A *runner* is what a worker builds from it once
and uses for every burst. Both engines integrate with velocity Verlet, constraints by RATTLE:

    v ← v + ½ dt f(x)/m;  x ← x + dt v, projected onto the constraints, its correction over dt added to v;
    v ← v + ½ dt f(x)/m, projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Start:
    """Where a burst starts.

    Attributes
    ----------
    positions : ndarray, shape (N, 3), Å
    velocities : ndarray, shape (N, 3), Å/ps
    cell : ndarray, shape (3, 3), Å, or None
        Cell vectors in rows.
    """

    positions: np.ndarray
    velocities: np.ndarray
    cell: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Burst:
    """Frames of one burst.

    Attributes
    ----------
    positions, velocities, forces : ndarray of float32, shape (n_frames, N, 3)
        Å, Å/ps, amu Å/ps²; all of the same time, forces without those of constraints.
    energies : ndarray of float64, shape (n_frames,), amu Å²/ps²
        Total energies.
    kinetic : float, amu Å²/ps²
        Kinetic energy of the first frame.
    cell : ndarray, shape (3, 3), Å, or None
        The cell the engine used.
    error : str
        What the engine said when it gave up; all values are then NaN.
    ahead, behind : ndarray of float32, shape (n_frames, N, 3), or None
        Forces at x + v midpoint/2 and x - v midpoint/2, where the recipe has a midpoint.
    """

    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    energies: np.ndarray
    kinetic: float
    cell: np.ndarray | None
    error: str = ""
    ahead: np.ndarray | None = None
    behind: np.ndarray | None = None

    @classmethod
    def failed(cls, n_frames: int, n_atoms: int, cell: np.ndarray | None, error: BaseException, both: bool) -> Burst:
        """A burst that blew up: the others need not suffer from it; ``both``: with forces ahead and behind."""
        nothing = np.full((n_frames, n_atoms, 3), np.nan, dtype=np.float32)
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        beside = nothing if both else None
        return cls(nothing, nothing, nothing, np.full(n_frames, np.nan), np.nan, cell, text, beside, beside)


def midpoint_mark(midpoint: float | None) -> str:
    """What a midpoint adds to the text behind a fingerprint; nothing to that of a harvest without one."""
    return "" if midpoint is None else f" midpoint {midpoint!r}"


class BurstRunner(Protocol):
    """Runs bursts one after the other.

    Attributes
    ----------
    about : dict
        ``theory`` of the forces, total ``charge`` (e) and ``multiplicity``, as far as the engine says them.
    """

    about: dict[str, Any]

    def run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        """One burst of ``n_frames`` frames, the first being the start with its constraints satisfied."""
        ...

    def forces(self, x: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
        """Forces (N, 3) in amu Å/ps² without those of constraints, NaN where the engine gives up; x and cell in Å."""
        ...

    def reset(self) -> None:
        """Forget what was computed, so that the next burst is that of a new runner bit by bit."""
        ...


class BurstRecipe(Protocol):
    """All a worker needs to build a runner; sent to it by value.

    Attributes
    ----------
    name : str
        The engine.
    masses : ndarray, shape (N,), amu
        Masses the engine uses.
    n_constraints : int
    bonds : ndarray of int64, shape (M, 2), or None
        Bonds the engine knows of.
    periodic : bool or None
        Whether the engine is periodic, None if the frames decide.
    midpoint : float or None, ps
        Lag for which forces at x ± v midpoint/2 are evaluated as well.
    fingerprint : str
        SHA-256 of everything that decides the frames.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def masses(self) -> np.ndarray: ...  # noqa: D102
    @property
    def n_constraints(self) -> int: ...  # noqa: D102
    @property
    def bonds(self) -> np.ndarray | None: ...  # noqa: D102
    @property
    def periodic(self) -> bool | None: ...  # noqa: D102
    @property
    def midpoint(self) -> float | None: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def build(self) -> BurstRunner:
        """Make a runner in this process."""
        ...
