"""How a run learned, on one HTML page: what it cost, what it saved, and its course in pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastegnn_md.report.page import Picture, Section, Table, new_figure, plain_ticks, write_report

from .account import FROZEN, temperatures
from .course import Course


def write_page(course: Course, path: str | Path) -> None:
    """See :meth:`LearningDynamics.report`."""
    sections = [
        Section("What to know first", _remarks(course)),
        Section("The run", tables=[_costs(course)], figures=_course(course) if course.account.rows else []),
        Section("The model", tables=_errors(course)),
    ]
    write_report(path, "A run that learned", _summary(course), sections)


def _summary(course: Course) -> str:
    account, error = course.account, course.error
    said = [
        f"{account.steps * course.lag:.4g} ps were simulated. {account.jumps:,} of {account.steps:,} steps were jumps, "
        f"the others classical.",
        f"The engine was called {course.engine.calls:,} times, {max(0, course.saved_calls):,} times less than in a "
        "classical run.",
    ]
    if len(error):
        said.append(
            f"A jump misses the velocity by {error.value:.3g} % of the thermal velocity; the target is "
            f"{course.learning.target:g} %."
        )
    pays = course.pays_after_ps
    if math.isfinite(pays) and account.jumps:
        said.append(f"Learning {'has paid' if account.wall <= account.classical else 'pays'} after {pays:.3g} ps.")
    return " ".join(said)


def _remarks(course: Course) -> list[str]:
    account, said = course.account, []
    if course.phase != FROZEN:
        said.append(
            "WARNING: learning has not ended. The weights still change, so the frames are no sample of one ensemble: "
            "call freeze() (or give --freeze-after) and collect statistics after it."
        )
    mean, deviation = course.statistics.energy_change
    if course.statistics.audits > 1:
        said.append(
            f"{course.statistics.audits} audits: a jump changes the total energy by {mean:+.3g} ± {deviation:.2g} kT "
            "on average; a right one by none."
        )
        hotter, unsure = course.statistics.heating
        if math.isfinite(hotter + unsure):
            said.append(
                f"With this thermostat that makes {100 * hotter:+.1f} ± {100 * unsure:.1f} % of its temperature."
            )
    if account.returns:
        said.append(f"The run went back to learning {account.returns} times, because audits were out of bounds.")
    if account.refused:
        refused = ", ".join(f"{count} by the {guard} guard" for guard, count in course.statistics.rejected.items())
        said.append(f"{account.refused} jumps were refused and made classically ({refused}).")
    if course.pays_after_ps == math.inf and account.jumps:
        said.append("At the present rate this run never is faster than a classical one: the engine is too fast for it.")
    return said


def _costs(course: Course) -> Table:
    account, engine = course.account, course.engine
    time = account.steps * course.lag
    pays = course.pays_after_ps
    rows: list[tuple[object, ...]] = [
        ("time simulated, ps", time),
        ("steps: classical segments", account.segments),
        ("of these audits / in place of refused jumps", f"{account.audits} / {account.refused}"),
        ("steps: jumps", account.jumps),
        ("calls of the engine made", engine.calls),
        ("calls of the engine saved", max(0, course.saved_calls)),
        ("a call of the engine (median), ms", 1e3 * engine.typical),
        ("a classical segment, ms", 1e3 * account.segment),
        ("a jump, ms", 1e3 * account.jump_seconds / account.jumps if account.jumps else None),
        ("seconds: segments / exams and training / jumps", _seconds(course)),
        *_moves(course),
        ("seconds in all", account.wall),
        ("seconds of a classical run of this time", account.classical),
        ("gain so far", account.classical / account.wall if account.wall else None),
        ("has paid, or will at this rate, after ps", pays if math.isfinite(pays) else "never"),
    ]
    return Table((), rows, "Everything by the clock of this run, learning included.")


def _seconds(course: Course) -> str:
    account = course.account
    parts = account.segment_seconds, account.training_seconds, account.jump_seconds
    return " / ".join(f"{one:.4g}" for one in parts)


def _moves(course: Course) -> list[tuple[object, ...]]:
    found = course.statistics
    if course.volume is None:
        return []
    return [
        ("moves of the volume: tried / accepted", f"{found.volume_moves} / {found.volume_accepted}"),
        ("volume at the end, Å³", course.atoms.get_volume()),
        ("seconds: moves of the volume, which a classical run makes, too", course.account.volume_seconds),
    ]


def _errors(course: Course) -> list[Table]:
    table = course.error.table
    if not table:
        return []
    rows = [(name, errors["x"], errors["v"]) for name, errors in table.items()]
    low, high = course.error.interval
    caption = (
        f"RMSE over the last {len(course.error)} segments the model had not seen. In % of the thermal velocity of "
        f"the worst element: {course.error.value:.3g} ({low:.3g} to {high:.3g}), target "
        f"{course.learning.target:g}."
    )
    return [Table(("predictor", "x / amu^½ Å", "v / amu^½ Å/ps"), rows, caption)]


def _course(course: Course) -> list[Picture]:
    rows = course.account.rows
    steps = np.cumsum([one.steps for one in rows])
    time = steps * course.lag
    pictures = []

    def over_time(label: str, text: str, draw: Callable[[Any], None]) -> None:
        figure, (axes,) = new_figure()
        draw(axes)
        axes.set(xlabel="time simulated / ps", ylabel=label)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        pictures.append(Picture.of(figure, text))

    def errors(axes: Any) -> None:
        upper = np.array([one.upper for one in rows])
        axes.plot(time, [one.error for one in rows], label="running error")
        axes.plot(time, np.where(np.isfinite(upper), upper, np.nan), linewidth=0.8, label="upper end of its interval")
        axes.axhline(course.learning.target, color="black", linewidth=0.8, linestyle="--", label="target")
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)

    def shares(axes: Any) -> None:
        axes.plot(time, [100 * one.jumps / one.steps for one in rows], linewidth=0.8)
        axes.set_ylim(-2, 102)

    def kelvin(axes: Any) -> None:
        from MDAnalysis.guesser.tables import Z2SYMB

        kelvins = _smooth(np.array([one.kelvin for one in rows]), np.array([one.steps for one in rows]))
        for column, number in zip(kelvins.T, temperatures(course.atoms), strict=True):
            axes.plot(time, column, label=Z2SYMB.get(number, str(number)), linewidth=0.9)
        if course.thermostat is not None:
            axes.axhline(course.thermostat.temperature, color="black", linewidth=0.8, linestyle="--")

    def costs(axes: Any) -> None:
        axes.plot(time, [one.wall for one in rows], label="this run")
        axes.plot(time, steps * course.account.segment, linestyle="--", label="classical")

    over_time(
        "error of v / % of thermal v",
        "How far the model misses segments that it has not seen: it may jump once the upper end lies below the target.",
        errors,
    )
    over_time("jumps / % of steps", "The share of jumps: 0 is a classical run, 100 one of jumps alone.", shares)
    over_time(
        "temperature / K",
        "The temperature of each element (running mean), which should lie on the dashed line of the thermostat.",
        kelvin,
    )
    over_time(
        "seconds",
        "The time by the clock, learning included, beside that of a classical run: where the lines cross, learning has "
        "paid.",
        costs,
    )
    return pictures


def _smooth(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Running mean over a fiftieth of the course."""
    width = max(1, len(values) // 50)
    ones = np.ones(width)
    total = np.convolve(weights, ones, mode="same")
    smooth = [np.convolve(column * weights, ones, mode="same") / total for column in values.T]
    return np.stack(smooth, axis=1)
