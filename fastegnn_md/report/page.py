"""Reports in one HTML file: sections of text, tables and inline pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._extras import naming_extras
from .._files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """Cells as text or numbers; numbers have four significant digits or more. Columns may have no names."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as PNG in base64, and what it shows, in words that a student understands; they stand below it."""

    png: str
    text: str

    @classmethod
    def of(cls, figure: Figure, text: str) -> Picture:
        """Draw a matplotlib figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return cls(base64.b64encode(buffer.getvalue()).decode(), text)


@dataclass
class Section:
    """A heading and what stands under it. Paragraphs that begin with ``WARNING:`` are set apart."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)


def write_report(path: str | Path, title: str, summary: str, sections: Sequence[Section]) -> None:
    """Write a report; text is escaped, the file refers to nothing outside itself.

    Raises
    ------
    MissingDependencyError
        If the extra ``report`` is not installed.
    OSError
        If the file cannot be written.
    """
    with naming_extras("write_report"):
        from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_cell)
    source = files("fastegnn_md").joinpath("assets", "report.html.j2").read_text(encoding="utf-8")
    text = environment.from_string(source).render(title=title, summary=summary, sections=sections)
    write_atomically(path, text.encode())


def new_figure(width: float = 6.4, height: float = 3.2, panels: int = 1) -> tuple[Figure, list[Any]]:
    """A figure that needs no screen, with so many axes side by side; of the default width it can be read on a phone."""
    with naming_extras("new_figure"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False).flat)


def plain_ticks(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as 3 and 20, not as powers; between decades at 2 and 5 only."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter("")


def _cell(value: object) -> object:
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and 1000 <= abs(value) < 1e12):
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else value
