"""The report of a validation: rows with verdicts, as text, JSON and one HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from ..errors import ConfigError
from ..report.page import Picture, Section, Table, new_figure, write_report
from .readings import READINGS
from .rows import Map, Plot, Row

_COLOURS = {"reference": "tab:gray", "learned": "tab:red"}
_FEW = 20  # points of a line, below which each is marked


@dataclass(frozen=True)
class Report:
    """What a validation found.

    Attributes
    ----------
    title : str
    rows : list of Row
    facts : dict
        What was compared: model, runs, spans, seed.
    remarks : list of str
        What a reader has to know, as that a single reference was cut into pieces.
    """

    title: str
    rows: list[Row]
    facts: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def row(self, name: str) -> Row:
        """The row of a name.

        Raises
        ------
        ConfigError
            If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ConfigError(f"there is no row {name!r}; expected one of {', '.join(row.name for row in self.rows)}")

    def failed(self, names: Sequence[str]) -> list[Row]:
        """The named rows that are outside, or were not measured."""
        return [row for row in map(self.row, names) if row.verdict != "within"]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "title": self.title,
            "facts": self.facts,
            "remarks": self.remarks,
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_text(self) -> str:
        """A line per row, without a final line break."""
        width = max(len(row.name) for row in self.rows)
        lines = []
        for row in self.rows:
            if row.verdict == "not measured":
                lines.append(f"{row.name:<{width}}  not measured: {row.note}")
            else:
                held = f"{_value(row)}, {'limit' if not row.spread else 'spread limit'} {row.limit:.4g}"
                lines.append(f"{row.name:<{width}}  {row.verdict:<12}  {held}")
        return "\n".join(lines)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write ``report.json`` and ``report.html``; returns both paths.

        Raises
        ------
        MissingDependencyError
            If the extra ``report`` is not installed; ``report.json`` is then written.
        OSError
            If a file cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        data, page = folder / "report.json", folder / "report.html"
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(data, (text + "\n").encode())
        measured = [row for row in self.rows if row.verdict != "not measured"]
        sections = [self._overview(measured), *map(_section, measured), self._missing(), self._compared()]
        write_report(page, self.title, self._summary(), sections)
        return data, page

    def _summary(self) -> str:
        counts = [
            f"{sum(row.verdict == verdict for row in self.rows)} {verdict}"
            for verdict in ("within", "outside", "not measured")
        ]
        return f"{', '.join(counts)}."

    def _compared(self) -> Section:
        return Section(
            "What was compared", tables=[Table([], [[key, str(value)] for key, value in self.facts.items()])]
        )

    def _missing(self) -> Section:
        rows = [[row.name, row.quantity, _sentence(row.note)] for row in self.rows if row.verdict == "not measured"]
        return Section("Not measured", tables=[Table(["row", "what it is", "why it is missing"], rows)] if rows else [])

    def _overview(self, measured: Sequence[Row]) -> Section:
        rows = [[row.name, row.verdict, _value(row), _limit(row), _spread(row), row.note] for row in measured]
        columns = ["row", "verdict", "value (95 % interval)", "limit", "reference runs", "note"]
        return Section("Verdicts", list(self.remarks), [Table(columns, rows)])


def _section(row: Row) -> Section:
    text = [f"{row.quantity}: {row.verdict}.", *([_sentence(row.note)] if row.note else [])]
    if row.name in READINGS:
        text.insert(0, READINGS[row.name])
    return Section(row.name, text, list(row.tables), [_picture(plot) for plot in row.plots])


def _picture(plot: Plot | Map) -> Picture:
    if isinstance(plot, Map):
        return _map(plot)
    figure, (axes,) = new_figure(height=2.8)
    marker = "." if len(plot.x) < _FEW else None
    for label, line in plot.lines.items():
        axes.plot(plot.x, line, label=label, color=_COLOURS.get(label), linewidth=1.0, marker=marker)
        if label in plot.bands:
            axes.fill_between(plot.x, *plot.bands[label], color=_COLOURS.get(label), alpha=0.2, linewidth=0)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label)
    axes.legend(fontsize=8)
    return Picture.of(figure, f"{plot.y_label} against {plot.x_label}: {', '.join(plot.lines)}")


def _map(plot: Map) -> Picture:
    figure, panels = new_figure(3.2 * len(plot.panels) + 0.8, 3.0, len(plot.panels))
    values = np.concatenate([panel[np.isfinite(panel)] for panel in plot.panels.values()])
    least, most = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    for axes, (label, panel) in zip(panels, plot.panels.items(), strict=True):
        if plot.names is None:
            image = axes.imshow(panel.T, origin="lower", extent=(-180, 180, -180, 180), vmin=least, vmax=most)
            axes.set(xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
        else:
            image = axes.imshow(panel, vmin=least, vmax=most)
            axes.set_xticks(range(len(plot.names)), plot.names, fontsize=7, rotation=30)
            axes.set_yticks(range(len(plot.names)), plot.names, fontsize=7)
        axes.set_title(label, fontsize=9)
        axes.set_xlabel(plot.x_label if plot.names is None else "to", fontsize=8)
    panels[0].set_ylabel(plot.y_label, fontsize=8)
    figure.colorbar(image, ax=panels, label=plot.quantity)
    return Picture.of(figure, f"{plot.quantity}, {plot.y_label} and {plot.x_label}: {', '.join(plot.panels)}")


def _sentence(note: str) -> str:
    return f"{note[:1].upper()}{note[1:]}."


def _value(row: Row) -> str:
    if row.value is None:
        return "–"
    unit = f" {row.unit}" if row.unit else ""
    ends = "" if row.interval is None else f" ({row.interval[0]:.3g} to {row.interval[1]:.3g})"
    return f"{row.value:.4g}{unit}{ends}"


def _limit(row: Row) -> str:
    return "–" if row.limit is None else f"{row.limit:.4g}"


def _spread(row: Row) -> str:
    return f"{min(row.spread):.3g} to {max(row.spread):.3g}" if row.spread else "–"
