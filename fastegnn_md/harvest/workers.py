"""Who runs the bursts: this process, processes of its own, or an executor of the user's with workers anywhere.

Work is handed out, and results are taken, by the caller alone: workers are sent a recipe and starting points, send
bursts back, and write nothing. What was lost with a worker is run again from the same starting points.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.reduction import ForkingPickler

from ..errors import DataError, FastEGNNMDError, Remedy
from .bursts import Burst, BurstRecipe, BurstRunner, Start
from .plan import is_positive

AHEAD = 64  # tasks that an executor is given at a time, where nothing else is said
_TASK_SECONDS = 0.5  # of work that are sent to a worker at once, where bursts are shorter
_TASK_BURSTS = 100
_PACKAGE = "fastegnn-md"
_TRIES = 3  # of a task that comes back without its bursts


@dataclass(frozen=True)
class Workers:
    """Who runs the bursts.

    Attributes
    ----------
    processes : int
        1: this process, where there is no executor. More: processes of its own. With an executor: how many tasks it is
        given at a time.
    executor : Executor or None
        The user's; it is left running.
    """

    processes: int
    executor: Executor | None = None

    @classmethod
    def make(cls, processes: int | None, executor: Executor | None) -> Workers:
        """Check what the user gave.

        Raises
        ------
        DataError
            If ``processes`` is no whole number above 0, or ``executor`` no :class:`concurrent.futures.Executor`.
        """
        if processes is not None and (not is_positive(processes) or processes != int(processes)):
            raise DataError(f"processes is {processes!r}; expected a whole number, 1 or more")
        if executor is not None and not isinstance(executor, Executor):
            raise DataError(
                f"executor is a {type(executor).__name__}; expected a concurrent.futures.Executor, which a dask Client "
                "has as client.get_executor()"
            )
        return cls(processes or (1 if executor is None else AHEAD), executor)

    @property
    def alone(self) -> bool:
        """Whether this process does the work itself."""
        return self.executor is None and self.processes == 1

    def check(self, recipe: BurstRecipe) -> None:
        """Refuse an engine that cannot be sent, before anything is computed.

        Raises
        ------
        DataError
            With what cannot be pickled by its name.
        """
        if self.alone:
            return
        try:
            _Engine.of(recipe)
        except Exception as error:  # whatever keeps something of the user's from being sent
            raise DataError(
                Remedy(
                    f"the engine cannot be sent to other processes ({error}); define the calculator factory at the top "
                    "level of a module, or use ",
                    "processes=1" if self.executor is None else "no executor",
                    "--processes 1" if self.executor is None else "no --scheduler",
                )
            ) from error


@dataclass(frozen=True)
class _Engine:
    """A recipe as it goes to workers, with every task.

    Packed by us: a worker that cannot import what is in there says so, where dask's would be lost without a word.
    """

    key: str  # of this call of harvest
    packed: bytes

    @classmethod
    def of(cls, recipe: BurstRecipe) -> _Engine:
        return cls(uuid.uuid4().hex, zlib.compress(ForkingPickler.dumps(recipe)))

    def build(self) -> BurstRunner:
        recipe: BurstRecipe = ForkingPickler.loads(zlib.decompress(self.packed))
        return recipe.build()


@dataclass
class _Task:
    bursts: list[int]
    starts: list[Start]
    tries: int = 0


def run_bursts(
    waiting: list[int],
    recipe: BurstRecipe,
    start: Callable[[int], Start],
    n_frames: int,
    steps_between: int,
    workers: Workers,
    runner: BurstRunner | None = None,
) -> Iterator[tuple[int, Burst]]:
    """Run bursts, in this process or by workers.

    Parameters
    ----------
    waiting : list of int
        Bursts to run.
    recipe : BurstRecipe
    start : callable
        Starting point of a burst; called in this process when there is room for its task, so that memory does not grow
        with the trajectory.
    n_frames, steps_between : int
        Frames of a burst, and engine steps between them.
    workers : Workers
    runner : BurstRunner, optional
        That of this process, if it was built before.

    Yields
    ------
    tuple of (int, Burst)
        In the order they finish, each once.

    Raises
    ------
    DataError
        If workers end or give up, or the engine cannot be sent to them.
    """
    if workers.executor is None and (workers.processes == 1 or len(waiting) < 2):
        if waiting and runner is None:
            runner = recipe.build()
        for index in waiting:
            assert runner is not None  # built above whenever something waits
            yield index, runner.run(start(index), n_frames, steps_between)
        return
    workers.check(recipe)
    if workers.executor is not None:
        engine = _Engine.of(recipe)
        _check_worker(workers.executor, engine)
        yield from _hand_out(workers.executor, workers.processes, waiting, engine, start, n_frames, steps_between)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch or OpenMM threads can hang
    processes = min(workers.processes, len(waiting))
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_watch_parent)
    try:
        yield from _hand_out(pool, processes + 1, waiting, _Engine.of(recipe), start, n_frames, steps_between)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _hand_out(
    executor: Executor,
    ahead: int,
    waiting: list[int],
    engine: _Engine,
    start: Callable[[int], Start],
    n_frames: int,
    steps_between: int,
) -> Iterator[tuple[int, Burst]]:
    """The one place where work is handed out; ``ahead`` tasks at a time."""
    running: dict[Future[tuple[list[Burst], float]], _Task] = {}
    queue, size = list(reversed(waiting)), 1

    def submit(task: _Task) -> None:
        try:
            future = executor.submit(work, engine, task.starts, n_frames, steps_between, task.tries)
        except Exception as error:  # of executors of any make
            raise DataError(_gone(executor, error)) from error
        running[future] = task

    try:
        while True:
            while queue and len(running) < ahead:
                # at the end shared evenly, so that no worker waits long for another
                count = max(1, min(size, len(queue) // ahead))
                some = [queue.pop() for _ in range(count)]
                submit(_Task(some, [start(index) for index in some]))
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    bursts, seconds = future.result()
                except FastEGNNMDError:
                    raise
                except BrokenExecutor as error:
                    raise DataError(_gone(executor, error)) from error
                except Exception as error:  # whatever an executor says of a worker that it lost
                    task.tries += 1
                    if task.tries == _TRIES:
                        raise DataError(
                            f"a burst came back {_TRIES} times without its result ({type(error).__name__}: {error}). "
                            "Workers need this package and the engine in the versions that are here. Finished bursts "
                            "are kept: the same call goes on from them"
                        ) from error
                    submit(task)
                    continue
                size = max(1, min(_TASK_BURSTS, int(_TASK_SECONDS * len(task.bursts) / max(seconds, 1e-6))))
                yield from zip(task.bursts, bursts, strict=True)
    finally:
        for future in running:
            future.cancel()


def _gone(executor: Executor, error: BaseException) -> str:
    spawned = (
        ": a script that hands work to processes needs 'if __name__ == \"__main__\":', and an ASE calculator factory "
        "must be importable"
    )
    return (
        f"the workers of the harvest are gone ({str(error) or type(error).__name__})"
        f"{spawned if isinstance(executor, ProcessPoolExecutor) else ''}. Finished bursts are kept: the same call goes "
        "on from them"
    )


def _check_worker(executor: Executor, engine: _Engine) -> None:
    """Ask one worker for its version of this package, in words that it understands without, and for the engine."""
    try:
        here, there = version(_PACKAGE), executor.submit(version, _PACKAGE).result()
    except PackageNotFoundError as error:
        raise DataError(
            f"workers of the executor have no {_PACKAGE}; start them in an environment where it is installed"
        ) from error
    except Exception as error:  # of executors of any make
        raise DataError(_gone(executor, error)) from error
    if there != here:
        raise DataError(f"workers of the executor have {_PACKAGE} {there}, this process {here}; install the same")
    try:
        executor.submit(work, engine, [], 0, 0, 0).result()
    except FastEGNNMDError:
        raise
    except Exception as error:
        raise DataError(
            f"a worker of the executor cannot make the engine ({type(error).__name__}: {error}); its packages must be "
            "installed there, and a module of your own be where the worker finds it, as by PYTHONPATH"
        ) from error


_kept = threading.local()  # of a worker: the engine it met last; calculators and Contexts belong to their thread


def work(
    engine: _Engine, starts: Sequence[Start], n_frames: int, steps_between: int, tries: int
) -> tuple[list[Burst], float]:
    """Run bursts in a worker; they, and the seconds they took. The engine is built once for all tasks that bring it.

    The ``tries`` before make it another task to executors that know tasks by their arguments, as dask does.
    """
    if getattr(_kept, "key", None) != engine.key:
        _kept.key = _kept.runner = None  # a GPU has no memory for two
        _kept.runner = engine.build()
        _kept.key = engine.key
    begun = time.monotonic()
    return [_kept.runner.run(start, n_frames, steps_between) for start in starts], time.monotonic() - begun


def _watch_parent() -> None:
    """End this worker process when the one that started it does; it would wait for work for ever."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
