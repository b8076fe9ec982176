"""Progress: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from fastegnn_md import _progress
from fastegnn_md._progress import Lines, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def steps(monkeypatch: pytest.MonkeyPatch, count: int, seconds: float, **options: object) -> str:
    """What a run of so many steps of so many seconds writes to a log file."""
    clock, log = Clock(), io.StringIO()
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr(sys, "stderr", log)
    for _ in progress_bar(range(count), desc="run", unit="step", **options):
        clock.now += seconds
    return log.getvalue()


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    written = steps(monkeypatch, 3600, 0.125)
    lines = written.splitlines()
    assert 10 <= len(lines) <= 18  # in seven and a half minutes
    assert "\r" not in written
    assert lines[0] == "run: 0 of 3600 steps, 0 %, 00:00 so far"
    assert lines[-1].endswith(" left, 8.00 step/s")
    assert lines[-1].startswith("run: 3600 of 3600 steps, 100 %, 07:30 so far, 00:00 left, ")
    assert len(set(lines)) == len(lines)


def test_bars_within_bars_write_lines_too(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for _ in progress_bar(range(2), desc="checks", unit="row"):
        list(progress_bar(range(3), desc="runs", unit="run"))
    assert all(line.startswith(("checks: ", "runs: ")) for line in log.getvalue().splitlines())
    assert "\x1b" not in log.getvalue()


def test_slow_steps_get_a_line_each(monkeypatch):
    assert len(steps(monkeypatch, 10, 40.0).splitlines()) in (10, 11, 12)


def test_what_is_soon_done_says_when_it_begins_and_ends(monkeypatch):
    assert len(steps(monkeypatch, 10, 0.125).splitlines()) == 2
    assert steps(monkeypatch, 10, 0.125, delay=2) == ""
    assert steps(monkeypatch, 10, 100.0, disable=True) == ""


def test_an_unknown_end(monkeypatch):
    clock, log = Clock(), io.StringIO()
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr(sys, "stderr", log)
    with progress_bar(desc="train", unit="update") as bar:
        for _ in range(100):
            clock.now += 1.0
            bar.update(1)
    assert log.getvalue().splitlines()[-1].startswith("train: 100 updates, 01:40 so far")


def test_a_terminal_gets_a_bar(monkeypatch):
    log = Terminal()
    monkeypatch.setattr(sys, "stderr", log)
    made = progress_bar(range(3), desc="run")
    assert not isinstance(made, Lines)
    list(made)
    assert "\rrun: 100%|" in log.getvalue()


def test_no_stream_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress_bar(range(3))) == [0, 1, 2]


def test_a_reader_that_has_left_ends_no_run(monkeypatch):
    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Left())
    assert list(progress_bar(range(3), desc="run")) == [0, 1, 2]


def test_every_bar_of_the_package_is_this_one():
    root = Path(_progress.__file__).parents[1]
    sources = [path for folder in ("fastegnn_md", "integrators") for path in (root / folder).rglob("*.py")]
    assert [path.name for path in sources if "from tqdm" in path.read_text(encoding="utf-8")] == ["_progress.py"]


def test_what_is_written_beside_a_bar_repeats_no_line(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress_bar(desc="learn", unit="step", total=2) as bar:
        bar.write("a report", file=sys.stderr)
        bar.update(2)
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["learn: 0 of 2 steps", "a report", "learn: 2 of 2 steps"]


def test_a_bar_within_another_moves_no_cursor(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress_bar(desc="rows", unit="row", total=1):
        assert list(progress_bar(range(2), desc="runs", unit="run")) == [0, 1]
    assert "\x1b" not in log.getvalue()
    assert "\n\n" not in log.getvalue()


def test_the_last_line_has_the_speed_of_the_whole(monkeypatch):
    clock, log = Clock(), io.StringIO()
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr(sys, "stderr", log)
    with progress_bar(desc="run", unit="step", total=101) as bar:
        for k in range(101):
            clock.now += 0.0 if k else 50.5  # the first step is slow
            bar.update()
    assert log.getvalue().splitlines()[-1].endswith(" 2.00 step/s")
