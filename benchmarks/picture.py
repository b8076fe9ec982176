"""The picture of README: gain by the clock against the cost of a force call, from the results that are committed.

    python benchmarks/picture.py

reads benchmarks/results/gain_cpu.json (`python benchmarks/gain.py`, and with ``--only ethanol-xtb`` for ethanol, whose
engine is not installed with the package) and writes docs/gain-light.svg and docs/gain-dark.svg for the two themes of
GitHub, with the points in their metadata.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import matplotlib
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


def main() -> None:
    found = points()
    matplotlib.rcParams["svg.hashsalt"] = "gain"  # the same file from the same numbers
    for theme in THEMES:
        description = json.dumps([dataclasses.asdict(point) for point in found])
        metadata = {"Title": "Gain by the clock", "Description": description, "Date": None, "Creator": None}
        figure = draw(found, theme)
        figure.savefig(DOCS / f"gain-{theme}.svg", facecolor=THEMES[theme][0], metadata=metadata)


if __name__ == "__main__":
    main()
