"""Pictures of what a network adds to a structure: virtual nodes (Fig. 4 of the FastEGNN paper), clusters (EGHN)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import MDAnalysis as mda
import numpy as np

from .._extras import naming_extras
from .._files import write_atomically
from ..data.topology import quiet
from ..errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESIDUE = "VND"


def virtual_node_figure(positions: np.ndarray, bonds: np.ndarray | None, virtual: np.ndarray) -> Figure:
    """A structure and its virtual nodes in three dimensions.

    Parameters
    ----------
    positions : ndarray, shape (N, 3), Å
    bonds : ndarray of int, shape (M, 2), optional
        Drawn as lines.
    virtual : ndarray, shape (C, 3), Å
        Each gets a colour and a number, for they are ordered.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    figure, axes = _structure(positions, bonds)
    axes.scatter(*positions.T, color="0.5", s=8.0, alpha=0.5, label=f"{len(positions)} atoms")
    axes.scatter(
        *virtual.T,
        c=np.arange(len(virtual)),
        cmap="viridis",
        s=90.0,
        edgecolors="black",
        label=f"{len(virtual)} virtual nodes",
    )
    for number, place in enumerate(virtual, start=1):
        axes.text(*place, f"  {number}")
    axes.legend(loc="upper left")
    return figure


def cluster_figure(positions: np.ndarray, bonds: np.ndarray | None, clusters: np.ndarray) -> Figure:
    """A structure whose atoms have the colours of the clusters they are pooled into.

    Parameters
    ----------
    positions, bonds : ndarray
        As in :func:`virtual_node_figure`.
    clusters : ndarray of int, shape (N,)
        Cluster of each atom; of shares the largest.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    figure, axes = _structure(positions, bonds)
    for cluster in np.unique(clusters):
        axes.scatter(*positions[clusters == cluster].T, s=16.0, label=f"cluster {cluster + 1}")
    axes.legend(loc="upper left")
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, completely or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


def _structure(positions: np.ndarray, bonds: np.ndarray | None) -> tuple[Figure, Any]:
    """Axes with the bonds."""
    with naming_extras("a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    axes: Any = figure.add_subplot(projection="3d")
    if bonds is not None and len(bonds):
        # one line for all bonds, broken after each of them
        lines = np.full((len(bonds), 3, 3), np.nan)
        lines[:, :2] = positions[bonds]
        axes.plot(*lines.reshape(-1, 3).T, color="0.6", linewidth=0.8)
    axes.set(xlabel="x, Å", ylabel="y, Å", zlabel="z, Å")
    axes.set_box_aspect(np.ptp(positions, axis=0) + 1.0, zoom=0.85)  # one Å is as long on every axis
    return figure, axes


def write_virtual_nodes(path: Path, atoms: mda.AtomGroup, virtual: np.ndarray) -> None:
    """Write a PDB file of a structure with its virtual nodes as further atoms, HETATM of residues VND 1, 2, ….

    In PyMOL: ``show spheres, resn VND``.

    Parameters
    ----------
    path : Path
    atoms : AtomGroup
        At the positions to write.
    virtual : ndarray, shape (C, 3), Å

    Raises
    ------
    DataError
        If a coordinate does not fit the columns of a PDB file.
    """
    count, last = len(virtual), len(atoms.residues)
    columns = _columns(atoms)
    for name, values in (
        ("names", [f"V{number}" for number in range(1, count + 1)]),
        ("resnames", [_RESIDUE] * count),
        ("resids", np.arange(1, count + 1)),
        ("chainIDs", ["V"] * count),
        ("record_types", ["HETATM"] * count),
        ("elements", [""] * count),
        ("residues", np.arange(last, last + count)),
    ):
        columns[name] = np.concatenate([columns[name], np.asarray(values, dtype=columns[name].dtype.type)])
    _write_pdb(path, columns, np.concatenate([atoms.positions, virtual]))


def write_clusters(path: Path, atoms: mda.AtomGroup, clusters: np.ndarray) -> None:
    """Write a PDB file of a structure with clusters, numbered from 1, as B factors.

    In PyMOL: ``spectrum b``. Parameters and errors as in :func:`cluster_figure` and :func:`write_virtual_nodes`.
    """
    _write_pdb(path, _columns(atoms) | {"tempfactors": clusters + 1.0}, atoms.positions)


def _columns(atoms: mda.AtomGroup) -> dict[str, np.ndarray]:
    """What a PDB file says about each atom, and its residue, counted from 0."""
    defaults = {
        "names": "X",
        "resnames": "UNK",
        "resids": 1,
        "chainIDs": "A",
        "record_types": "ATOM",
        "elements": "",
    }
    columns = {
        name: np.asarray(getattr(atoms, name) if hasattr(atoms, name) else [default] * len(atoms))
        for name, default in defaults.items()
    }
    columns["residues"] = np.unique(atoms.resindices, return_inverse=True)[1]
    return columns


def _write_pdb(path: Path, columns: dict[str, np.ndarray], positions: np.ndarray) -> None:
    residue = columns.pop("residues")
    first = np.unique(residue, return_index=True)[1]
    universe = mda.Universe.empty(
        len(positions), len(first), atom_resindex=residue, residue_segindex=[0] * len(first), trajectory=True
    )
    unsaid = {"altLocs": "", "icodes": "", "occupancies": 1.0, "tempfactors": 0.0, "formalcharges": 0}
    for name, default in unsaid.items():
        columns.setdefault(name, np.array([default] * len(positions)))
    for name, values in columns.items():
        of_residues = name in ("resnames", "resids", "icodes")
        universe.add_TopologyAttr(name, values[first] if of_residues else values)
    universe.add_TopologyAttr("segids", [""])
    universe.atoms.positions = positions
    temporary = path.with_name(f".{path.stem}.partial.pdb")
    try:
        with quiet(), mda.Writer(str(temporary), multiframe=False, bonds=None) as writer:
            writer.write(universe.atoms)
        temporary.replace(path)
    except ValueError as error:
        raise DataError(f"cannot write {path}: {error}; bring the structure to the origin first") from error
    finally:
        temporary.unlink(missing_ok=True)
