"""Tables and picture of docs/performance.md, and the gains of README, from the results that are committed.

    python benchmarks/page.py

reads what ``python benchmarks/speed.py`` has written to benchmarks/results and writes docs/performance.md (what stands
between the markers), docs/jump-light.svg and docs/jump-dark.svg, README.md (the column of gains) and, by
``picture.py``, docs/gain-*.svg.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import picture
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
PAGE, README = DOCS / "performance.md", ROOT / "README.md"
# Background (that of GitHub), text, faint lines, with the library, without.
THEMES = {
    "light": ("#ffffff", "#1f2328", "#8c959f", "#0969da", "#bc4c00"),
    "dark": ("#0d1117", "#e6edf3", "#7d8590", "#4493f8", "#f0883e"),
}
Rows = list[dict[str, Any]]
# What the first column of a row of README says, and the system.
ROWS = {
    "108 atoms": ("copper-emt", 108),
    "2,048 atoms": ("copper-emt", 2048),
    "GFN2-xTB": ("ethanol-xtb", 9),
    "GB": ("ala2-gbn2", 22),
    "vacuum": ("ala2-vacuum", 22),
}


def rows_of(name: str, results: Path = RESULTS) -> Rows:
    """Rows of a file of results."""
    rows: Rows = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return rows


def row_of(file: str, /, **wanted: Any) -> dict[str, Any]:
    """The row that has these values."""
    (row,) = (row for row in rows_of(file) if all(row.get(key) == value for key, value in wanted.items()))
    return row


class Goal(NamedTuple):
    """A line of the table of goals."""

    what: str
    limit: float
    unit: str  # after the number; "×" is for "times faster"
    measured: Callable[[], float]
    least: bool = False  # the limit is the least that is wanted, else the most

    @property
    def reached(self) -> bool:
        """Whether the number that a reader sees is within the limit."""
        shown = float(number(self.measured()).replace(",", ""))
        return shown >= self.limit if self.least else shown <= self.limit

    def line(self) -> str:
        """Of Markdown."""
        sign = "≥" if self.least else "≤"
        found = f"{number(self.measured())}{self.unit}"
        verdict = "reached" if self.reached else "**not reached**"
        return f"| {self.what} | {sign} {number(self.limit)}{self.unit} | {found} | {verdict} |"


def number(value: float) -> str:
    """Three digits, and all that are left of the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def jump(name: str, kind: str) -> dict[str, Any]:
    """A row of single jumps."""
    return row_of("jump_cpu", name=name, kind=kind)


def slope() -> float:
    """Log-log slope of the time of a jump by the number of atoms."""
    text = (RESULTS / "scaling_cpu.json").read_text(encoding="utf-8")
    found: float = json.loads(text)["log-log slope of seconds"]
    return found


def network(what: str, p: float, key: str) -> Callable[[], float]:
    """A number of the comparison with the published code."""
    return lambda: row_of("network_cpu", what=what, p=p)[key]


