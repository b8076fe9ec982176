"""The pictures of README, from the results that are committed, for the two themes of GitHub.

    python benchmarks/picture.py

docs/gain-light.svg and docs/gain-dark.svg: gain by the clock against the cost of a force call, of
benchmarks/results/gain_cpu.json (`python benchmarks/gain.py`, and with ``--only ethanol-xtb`` for ethanol, whose
engine is not installed with the package), with the points in their metadata.

docs/sampled-light.svg and docs/sampled-dark.svg: nanoseconds sampled in some minutes, of
benchmarks/results/peptides_speed_ala2_*.json (`peptides/speed.py`), with the lines in their metadata.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
# Background (that of GitHub), text, faint lines, gain, loss.
THEMES = {
    "light": ("#ffffff", "#1f2328", "#8c959f", "#1a7f37", "#cf222e"),
    "dark": ("#0d1117", "#e6edf3", "#7d8590", "#3fb950", "#f85149"),
}
# System -> engine and system in words, where they stand beside the points: shift in points, alignment.
LABELS = {
    ("ala2-vacuum", 22): ("amber14 (OpenMM)", "alanine dipeptide, vacuum", (12, 0), "left"),
    ("ala2-gbn2", 22): ("amber14 + GB (OpenMM)", "alanine dipeptide, implicit water", (12, 8), "left"),
    ("ethanol-xtb", 9): ("GFN2-xTB", "ethanol", (-12, 0), "right"),
    ("copper-emt", 108): ("EMT (ASE)", "copper, 108 atoms", (12, -5), "left"),
    ("copper-emt", 2048): ("EMT (ASE)", "copper, 2,048 atoms", (-12, 8), "right"),
}


PREPARATION = 140.0  # ns of classical steps that data and training of the model of 10 ps cost, docs/generative.md
MINUTES = (1.0, 1000.0)  # of the axis


@dataclasses.dataclass(frozen=True)
class Point:
    """One system."""

    model: str
    atoms: int
    force_call_ms: float
    gain: float


def points(results: Path = RESULTS) -> list[Point]:
    """All points, from the files of results."""
    rows = json.loads((results / "gain_cpu.json").read_text(encoding="utf-8"))["rows"]
    return [Point(row["model"], row["atoms"], row["ms of a classical step"], row["gain"]) for row in rows]


def draw(found: list[Point], theme: str) -> Figure:
    """The picture for a theme."""
    background, text, faint, better, worse = THEMES[theme]
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    axes = figure.add_subplot(facecolor=background)
    axes.set(xscale="log", yscale="log", xlim=(0.006, 600), ylim=(0.003, 100))
    axes.axhspan(1, 100, color=better, alpha=0.07, linewidth=0)
    axes.axhspan(0.003, 1, color=worse, alpha=0.07, linewidth=0)
    axes.axhline(1, color=text, linewidth=1)
    for words, shift, up in (("gain", 6, "bottom"), ("loss", -6, "top")):
        axes.annotate(
            words, (500, 1), (0, shift), textcoords="offset points", color=text, ha="right", va=up, style="italic"
        )
    axes.annotate(
        "1 ×: a jump costs what it saves", (0.008, 1), (0, -6), textcoords="offset points", color=text, va="top"
    )
    for system, (engine, words, (right, up), side) in LABELS.items():
        (point,) = (point for point in found if (point.model, point.atoms) == system)
        x, gain = point.force_call_ms, point.gain
        axes.plot(x, gain, "o", markersize=8, color=better if gain > 1 else worse)
        for line, weight, down in ((engine, "bold", 6), (words, "normal", -7)):
            axes.annotate(
                line,
                (x, gain),
                (right, up + down),
                textcoords="offset points",
                color=text,
                weight=weight,
                ha=side,
                va="center",
            )
    axes.set_xlabel("one force call of the engine, ms", color=text)
    axes.set_ylabel("gain: time of classical steps / jump", color=text)
    axes.tick_params(colors=faint, labelcolor=text)
    axes.minorticks_off()
    axes.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
    axes.set_yticks([0.01, 0.1, 1, 10], ["0.01 ×", "0.1 ×", "1 ×", "10 ×"])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(faint)
    return figure


@dataclasses.dataclass(frozen=True)
class Line:
    """Nanoseconds sampled in a minute, from a minute on."""

    words: str
    ns_per_minute: float
    begins: float


def lines(results: Path = RESULTS) -> list[Line]:
    """Alanine dipeptide with native OBC: classical steps, and jumps of 64 replicas in one call."""
    timed = {
        lag: json.loads((results / f"peptides_speed_ala2_{lag}ps.json").read_text(encoding="utf-8"))["solvents"]["obc"]
        for lag in (10, 100)
    }
    classical = timed[10]["ns_per_minute_classical"]
    return [
        Line("jumps of 100 ps", timed[100]["ns_per_minute_many"], 0.0),
        Line("jumps of 10 ps", timed[10]["ns_per_minute_many"], 0.0),
        Line("10 ps, data and training first", timed[10]["ns_per_minute_many"], PREPARATION / classical),
        Line("classical steps of 2 fs", classical, 0.0),
    ]


def draw_sampled(found: list[Line], theme: str) -> Figure:
    """The picture of what is sampled, for a theme."""
    background, text, faint, better, _ = THEMES[theme]
    figure = Figure(figsize=(6.6, 4.2), layout="constrained")
    axes = figure.add_subplot(facecolor=background)
    axes.set(xscale="log", yscale="log", xlim=MINUTES, ylim=(1, 1e6))
    for line in found:
        minutes = line.begins + np.geomspace(1 if not line.begins else 0.02, MINUTES[1] - line.begins, 200)
        learned = "classical" not in line.words
        dashes = "--" if line.begins else "-"
        axes.plot(minutes, line.ns_per_minute * (minutes - line.begins), dashes, color=better if learned else text)
        # Above the lines, left of where they rise.
        place = (line.begins, 2.0) if line.begins else (20.0, 20.0 * line.ns_per_minute)
        axes.annotate(line.words, place, (-6, 3), textcoords="offset points", color=text, ha="right", va="bottom")
    axes.set_xlabel("minutes by the clock", color=text)
    axes.set_ylabel("sampled, ns", color=text)
    axes.tick_params(colors=faint, labelcolor=text)
    axes.minorticks_off()
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
    axes.set_yticks([1, 100, 1e4, 1e6], ["1", "100", "10,000", "1,000,000"])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(faint)
    return figure


def main() -> None:
    gains, sampled = points(), lines()
    for theme in THEMES:
        for name, title, found, figure in (
            ("gain", "Gain by the clock", gains, draw(gains, theme)),
            ("sampled", "Nanoseconds by the clock", sampled, draw_sampled(sampled, theme)),
        ):
            matplotlib.rcParams["svg.hashsalt"] = name  # the same file from the same numbers
            description = json.dumps([dataclasses.asdict(one) for one in found])
            metadata = {"Title": title, "Description": description, "Date": None, "Creator": None}
            figure.savefig(DOCS / f"{name}-{theme}.svg", facecolor=THEMES[theme][0], metadata=metadata)


if __name__ == "__main__":
    main()
