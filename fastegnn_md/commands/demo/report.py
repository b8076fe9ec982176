"""The report of the demo: one picture, and a section for each step."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

from ...report.page import Picture, Section, Table, new_figure, write_report
from .records import COLOURS, StepResult


def write_demo_report(path: Path, steps: list[StepResult], seconds: float) -> None:
    """Write the report of a finished demo."""
    summary = (
        f"Three systems, each by its own engine and by learned jumps, on one thread. Every number was measured in this "
        f"run of {seconds / 60:.1f} minutes, on {os.cpu_count()} cores of {platform.machine()}, Python "
        f"{platform.python_version()}."
    )
    sections = [_glance(steps)]
    for number, step in enumerate(steps, 1):
        speed = (
            f"A nanosecond takes {in_words(step.classical.seconds_per_ns)} classically and "
            f"{in_words(step.learned.seconds_per_ns)} with jumps: {gain_in_words(step)}."
        )
        title = f"{number}. {step.name[0].upper()}{step.name[1:]}: {step.system}"
        sections.append(Section(title, [*step.paragraphs, speed], step.tables, [_check(step)]))
    write_report(path, "fastegnn_md: what learned jumps gain by the clock", summary, sections)


def results(steps: list[StepResult]) -> list[dict[str, object]]:
    """The numbers, for programs."""
    return [
        {
            "system": step.system,
            "seconds per ns": {"classical": step.classical.seconds_per_ns, "learned": step.learned.seconds_per_ns},
            "gain": step.gain,
            "gain in CPU time": step.cpu_gain,
            "seconds of learning": step.learning,
            "pays after, ps": step.pays_after_ps,
            "physics": step.physics,
            "tables": [dataclasses.asdict(table) for table in step.tables],
        }
        for step in steps
    ]


def summary_lines(steps: list[StepResult]) -> list[str]:
    """The same on a terminal."""
    lines = []
    for number, step in enumerate(steps, 1):
        lines += [
            f"{number}. {step.name}: {step.system}",
            f"   a nanosecond: classical {in_words(step.classical.seconds_per_ns)}, learned "
            f"{in_words(step.learned.seconds_per_ns)}: {gain_in_words(step)}",
            f"   {step.physics}",
        ]
    return lines


def gain_in_words(step: StepResult) -> str:
    """How many times faster or slower, and after how long learning has paid."""
    if step.gain < 1:
        return f"{1 / step.gain:.2g} times slower, a loss"
    pays = step.pays_after_ps
    return f"{step.gain:.2g} times faster" + (f", learning paid after {pays:.0f} ps" if pays else "")


def in_words(seconds: float) -> str:
    """A time by the clock."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {name}" if seconds < 99.5 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.2g} s" if seconds < 99.5 else f"{seconds:.0f} s"


def _glance(steps: list[StepResult]) -> Section:
    figure, (axes,) = new_figure(height=4.2)
    _bars(axes, steps)
    columns = [
        "",
        "classical, s for 1 ns",
        "learned, s for 1 ns",
        "gain",
        "in CPU time",
        "learning, s",
        "paid after, ps",
    ]
    rows = [
        [
            step.system,
            step.classical.seconds_per_ns,
            step.learned.seconds_per_ns,
            step.gain,
            step.cpu_gain,
            step.learning or None,
            step.pays_after_ps if step.learning else None,
        ]
        for step in steps
    ]
    text = (
        "The time by the clock that a simulated nanosecond takes; a shorter bar is faster, and each step of the axis "
        "is ten times as much. Where something was learned in this run, a third bar adds the seconds of learning."
    )
    caption = (
        "By the clock, jumps with all they need. What shipped models cost to train is not counted. On a machine with "
        "other work the gain in CPU time is the better number."
    )
    return Section("At a glance", [], [Table(columns, rows, caption)], [Picture.of(figure, text)])


def _check(step: StepResult) -> Picture:
    figure, (axes,) = new_figure()
    step.draw(axes)
    return Picture.of(figure, step.reading)


def _bars(axes: Any, steps: list[StepResult]) -> None:
    place, ticks = 0.0, []
    for step in steps:
        classical, learned = step.classical.seconds_per_ns, step.learned.seconds_per_ns
        bars = {"classical": classical, "learned": learned}
        if step.learning:
            bars["with learning"] = learned + step.learning
        ticks.append((place + 0.5 * (len(bars) - 1), step.system.split(",")[0].replace(" ", "\n")))
        for name, seconds in bars.items():
            said = f"{name}: {in_words(seconds)}" + (f", {step.gain:.2g} ×" if name == "learned" else "")
            axes.barh(place, seconds, color=COLOURS[name])
            axes.annotate(said, (seconds, place), (4, 0), textcoords="offset points", va="center")
            place += 1
        place += 0.6
    axes.set(xscale="log", xlabel="seconds by the clock for a simulated nanosecond", title="time of a nanosecond")
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.invert_yaxis()
    low, high = axes.get_xlim()
    axes.set_xlim(low, 1000 * high)  # room for what is written beside the bars