def goals() -> list[Goal]:
    """All lines of the table."""
    faster, over = "times faster than published FastEGNN", "time over published EGNN"
    found = [
        Goal("22 atoms, State → State", 0.35, " ms", lambda: jump("alanine dipeptide", "force-free")["ms"]),
        Goal(
            "22 atoms in ASE: Langevin, constraints, guards",
            0.8,
            " ms",
            lambda: row_of("engines_cpu", name="ASE, LearnedDynamics, alanine dipeptide")["ms of a jump"],
        ),
        Goal(
            "108 atoms of copper in ASE, the same",
            2.5,
            " ms",
            lambda: row_of("engines_cpu", name="ASE, LearnedDynamics, copper")["ms of a jump"],
        ),
        Goal(
            "22 atoms in OpenMM between classical steps, back-end `host`",
            0.8,
            " ms",
            lambda: row_of("engines_cpu", name="OpenMM, host, after 5 classical steps")["ms of a jump"],
        ),
        Goal(
            "waiting for the first fast jump",
            1.0,
            " s",
            lambda: row_of("waiting_cpu", process="later ones")["seconds of waiting"],
        ),
        Goal(
            "the same, once per machine: the C++ library is compiled",
            20.0,
            " s",
            lambda: row_of("waiting_cpu", process="the first on a machine")["seconds of waiting"],
        ),
        Goal(
            "1,024 replicas of 22 atoms in one call, replica-jumps a second",
            3500,
            "",
            lambda: row_of("jump_cpu", replicas=1024)["replica-jumps per second"],
            least=True,
        ),
        Goal(
            "64 replicas of 22 atoms in one call, per replica",
            0.25,
            " ms",
            lambda: row_of("jump_cpu", replicas=64)["ms per replica"],
        ),
    ]
    graph = "855 atoms, 58,732 edges"
    for what, limits in (("forward", (3.5, 3.5, 3.0)), ("training step", (3.5, 3.0, 3.0))):
        for p, limit in zip((0.0, 0.75, 1.0), limits, strict=True):
            text = f"{graph}, p = {p:g}: {what}, times as fast as the published code"
            found.append(Goal(text, limit, " ×", network(what, p, faster), least=True))
    for p, limit in ((0.0, 0.30), (0.75, 0.08), (1.0, 0.03)):
        text = f"{graph}, p = {p:g}: time over that of the published EGNN"
        found.append(Goal(text, limit, "", network("forward", p, over)))
    for size in (32, 256):
        found.append(
            Goal(
                f"training on molecules of 22 atoms, {size} pairs an update, pairs a second",
                1000,
                "",
                lambda size=size: trained("22 atoms", "force-free", size)["pairs a second"],  # type: ignore[misc]
                least=True,
            )
        )
    return [
        *found,
        Goal(
            "training on molecules of 9 atoms, force-informed, updates of 32 pairs a second",
            70,
            "",
            lambda: trained("9 atoms", "force-midpoint", 32)["updates a second"],
            least=True,
        ),
        Goal("a million atoms at liquid density, a jump, two cores", 45, " s", lambda: largest()["seconds"]),
        Goal("the same, peak memory", 16, " GiB", lambda: largest()["peak memory, GiB"]),
        Goal("log-log slope of the time from 10⁴ to 10⁶ atoms", 1.05, "", slope),
    ]


def trained(molecules: str, kind: str, pairs: int) -> dict[str, Any]:
    """A row of training."""
    return row_of("training_cpu", molecules=molecules, kind=kind, pairs=pairs, **{"trainer alone": False})


def largest() -> dict[str, Any]:
    """The largest system."""
    return max(rows_of("scaling_cpu"), key=lambda row: row["atoms"])


def goal_table() -> str:
    """What was wanted and what was found."""
    head = "| one thread where nothing else is said | goal | measured | |\n|---|---|---|---|"
    return "\n".join([head, *(goal.line() for goal in goals())])


def jump_table() -> str:
    """Milliseconds of a jump by size and kind."""
    lines = ["| system | atoms | edges | kind | ms of a jump | torch alone |", "|---|---|---|---|---|---|"]
    for row in rows_of("jump_cpu"):
        if "kind" in row:
            kind = (
                f"{row['kind']}, 8 kicks" if row["name"] == "ethanol" and row["kind"] == "kick-drift" else row["kind"]
            )
            lines.append(
                f"| {row['name']} | {row['atoms']:,} | {row['edges']:,} | {kind} | {number(row['ms'])} | "
                f"{number(row['torch alone, ms'])} |"
            )
    for row in rows_of("scaling_cpu"):
        ms = number(1e3 * row["seconds"])
        lines.append(f"| liquid, cutoff 5 Å, two cores | {row['atoms']:,} | {row['edges']:,} | force-free | {ms} | |")
    return "\n".join(lines)


def share_table() -> str:
    """Where the time of a training update goes."""
    parts = ("fetch", "forward", "backward", "optimiser", "average", "rest")
    lines = [
        f"| molecules, kind | pairs | updates a second | pairs a second | {', '.join(parts)}: ms |",
        "|---|---|---|---|---|",
    ]
    for row in rows_of("training_cpu"):
        if not row["trainer alone"]:
            times = " + ".join(number(row[f"{part}, ms"]) for part in parts)
            lines.append(
                f"| {row['molecules']}, {row['kind']} | {row['pairs']} | {number(row['updates a second'])} | "
                f"{number(row['pairs a second'])} | {times} |"
            )
    return "\n".join(lines)


