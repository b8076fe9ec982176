"""Data sets of charged systems: training, validation and test, simulated by several processes, kept in a file."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...._progress import progress_bar
from ....errors import DataError
from ..rotation import random_rotation
from .complexes import draw_sizes
from .file import read_charged_systems, write_charged_systems
from .simulate import Composition, simulate

SPLITS = ("train", "valid", "test")
_PAIRS = 160_000  # pairs of particles simulated together: what fills a second-level cache
_LARGEST_BATCH = 256
_SIZES = len(SPLITS)  # beside the numbers of the splits, for what a data set draws once


@dataclass(frozen=True)
class ChargedSystemsRecipe:
    """Everything that decides the numbers of a data set.

    Attributes
    ----------
    compositions : tuple of Composition
        Types of systems; each system draws one with equal chance.
    systems : tuple of three int
        Systems for training, validation and test.
    frames : tuple of two int
        Frame of the input and of the target.
    seed : int
    """

    compositions: tuple[Composition, ...]
    systems: tuple[int, int, int] = (5000, 2000, 2000)
    frames: tuple[int, int] = (30, 40)
    seed: int = 43

    def __post_init__(self) -> None:
        if not self.compositions or min(self.systems) < 1 or len(self.systems) != 3:
            raise DataError(
                f"a data set of {self.systems} systems of {len(self.compositions)} types cannot be made; expected "
                "at least one type and one system each for training, validation and test"
            )

    @classmethod
    def nbody(
        cls,
        isolated: int = 100,
        sticks: int = 0,
        hinges: int = 0,
        *,
        systems: Sequence[int] | None = None,
        seed: int = 43,
    ) -> ChargedSystemsRecipe:
        """Free particles, sticks and hinges; by default the 100-body data set of FastEGNN."""
        counts = (5000, 2000, 2000) if systems is None else _three(systems)
        return cls((Composition(isolated, sticks, hinges),), counts, seed=seed)

    @classmethod
    def mcomplex(
        cls, complexes: int, average: int, types: int = 1, *, systems: Sequence[int] | None = None, seed: int = 43
    ) -> ChargedSystemsRecipe:
        """M-complex systems of EGHN, (M, N/M) in its tables: *single* with one type, *multiple* with five."""
        sizes = draw_sizes(_generator(seed, _SIZES, 0), complexes, average, types)
        counts = (2000, 2000, 2000) if systems is None else _three(systems)
        return cls(tuple(Composition(complexes=one) for one in sizes), counts, frames=(10, 25), seed=seed)


@dataclass(eq=False)
class ChargedSystems:
    """Systems of one split, all of their particles one after the other.

    Attributes
    ----------
    x, v, target : ndarray of float32, shape (sum of N, 3)
        Positions and velocities of the first frame, positions of the second.
    charges : ndarray of float32, shape (sum of N,)
    bodies : ndarray of int64, shape (sum of N,)
        Rigid body, stick or hinge of each particle, counted within its system.
    counts : ndarray of int64, shape (systems,)
        Particles of each system.
    """

    x: np.ndarray
    v: np.ndarray
    target: np.ndarray
    charges: np.ndarray
    bodies: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])

    def __len__(self) -> int:
        return len(self.counts)


def charged_systems(
    recipe: ChargedSystemsRecipe,
    path: str | os.PathLike[str] | None = None,
    *,
    processes: int = 1,
    progress: bool = True,
) -> dict[str, ChargedSystems]:
    """Simulate a data set, or read it where it was simulated before.

    Parameters
    ----------
    recipe : ChargedSystemsRecipe
    path : path, optional
        HDF5 file to keep the data set in, and to read it from if it is there.
    processes : int
        Processes that share the work; the numbers do not depend on it.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of ChargedSystems
        ``train``, ``valid`` and ``test``. Each test system is turned by a random rotation of its own, as published:
        an equivariant network does not notice, another one does.

    Raises
    ------
    DataError
        If the file is of another recipe, damaged or cannot be written, or a process ended.
    """
    if path is not None and Path(path).exists():
        return {name: ChargedSystems(**arrays) for name, arrays in read_charged_systems(path, repr(recipe)).items()}
    particles = max(one.particles for one in recipe.compositions)
    batch = len(recipe.compositions) * min(_LARGEST_BATCH, max(1, _PAIRS // particles**2))
    jobs = [
        (split, begin, min(batch, total - begin))
        for split, total in enumerate(recipe.systems)
        for begin in range(0, total, batch)
    ]
    found: dict[tuple[int, int, int], list[dict[str, np.ndarray]]] = {}
    with progress_bar(
        total=sum(recipe.systems), desc="simulate", unit="system", disable=not progress, delay=2, smoothing=0.0
    ) as bar:
        for job, systems in _finished(recipe, jobs, processes):
            found[job] = systems
            bar.update(job[2])
    parts: dict[str, dict[str, np.ndarray]] = {}
    for split, name in enumerate(SPLITS):
        ordered = [one for job in jobs if job[0] == split for one in found[job]]
        parts[name] = {key: np.concatenate([one[key] for one in ordered]) for key in ordered[0]}
    if path is not None:
        write_charged_systems(path, repr(recipe), parts)
    return {name: ChargedSystems(**arrays) for name, arrays in parts.items()}


def _finished(
    recipe: ChargedSystemsRecipe, jobs: list[tuple[int, int, int]], processes: int
) -> Iterator[tuple[tuple[int, int, int], list[dict[str, np.ndarray]]]]:
    if processes == 1:
        for job in jobs:
            yield job, simulate_batch(recipe, *job)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    pool = ProcessPoolExecutor(processes, mp_context=context)
    try:
        running = {pool.submit(simulate_batch, recipe, *job): job for job in jobs}
        for future in as_completed(running):
            yield running[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process of the simulation ended; a script that asks for several needs "
            "'if __name__ == \"__main__\":', and memory for each; use processes=1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def simulate_batch(recipe: ChargedSystemsRecipe, split: int, begin: int, count: int) -> list[dict[str, np.ndarray]]:
    """Systems ``begin`` to ``begin + count`` of a split, in order."""
    generators = [_generator(recipe.seed, split, begin + index) for index in range(count)]
    types = [int(rng.integers(len(recipe.compositions))) for rng in generators]
    systems: list[dict[str, np.ndarray]] = [{}] * count
    for kind, composition in enumerate(recipe.compositions):
        mine = [index for index in range(count) if types[index] == kind]
        if not mine:
            continue
        run = simulate(composition, [generators[index] for index in mine], recipe.frames)
        for row, index in enumerate(mine):
            turn = random_rotation(generators[index]) if SPLITS[split] == "test" else np.eye(3)
            systems[index] = {
                "x": (run.positions[row, 0] @ turn.T).astype(np.float32),
                "v": (run.velocities[row, 0] @ turn.T).astype(np.float32),
                "target": (run.positions[row, 1] @ turn.T).astype(np.float32),
                "charges": run.charges[row].astype(np.float32),
                "bodies": composition.bodies,
                "counts": np.array([composition.particles]),
            }
    return systems


def _generator(seed: int, split: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(split, index))))


def _three(systems: Sequence[int]) -> tuple[int, int, int]:
    if len(systems) != 3:
        raise DataError(f"systems={tuple(systems)}; expected three numbers: training, validation, test")
    return int(systems[0]), int(systems[1]), int(systems[2])
