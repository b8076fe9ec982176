"""Finished bursts of a harvest on disk, and the processes that run the others."""

from __future__ import annotations

import io
import multiprocessing
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..files import write_atomically
from .store import write_error

if TYPE_CHECKING:
    from ..engines.bursts import BurstRecipe, BurstRunner, Start

Arrays = dict[str, np.ndarray]

_PART_BYTES = 16_000_000
_PART_BURSTS = 100


class Parts:
    """Bursts of groups of frames, one file per group, in a folder beside the store.

    Parameters
    ----------
    store : path
        The store the parts will be merged into.
    fingerprint : str
        Settings of the harvest; parts of other settings are not seen.
    frames : list of int
        Starting frames.
    bytes_per_burst : int
        Size of a burst, to choose the size of a group.

    Raises
    ------
    DataError
        If the folder cannot be made.
    """

    def __init__(self, store: Path, fingerprint: str, frames: list[int], bytes_per_burst: int):
        self.store = store
        self.folder = store.with_name(f"{store.name}.parts")
        self._prefix = fingerprint[:16]
        size = max(1, min(_PART_BURSTS, _PART_BYTES // bytes_per_burst))
        self.groups = [frames[i : i + size] for i in range(0, len(frames), size)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(store, error) from error

    def path(self, index: int) -> Path:
        """File of one group."""
        return self.folder / f"{self._prefix}-{index:06d}.npz"

    def read(self, index: int) -> Arrays | None:
        """Arrays of a finished group, None if it has to be run."""
        path = self.path(index)
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                part = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        return part if len(part.get("energies", ())) == len(self.groups[index]) else None

    def finished(self, index: int) -> Arrays:
        """Arrays of a group that must be there.

        Raises
        ------
        DataError
            If it is not.
        """
        part = self.read(index)
        if part is None:
            raise DataError(f"{str(self.path(index))!r} was removed or damaged during the harvest; call harvest again")
        return part

    def write(self, index: int, arrays: Arrays) -> None:
        """Keep the bursts of a group.

        Raises
        ------
        DataError
            If the disk is full or the folder read-only.
        """
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        try:
            write_atomically(self.path(index), content.getvalue())
        except OSError as error:
            raise write_error(self.store, error) from error


def run_groups(
    waiting: list[int],
    recipe: BurstRecipe,
    starts: Callable[[int], list[Start]],
    n_frames: int,
    steps_between: int,
    processes: int,
    runner: BurstRunner | None = None,
) -> Iterator[tuple[int, Arrays]]:
    """Run groups of bursts, in this process or in others.

    Parameters
    ----------
    waiting : list of int
        Groups to run.
    recipe : BurstRecipe
    starts : callable
        Starting points of a group; called in this process when a worker is free, so that memory does not grow with the
        trajectory.
    n_frames, steps_between : int
        Frames of a burst, and engine steps between them.
    processes : int
    runner : BurstRunner, optional
        That of this process, if it was built before.

    Yields
    ------
    tuple of (int, dict of ndarray)
        Group and its bursts, in the order they finish.

    Raises
    ------
    DataError
        If a worker ends or the engine cannot be sent to it.
    """
    from ..engines.bursts import run_bursts, start_worker, work

    if processes == 1 or len(waiting) < 2:
        if waiting and runner is None:
            runner = recipe.build()
        for index in waiting:
            assert runner is not None  # built above whenever something waits
            yield index, run_bursts(runner, starts(index), n_frames, steps_between)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch or OpenMM threads can hang
    workers = min(processes, len(waiting))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(recipe,))
    running: dict[Future[Arrays], int] = {}
    queue = list(reversed(waiting))
    try:
        while True:
            while queue and len(running) < workers + 1:
                index = queue.pop()
                running[pool.submit(work, starts(index), n_frames, steps_between)] = index
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(future)
                yield index, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process of the harvest ended at its start or in its work; a script that calls harvest with "
            "processes > 1 needs 'if __name__ == \"__main__\":', and an ASE calculator factory must be importable. "
            "Finished bursts are kept: the same call goes on from them"
        ) from error
    except (AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise DataError(
            f"the engine cannot be sent to other processes ({error}); define the calculator factory at the top level "
            "of a module, or use processes=1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
