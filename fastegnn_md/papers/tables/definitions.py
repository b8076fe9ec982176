"""The tables: which networks on which data sets, and what the papers report.

Zhang et al., ICML 2024 (FastEGNN), Han et al., NeurIPS 2022 (EGHN) and Huang et al., ICLR 2022 (GMN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..datasets.water3d import GRAVITY
from .data import OBJECTS
from .rows import Row, Settings

# Of main_nbody.py, main_protein.py and main_simulation.py of FastEGNN, main_simulation.py of EGHN, main.py of GMN.
_NBODY = Settings()
_PROTEIN = Settings(batch_size=50, mmd_weight=0.5, mmd_sigma=1.0)
_WATER = Settings(batch_size=20, mmd_sigma=1.0)
_EGHN = Settings(epochs=10_000, patience=10_000)
_GMN = Settings(epochs=600, patience=600, batch_size=200, weight_decay=1e-10)

# Sizes (M, N/M) of the M-complex data sets, and errors in Table 1 of EGHN where we know them.
_SINGLE = {(3, 3): 0.1158, (5, 5): 0.1442, (5, 10): 0.1429, (10, 10): None}
_MULTIPLE = {(3, 3): 0.1280, (5, 5): 0.1485, (5, 10): 0.1450, (10, 10): None}
_SINGLE_TRANSFORMER = {(5, 10): 0.2448}


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


def _column(data: str, name: str, settings: Settings, linear: float | None, **fastegnn: Any) -> list[Row]:
    """One data set of Table 1 of FastEGNN; without edges first."""
    rows = [Row(f"{name} linear", data, "linear", dropped=1.0, paper=linear, settings=settings)]
    for p in (1.0, 0.75, 0.0):
        rows += [
            Row(f"{name} fastegnn C={c} p={p:g}", data, "fastegnn", _fastegnn(c, **fastegnn), p, settings=settings)
            for c in (1, 3, 10)
        ]
        rows.append(Row(f"{name} egnn p={p:g}", data, "egnn", {"form": "published"}, p, settings=settings))
    return rows


def _virtual_nodes_elsewhere() -> list[Row]:
    """Networks without and with virtual nodes."""
    rows = []
    for plain in ("rf", "schnet", "tfn"):
        for p in (0.75, 0.0):
            rows.append(Row(f"protein {plain} p={p:g}", "adk", plain, {}, p, settings=_PROTEIN))
            options = {"virtual_nodes": 3}
            rows.append(Row(f"protein fast{plain} C=3 p={p:g}", "adk", f"fast{plain}", options, p, settings=_PROTEIN))
    return rows


def _ablations() -> list[Row]:
    """FastEGNN without the MMD, and with a set of nodes in place of ordered ones."""
    rows = []
    for name, data, settings in (("nbody", "nbody-100", _NBODY), ("protein", "adk", _PROTEIN)):
        whole = Row(f"{name} fastegnn", data, "fastegnn", _fastegnn(3), 0.75, settings=settings)
        nodes = Row(f"{name} global nodes", data, "fastegnn", _fastegnn(3, ordered=False), 0.75, settings=settings)
        without = Row(f"{name} without MMD", data, "fastegnn", _fastegnn(3), 0.75, settings=settings)
        rows += [whole, without.with_settings(mmd_weight=0.0), nodes]
    return rows


def _eghn() -> list[Row]:
    rows = []
    for types, figures in ((1, _SINGLE), (5, _MULTIPLE)):
        for (m, size), paper in figures.items():
            name, data = f"{'single' if types == 1 else 'multiple'} ({m}, {size})", f"mcomplex-{m}-{size}-{types}"
            rows += [
                Row(f"{name} egnn", data, "egnn", {"form": "published"}, settings=_EGHN),
                Row(f"{name} eghn", data, "eghn", _pooling(m), paper=paper, settings=_EGHN),
                Row(f"{name} eghn, paper's form", data, "eghn", _pooling(m, "paper"), settings=_EGHN),
                Row(
                    f"{name} se3-transformer",
                    data,
                    "se3-transformer",
                    paper=_SINGLE_TRANSFORMER.get((m, size)) if types == 1 else None,
                    settings=_EGHN,
                ),
            ]
    for motion, clusters, paper in (("walk", 5, 0.085), ("run", 5, 0.259)):
        data = f"mocap-{motion}"
        rows += [
            Row(f"{motion} egnn", data, "egnn", {"form": "published"}, settings=_EGHN),
            Row(f"{motion} gmn", data, "gmn", settings=_EGHN),
            Row(f"{motion} eghn", data, "eghn", _pooling(clusters), paper=paper, settings=_EGHN),
            Row(f"{motion} se3-transformer", data, "se3-transformer", settings=_EGHN),
        ]
    return rows


def _gmn() -> list[Row]:
    rows = []
    for particles, sticks, hinges in OBJECTS:
        name, data = f"({particles}, {sticks}, {hinges})", f"objects-{particles}-{sticks}-{hinges}"
        rows += [
            Row(f"{name} egnn", data, "egnn", {"form": "published"}, settings=_GMN),
            Row(f"{name} gmn", data, "gmn", settings=_GMN),
            Row(f"{name} se3-transformer", data, "se3-transformer", settings=_GMN),
        ]
    return rows


def _pooling(clusters: int, form: str = "published") -> dict[str, Any]:
    return {"form": form, "clusters": clusters, "layers": 3, "pooling_layers": 3, "decoder_layers": 1}


_UNKNOWN = "The paper's figures are not at hand here; its column is empty."

TABLES: dict[str, Table] = {
    "table1": Table(
        "Table 1 of FastEGNN: mean squared error of predicted positions",
        "The paper's best FastEGNN on N-body has 0.0099; figures of single rows that we do not have are left empty.",
        (
            *_column("nbody-100", "nbody", _NBODY, 0.1266),
            *_column("adk", "protein", _PROTEIN, None),
            *_column("water-3d", "water", _WATER, None, gravity=GRAVITY),
        ),
    ),
    "table2": Table(
        "FastEGNN: virtual nodes added to other networks, mean squared error of predicted positions",
        _UNKNOWN,
        tuple(_virtual_nodes_elsewhere()),
    ),
    "table3": Table(
        "FastEGNN: ablations, C = 3, p = 0.75, mean squared error of predicted positions", _UNKNOWN, tuple(_ablations())
    ),
    "table7": Table(
        "FastEGNN beside VN-EGNN on proteins, mean squared error of predicted positions",
        f"{_UNKNOWN} VN-EGNN is not equivariant: the published code gives it test frames that are not turned, here "
        "they are turned as for all others.",
        tuple(
            Row(f"protein {model} C=3 p={p:g}", "adk", model, options, p, settings=_PROTEIN)
            for p in (0.75, 0.0)
            for model, options in (("fastegnn", _fastegnn(3)), ("vn-egnn", {"virtual_nodes": 3}))
        ),
    ),
    "eghn": Table(
        "EGHN: mean squared error of predicted positions, M-complex systems and motion capture",
        "The paper's figures are those a public index of its results lists, and stand beside the form of the published "
        "code, which they come from; the others are left empty.",
        tuple(_eghn()),
    ),
    "gmn": Table(
        "GMN: mean squared error of predicted positions, systems of (isolated particles, sticks, hinges)",
        f"{_UNKNOWN} 500 systems for training, as in the configuration of the published code.",
        tuple(_gmn()),
    ),
}
