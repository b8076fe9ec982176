"""A row of the report: one figure, its interval, what it is held against, the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..report.page import Table
from .statistics import Comparison

Verdict = Literal["within", "outside", "not measured"]


@dataclass(frozen=True, eq=False)
class Plot:
    """Lines over a common axis.

    Attributes
    ----------
    x : ndarray, shape (n,)
    lines : mapping of str to ndarray, shape (n,)
        By label.
    x_label, y_label : str
    bands : mapping of str to ndarray, shape (2, n)
        Ends of the intervals of lines, by label.
    """

    x: np.ndarray
    lines: Mapping[str, np.ndarray]
    x_label: str
    y_label: str
    bands: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        found = {
            "x": self.x_label,
            "y": self.y_label,
            "points": [finite(value) for value in self.x],
            "lines": {label: [finite(value) for value in line] for label, line in self.lines.items()},
        }
        if self.bands:
            ends = {label: [[finite(one) for one in end] for end in band] for label, band in self.bands.items()}
            return found | {"bands": ends}
        return found


@dataclass(frozen=True, eq=False)
class Map:
    """Panels side by side of one quantity over two others.

    Attributes
    ----------
    panels : mapping of str to ndarray, shape (n, m)
        By label; NaN is left white. With ``names`` rows are drawn from top to bottom, as of a matrix; else the first
        axis runs to the right, the second upwards, both from −180 to 180 degrees.
    x_label, y_label : str
    quantity : str
    names : sequence of str, optional
        Of the rows and columns of a matrix.
    """

    panels: Mapping[str, np.ndarray]
    x_label: str
    y_label: str
    quantity: str
    names: Sequence[str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "x": self.x_label,
            "y": self.y_label,
            "quantity": self.quantity,
            "panels": {
                label: [[finite(round(float(one), 4)) for one in row] for row in panel]
                for label, panel in self.panels.items()
            },
        }


@dataclass(frozen=True, eq=False)
class Row:
    """One figure of a validation.

    Attributes
    ----------
    name : str
        As ``--require`` has it.
    quantity : str
        What the figure is.
    verdict : {"within", "outside", "not measured"}
    value : float or None
    unit : str
    interval : tuple of float, or None
        95 % confidence interval of the value.
    limit : float or None
        Where "within" ends.
    spread : tuple of float
        The same figure of each reference run against the others; empty where the limit is a stated one.
    note : str
        What the limit is, or why the figure was not measured.
    tables : tuple of Table
    plots : tuple of Plot or Map
    """

    name: str
    quantity: str
    verdict: Verdict
    value: float | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None
    limit: float | None = None
    spread: tuple[float, ...] = ()
    note: str = ""
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot | Map, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; what is not finite becomes None."""
        return {
            "name": self.name,
            "quantity": self.quantity,
            "verdict": self.verdict,
            "value": finite(self.value),
            "unit": self.unit,
            "interval": None if self.interval is None else [finite(end) for end in self.interval],
            "limit": finite(self.limit),
            "spread": [finite(one) for one in self.spread],
            "note": self.note,
            "tables": [
                {
                    "caption": table.caption,
                    "columns": list(table.columns),
                    "rows": [[finite(cell) if isinstance(cell, float) else cell for cell in row] for row in table.rows],
                }
                for table in self.tables
            ],
            "plots": [plot.to_dict() for plot in self.plots],
        }


@dataclass(frozen=True)
class Finding:
    """What a check found; with its name and its quantity it becomes a :class:`Row`."""

    value: float
    limit: float
    note: str
    unit: str = ""
    interval: tuple[float, float] | None = None
    spread: tuple[float, ...] = ()
    at_least: bool = False  # whether "within" lies above the limit
    largest: float | None = None  # that the value can be, whatever the learned runs
    tables: tuple[Table, ...] = field(default=())
    plots: tuple[Plot | Map, ...] = field(default=())

    @classmethod
    def of(cls, comparison: Comparison, factor: float, unit: str = "", **rest: Any) -> Finding:
        """Distance to the reference, held against the spread of its runs."""
        return cls(
            comparison.value,
            comparison.limit,
            f"limit: {factor:g} times the mean of the {len(comparison.spread)} reference runs",
            unit,
            comparison.interval,
            comparison.spread,
            **rest,
        )

    def row(self, name: str, quantity: str) -> Row:
        """The row; a value that is not finite lies outside, and a limit that no value can pass decides nothing."""
        if self.largest is not None and self.limit >= self.largest:
            note = (
                f"the reference runs lie so far apart that the limit is {self.limit:.3g}, and no two ensembles differ "
                f"by more than {self.largest:g}: give longer reference runs"
            )
            return Row(name, quantity, "not measured", note=note, tables=self.tables, plots=self.plots)
        inside = self.value >= self.limit if self.at_least else self.value <= self.limit
        unsure = not inside and self.interval is not None and self.interval[0] <= self.limit
        return Row(
            name,
            quantity,
            "within" if inside and math.isfinite(self.value) else "outside",
            self.value,
            self.unit,
            self.interval,
            self.limit,
            self.spread,
            self.note + ("; the interval reaches the limit: longer learned runs decide" if unsure else ""),
            self.tables,
            self.plots,
        )


def finite(value: Any) -> float | None:
    """A number for JSON, which has neither NaN nor infinity."""
    return float(value) if value is not None and math.isfinite(value) else None
