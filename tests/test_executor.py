"""Bursts that an executor of the user runs: threads, executors that lose what they were given, a dask cluster."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.cli import main
from fastegnn_md.data import Store
from fastegnn_md.errors import DataError
from fastegnn_md.harvest import harvest
from fastegnn_md.harvest.parts import Finished

FAST: dict[str, Any] = {
    "burst": "4 fs",
    "interval": "2 fs",
    "timestep": "1 fs",
    "temperature": 30.0,
    "progress": False,
}


def frames(n_frames: int = 24) -> mda.Universe:
    """Three atoms of argon about a triangle."""
    x = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.3, 0]])
    universe = mda.Universe.empty(3, trajectory=False)
    universe.add_TopologyAttr("elements", ["Ar"] * 3)
    universe.add_TopologyAttr("names", ["Ar"] * 3)
    universe.add_TopologyAttr("masses", [39.95] * 3)
    noise = np.random.default_rng(0).normal(size=(n_frames, 3, 3))
    universe.load_new((x + 0.02 * noise).astype(np.float32), dt=1.0)
    return universe


def calculator() -> Any:
    """Lennard-Jones; a function of a module, for other processes."""
    from ase.calculators.lj import LennardJones

    return LennardJones(sigma=1.0, epsilon=0.2, rc=4.0)


def slow_calculator() -> Any:
    """The same forces, as late as those of quantum chemistry."""
    from ase.calculators.lj import LennardJones

    class Slow(LennardJones):
        def calculate(self, *arguments: Any, **keywords: Any) -> None:
            time.sleep(0.02)
            super().calculate(*arguments, **keywords)

    return Slow(sigma=1.0, epsilon=0.2, rc=4.0)


class Inline(Executor):
    """Runs a task at once; ``lose`` says which ones, counted from 0, come back with an error after they were run."""

    def __init__(self, lose: Callable[[int], BaseException | None] = lambda _: None):
        self.lose, self.tasks = lose, -2  # a worker is asked for its version and the engine first

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        result, error = fn(*args, **kwargs), self.lose(self.tasks) if self.tasks >= 0 else None
        self.tasks += 1
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
        return future


@pytest.fixture
def engine(require: Any) -> Callable[[], Any]:
    require("ase")
    return calculator


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bursts that are written, in their order."""
    indices: list[int] = []
    write = Finished.write
    monkeypatch.setattr(Finished, "write", lambda self, *burst: (indices.append(burst[0]), write(self, *burst))[1])
    return indices


@pytest.fixture
def alone(engine: Callable[[], Any], tmp_path: Path) -> np.ndarray:
    return Store(harvest(frames(), engine, store=tmp_path / "alone.h5md", **FAST)).content


def test_threads_give_the_store_of_one_process_and_stay_usable(engine, alone, tmp_path):
    built = []

    def watched() -> Any:
        built.append(threading.current_thread().name)
        return engine()

    globals()["watched"] = watched  # what cannot be pickled by name is refused
    watched.__qualname__ = "watched"
    with ThreadPoolExecutor(2, thread_name_prefix="mine") as pool:
        found = harvest(frames(), watched, store=tmp_path / "a.h5md", executor=pool, **FAST)
        assert pool.submit(int, "3").result() == 3
    assert Store(found).content == alone
    workers = [name for name in built if name.startswith("mine")]
    assert 1 <= len(workers) == len(set(workers)) <= 2  # one calculator each, for all of its bursts


def test_bursts_that_were_lost_are_run_again_and_counted_once(engine, alone, kept, tmp_path):
    kept.clear()
    executor = Inline(lambda task: ConnectionError("worker lost") if task % 5 == 1 else None)
    found = harvest(frames(), engine, store=tmp_path / "a.h5md", executor=executor, **FAST)
    assert Store(found).content == alone
    assert sorted(kept) == list(range(24))
    assert executor.tasks > 24


def test_what_never_comes_back_ends_the_harvest_and_the_next_call_goes_on(engine, alone, kept, tmp_path):
    def lose(task: int) -> BaseException | None:
        return ConnectionError("no route to node7") if task >= 9 else None

    with pytest.raises(DataError, match=r"3 times without its result \(ConnectionError: no route to node7\)"):
        harvest(frames(), engine, store=tmp_path / "a.h5md", executor=Inline(lose), processes=4, **FAST)
    assert not (tmp_path / "a.h5md").exists()
    kept.clear()
    found = harvest(frames(), engine, store=tmp_path / "a.h5md", executor=Inline(), **FAST)
    assert Store(found).content == alone
    assert 0 < len(kept) < 24


