"""The tables: which networks on which data sets, and what the papers report.

Zhang et al., ICML 2024 (FastEGNN: table1, table2, table3, table7) and Han et al., NeurIPS 2022 (EGHN: eghn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .rows import Row, Settings

_NBODY = Settings()


@dataclass(frozen=True)
class Table:
    """Rows and what stands above them.

    Attributes
    ----------
    title : str
    note : str
        What a reader has to know about the paper's side.
    rows : tuple of Row
        In the order they are trained: what costs least first.
    """

    title: str
    note: str
    rows: tuple[Row, ...]


def _fastegnn(virtual_nodes: int, **options: Any) -> dict[str, Any]:
    return {"virtual_nodes": virtual_nodes, "form": "published", **options}


def _nbody_column() -> list[Row]:
    rows = [Row("nbody linear", "nbody-100", "linear", dropped=1.0, paper=0.1266, settings=_NBODY)]
    for p in (1.0, 0.75, 0.0):
        rows += [
            Row(f"nbody fastegnn C={c} p={p:g}", "nbody-100", "fastegnn", _fastegnn(c), p, settings=_NBODY)
            for c in (1, 3, 10)
        ]
        rows.append(Row(f"nbody egnn p={p:g}", "nbody-100", "egnn", {"form": "published"}, p, settings=_NBODY))
    return rows


TABLES: dict[str, Table] = {
    "table1": Table(
        "Table 1 of FastEGNN: mean squared error of predicted positions",
        "The paper's best FastEGNN on N-body has 0.0099; figures of single rows that we do not have are left empty.",
        tuple(_nbody_column()),
    ),
}