def backend_table() -> str:
    """Who is fastest where."""
    rows = rows_of("backends_cpu")
    names = [key.removesuffix(", ms") for key in rows[0] if key.endswith(", ms")]
    lines = [f"| network, graph | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for row in rows:
        times = {name: row.get(f"{name}, ms") for name in names}
        best = min(value for name, value in times.items() if value is not None and name != "auto")
        cells = (
            "" if value is None else f"**{number(value)}**" if value == best else number(value)
            for value in times.values()
        )
        lines.append(f"| {row['network']}, {row['graph']}, {row['part']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gain_table() -> str:
    """What a jump saves."""
    lines = [
        "| model | engine | a jump, and the classical steps in its place | ms of a step | ms of a jump | gain |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows_of("gain_cpu"):
        low, high = (f"{value:.2g}" for value in row["gain, p10 and p90 of the rounds"])
        steps = round(row["jump, fs"] / row["classical step, fs"])
        lines.append(
            f"| `{row['model']}`, {row['atoms']:,} atoms | {row['engine']} | {row['jump, fs']:g} fs, {steps} × "
            f"{row['classical step, fs']:g} fs | {number(row['ms of a classical step'])} | "
            f"{number(row['ms of a jump'])} | {row['gain']:.2g} ({low} to {high}) |"
        )
    return "\n".join(lines)


TABLES = {
    "gains": gain_table,
    "goals": goal_table,
    "jumps": jump_table,
    "training": share_table,
    "backends": backend_table,
}


def filled(text: str) -> str:
    """A page with its tables made anew, each between ``<!-- name -->`` and ``<!-- end -->``."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n)[^<]*(<!-- end -->)"
        text, count = re.subn(pattern, lambda found, t=table: f"{found[1]}{t()}\n{found[2]}", text)
        if count != 1:
            raise ValueError(f"{count} places for the table {name!r}; expected one")
    return text


def with_gains(text: str) -> str:
    """The first page with the gains of the results, those below one in bold."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        cells = line.split("|")
        for words, system in ROWS.items():
            if line.startswith("|") and words in cells[1]:
                (gain,) = (one.gain for one in picture.points() if (one.model, one.atoms) == system)
                cells[3] = f" {gain:.2g} × " if gain >= 1 else f" **{gain:.2g} ×** "
                lines[index] = "|".join(cells)
    return "\n".join(lines) + "\n"


def points() -> list[dict[str, Any]]:
    """What the picture shows."""
    found = [
        {"name": row["name"], "atoms": row["atoms"], "ms": row["ms"], "torch alone": row["torch alone, ms"]}
        for row in rows_of("jump_cpu")
        if row.get("kind") == "force-free" and "cutoff" not in row["name"]
    ]
    liquids = [{"name": "liquid", "atoms": row["atoms"], "ms": 1e3 * row["seconds"]} for row in rows_of("scaling_cpu")]
    return [*found, *liquids]


def draw(theme: str) -> Figure:
    """Milliseconds of a jump by the number of atoms."""
    background, text, faint, ours, alone = THEMES[theme]
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.add_subplot(facecolor=background)
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="ms of a jump")
    shown = points()
    slow = [point for point in shown if "torch alone" in point]
    axes.plot(
        [point["atoms"] for point in slow],
        [point["torch alone"] for point in slow],
        "o--",
        color=alone,
        markerfacecolor=background,
        label="torch alone",
    )
    axes.plot(
        [point["atoms"] for point in shown], [point["ms"] for point in shown], "o-", color=ours, label="C++ library"
    )
    for point in shown:
        axes.annotate(
            f"{number(point['ms'])} ms",
            (point["atoms"], point["ms"]),
            (5, -12),
            textcoords="offset points",
            color=text,
            ha="left",
            fontsize=9,
        )
    axes.margins(x=0.14, y=0.12)
    axes.legend(loc="upper left", frameon=False, labelcolor=text)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(text)
    axes.tick_params(which="both", colors=faint, labelcolor=text)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(faint)
    return figure


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    README.write_text(with_gains(README.read_text(encoding="utf-8")), encoding="utf-8")
    picture.main()
    matplotlib.rcParams["svg.hashsalt"] = "jump"  # the same file from the same numbers
    for theme in THEMES:
        metadata = {"Title": "Time of a jump", "Description": json.dumps(points()), "Date": None, "Creator": None}
        draw(theme).savefig(DOCS / f"jump-{theme}.svg", facecolor=THEMES[theme][0], metadata=metadata)


if __name__ == "__main__":
    main()