@pytest.mark.parametrize("when", ["submit", "result"])
def test_executors_that_are_gone(engine, tmp_path, when):
    class Broken(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
            if when == "submit":
                raise RuntimeError("cannot schedule new futures after shutdown")
            return super().submit(fn, *args, **kwargs)

    broken = Broken(lambda _: BrokenExecutor("a child process ended"))
    with pytest.raises(DataError, match=r"workers of the harvest are gone .*Finished bursts are kept"):
        harvest(frames(), engine, store=tmp_path / "a.h5md", executor=broken, **FAST)
    assert (broken.tasks == -2) == (when == "submit")


def test_an_executor_has_no_more_tasks_than_it_was_said_to_take(engine, tmp_path):
    class Counting(ThreadPoolExecutor):
        now, most = -2, 0  # a worker is asked for its version and the engine first

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
            future = super().submit(fn, *args, **kwargs)
            self.now += 1
            self.most = max(self.most, self.now)
            return future

    pool = Counting(1)
    write = Finished.write

    def written(self: Finished, *burst: Any) -> None:
        pool.now -= 1
        write(self, *burst)

    with pytest.MonkeyPatch.context() as patch, pool:
        patch.setattr(Finished, "write", written)
        harvest(frames(), slow_calculator, store=tmp_path / "a.h5md", executor=pool, processes=3, **FAST)
    assert pool.most == 3


@pytest.mark.parametrize("lost", ["lambda", "object"])
def test_an_engine_that_cannot_be_sent_is_refused_by_name_before_anything_starts(engine, tmp_path, lost):
    built, executor = [], Inline()
    held = threading.Lock()

    def unsendable() -> Any:
        built.append(held)
        return engine()

    factory = (lambda: unsendable()) if lost == "lambda" else unsendable
    with pytest.raises(DataError, match=r"cannot be sent to other processes \(.*(lambda|unsendable).*no executor"):
        harvest(frames(), factory, store=tmp_path / "a.h5md", executor=executor, **FAST)
    assert not built
    assert executor.tasks == -2
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("0.0.1", "workers of the executor have fastegnn-md 0.0.1, this process"),
        (PackageNotFoundError("fastegnn-md"), "workers of the executor have no fastegnn-md"),
    ],
)
def test_workers_of_another_environment(engine, tmp_path, answer, reason):
    class Elsewhere(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
            future: Future = Future()
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
            return future

    with pytest.raises(DataError, match=reason):
        harvest(frames(), engine, store=tmp_path / "a.h5md", executor=Elsewhere(), **FAST)


def test_an_engine_that_workers_cannot_make_is_told_at_once(engine, tmp_path):
    class Elsewhere(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
            if self.tasks == -1:
                self.lose, self.tasks = (lambda _: ModuleNotFoundError("No module named 'mine'")), 0
            return super().submit(fn, *args, **kwargs)

    executor = Elsewhere()
    with pytest.raises(DataError, match=r"cannot make the engine \(ModuleNotFoundError: No module named 'mine'\)"):
        harvest(frames(), engine, store=tmp_path / "a.h5md", executor=executor, **FAST)
    assert executor.tasks == 1  # no burst was handed out


def test_what_is_no_executor(engine, tmp_path):
    class Client:
        pass

    with pytest.raises(DataError, match=r"executor is a Client; .* client.get_executor\(\)"):
        harvest(frames(), engine, store=tmp_path / "a.h5md", executor=Client(), **FAST)  # type: ignore[arg-type]


def run(command: list[str]) -> object:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


@pytest.fixture(scope="module")
def cluster(require: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two workers of one thread each, which find this file."""
    require("ase")
    distributed = require("distributed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("OMP_NUM_THREADS", "1")
        with distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",
            local_directory=str(tmp_path_factory.mktemp("dask")),
            silence_logs=50,
        ) as found:
            yield found


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_no_burst_and_counts_none_twice(
    cluster: Any, require: Any, kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_executor import slow_calculator as importable  # by the name that the workers know

    alone = Store(harvest(frames(), importable, store=tmp_path / "alone.h5md", **FAST)).content
    kept.clear()
    write, killed = Finished.write, []

    def watched(self: Finished, *burst: Any) -> None:
        write(self, *burst)
        if len(self) == 6:
            (victim, *_) = pids.values()
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    monkeypatch.setattr(Finished, "write", watched)
    with require("distributed").Client(cluster, set_as_default=False) as client:
        pids = client.run(os.getpid)
        assert len(pids) == 2
        found = harvest(frames(), importable, store=tmp_path / "a.h5md", executor=client.get_executor(), **FAST)
        assert Store(found).content == alone
        assert len(killed) == 1
        assert sorted(kept) == list(range(24))
        client.wait_for_workers(2, timeout=60)
        assert killed[0] not in client.run(os.getpid).values()


@pytest.mark.slow
def test_the_command_hands_bursts_to_a_scheduler(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    universe = frames(8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe.atoms.write(tmp_path / "ar.pdb")
        universe.atoms.write(tmp_path / "ar.dcd", frames="all")
    command = ["harvest", str(tmp_path / "ar.pdb"), str(tmp_path / "ar.dcd"), "--temperature", "30"]
    command += ["--calculator", "test_executor:calculator", "--burst", "4 fs", "--interval", "2 fs"]
    assert run([*command, "-o", str(tmp_path / "alone.h5md")]) == 0
    assert run([*command, "-o", str(tmp_path / "a.h5md"), "--scheduler", cluster.scheduler_address]) == 0
    assert re.search(rf"{cluster.scheduler_address}: \d workers, \d threads", capfd.readouterr().err)
    assert Store(tmp_path / "a.h5md").content == Store(tmp_path / "alone.h5md").content


@pytest.mark.slow
def test_an_address_where_no_scheduler_is(
    require: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("distributed")
    monkeypatch.setattr("fastegnn_md.commands.cluster._SECONDS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a box that is missing
        frames(1).atoms.write(tmp_path / "ar.pdb")
    command = ["harvest", str(tmp_path / "ar.pdb"), "--temperature", "30", "--calculator", "lj"]
    for address in ("tcp://127.0.0.1:9", "nowhere", "http://x"):
        assert run([*command, "-o", str(tmp_path / "a.h5md"), "--scheduler", address]) == 2
        assert f"no dask scheduler answers at {address!r}" in capfd.readouterr().err
