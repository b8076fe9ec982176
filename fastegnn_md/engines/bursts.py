"""Short bursts of constant-energy dynamics in the user's own engine, with velocities of the time of the frame.

A *recipe* is what travels to worker processes: strings and arrays. A *runner* is what a worker builds from it once
and uses for every burst. Both engines integrate with velocity Verlet, constraints by RATTLE:

    v ← v + ½ dt f(x)/m;  x ← x + dt v, projected onto the constraints, its correction over dt added to v;
    v ← v + ½ dt f(x)/m, projected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from openmm import System


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
    """Runs bursts one after the other."""

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


def burst_recipe(
    engine: System | Callable[[], Any],
    *,
    numbers: np.ndarray,
    masses: np.ndarray,
    timestep: float,
    first: Start,
    midpoint: float | None = None,
    platform: str | None = None,
    constraints: Sequence[Any] = (),
) -> BurstRecipe:
    """Find out which engine was given and check it against the atoms.

    Parameters
    ----------
    engine : openmm.System or callable
        An OpenMM System, or a function without arguments that returns an ASE calculator. The function must be
        importable by worker processes: defined at the top level of a module.
    numbers, masses : ndarray, shape (N,)
        Atomic numbers and masses (amu) of the topology.
    timestep : float, ps
    first : Start
        First starting point.
    midpoint : float, ps, optional
        Evaluate forces at x ± v midpoint/2 as well.
    platform : str, optional
        OpenMM platform.
    constraints : sequence of ase.constraints.FixBondLengths
        Constraints of the ASE engine.

    Raises
    ------
    DataError
        If the engine is none of the two, has another number of atoms, or does not keep the energy.
    """
    if not callable(engine) and hasattr(engine, "getNumParticles"):
        if len(constraints):
            raise DataError("an OpenMM System brings its own constraints; leave constraints out")
        from .bursts_openmm import openmm_recipe

        return openmm_recipe(
            engine,
            numbers=numbers,
            masses=masses,
            timestep=timestep,
            midpoint=midpoint,
            first=first,
            platform=platform,
        )
    if callable(engine):
        if platform is not None:
            raise DataError("platform is for OpenMM Systems; this engine is an ASE calculator factory")
        from .bursts_ase import ase_recipe

        return ase_recipe(
            engine,
            numbers=numbers,
            masses=masses,
            timestep=timestep,
            midpoint=midpoint,
            first=first,
            constraints=constraints,
        )
    raise DataError(
        f"engine is a {type(engine).__name__}; expected an OpenMM System, or a function that returns an ASE calculator "
        "(not the calculator itself: every process builds its own)"
    )


def run_bursts(
    runner: BurstRunner, starts: Sequence[Start], n_frames: int, steps_between: int
) -> dict[str, np.ndarray]:
    """Run bursts one after the other and stack them.

    Parameters
    ----------
    runner : BurstRunner
    starts : sequence of Start
    n_frames, steps_between : int
        Frames of a burst, and engine steps between them.

    Returns
    -------
    dict of ndarray
        ``positions``, ``velocities``, ``forces`` (B, n_frames, N, 3), ``energies`` (B, n_frames), ``kinetic`` (B,),
        ``errors`` (B,), ``cells`` (B, 3, 3) where periodic, ``ahead`` and ``behind`` (B, n_frames, N, 3) where asked
        for; units as in :class:`Burst`.
    """
    bursts = [runner.run(start, n_frames, steps_between) for start in starts]
    names = ["positions", "velocities", "forces", "energies", "kinetic"]
    names += [] if bursts[0].ahead is None else ["ahead", "behind"]
    arrays = {name: np.stack([getattr(one, name) for one in bursts]) for name in names}
    arrays["errors"] = np.array([one.error for one in bursts], dtype=np.str_)
    if bursts[0].cell is not None:
        arrays["cells"] = np.stack([one.cell for one in bursts])  # type: ignore[misc]
    return arrays


_runner: BurstRunner | None = None  # of a worker process, built once


def start_worker(recipe: BurstRecipe) -> None:
    """Build the runner of this worker process."""
    global _runner
    _runner = recipe.build()


def work(starts: Sequence[Start], n_frames: int, steps_between: int) -> dict[str, np.ndarray]:
    """:func:`run_bursts` in a worker process."""
    if _runner is None:
        raise RuntimeError("start_worker has not run in this process")
    return run_bursts(_runner, starts, n_frames, steps_between)
