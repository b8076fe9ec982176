"""What pairs are made from: universes, which are written to stores, and stores."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import MDAnalysis as mda
import numpy as np

from .. import units
from ..errors import DataError, Remedy
from .bonds import check_bond_lengths
from .frames import check_speeds, check_velocities, file_has_times
from .scratch import Scratch
from .store import Store
from .topology import select_atoms
from .trajectory import write_trajectory

_LOOKED_AT = 30  # frames
_FORGOTTEN = 0.5  # ps; displacements over longer times say nothing of velocities

Source: TypeAlias = mda.Universe | mda.AtomGroup | Store | str | os.PathLike[str]


def open_stores(
    source: Source | Sequence[Source], store: str | os.PathLike[str] | None, *, need_velocities: bool, **options: Any
) -> tuple[Store, ...]:
    """The stores of one or more sources; those that are temporary keep their folder alive.

    Parameters
    ----------
    source, store, options
        As :class:`~fastegnn_md.data.TrajectoryPairs` takes them; options are ``select``, ``dt``, ``stride``,
        ``unwrap``, ``isolated`` and ``progress``.
    need_velocities : bool
        Whether frames must have them.

    Raises
    ------
    DataError
        If there is no source, one is of another kind, lacks velocities, has bonds that are not as long as bonds are, or
        is a store and options of writing one are given.
    """
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise DataError("no source was given; pass a universe or a store, or a list of them")
    scratch = None
    if store is None and any(isinstance(one, (mda.Universe, mda.AtomGroup)) for one in sources):
        scratch = Scratch()
    stores = []
    for index, one in enumerate(sources):
        path = Path(store) if scratch is None and store is not None else Path("pairs.h5md")
        if len(sources) > 1 or scratch is not None:
            path = path.with_name(f"{path.stem}.{index}{path.suffix or '.h5md'}")
        opened = _open(one, path if scratch is None else scratch.folder / path, need_velocities, options)
        if scratch is not None and opened.path.parent == scratch.folder:
            opened.keep(scratch)
        stores.append(opened)
    return tuple(stores)


def check_stored_velocities(stores: Sequence[Store]) -> None:
    """Refuse stores whose velocities are missing, zero, or not those of atoms."""
    for store in stores:
        if not store.has_velocities:
            raise _no_velocities(f"store {str(store.path)!r} has no velocities", store.dt)
        sample = store.velocities[:: max(1, store.n_frames // 100)]
        if not sample.any():
            raise _no_velocities("all stored velocities are zero", store.dt)
        check_velocities(sample, store.topology.masses)
        starts = np.concatenate([np.arange(first, last - 1) for first, last in store.segments])
        if len(starts):
            rows = starts[:: max(1, len(starts) // _LOOKED_AT)]
            both = np.stack([store.positions[rows], store.positions[rows + 1]], axis=1)
            check_speeds(both, store.velocities[rows], store.dt)


def _open(source: Source, path: Path, need_velocities: bool, options: dict[str, Any]) -> Store:
    if isinstance(source, (mda.Universe, mda.AtomGroup)):
        atoms = select_atoms(source, options["select"])
        if need_velocities and not atoms.universe.trajectory.ts.has_velocities:
            spacing = _spacing(atoms.universe.trajectory, options["dt"], options["stride"])
            raise _no_velocities(f"the trajectory of {len(atoms)} atoms has no velocities", spacing)
        arguments = {name: options[name] for name in ("dt", "stride", "unwrap", "isolated", "progress")}
        return write_trajectory(atoms, path, need_velocities=need_velocities, **arguments)
    if isinstance(source, (str, os.PathLike, Store)):
        given = [name for name, default in (("select", "all"), ("dt", None), ("stride", 1)) if options[name] != default]
        if given:
            raise DataError(f"{', '.join(given)} apply when a store is written; this source is one already")
        if isinstance(source, Store):
            return source
        opened = Store(source)
        opened.verify()
        _check_bonds(opened)
        return opened
    raise DataError(f"source is a {type(source).__name__}; expected an MDAnalysis Universe or the path of a store")


def _check_bonds(store: Store) -> None:
    """Refuse a store whose bonds are not as long as bonds are, as trajectories are when they are read."""
    for row in sorted({0, store.n_frames // 2, store.n_frames - 1}):
        cell = store.cells[row] if store.periodic else None
        where = f"frame {row} of {store.path}"
        check_bond_lengths(store.topology, store.positions[row].astype(np.float64), cell, where)


def _spacing(reader: Any, dt: float | None, stride: int) -> float | None:
    """Time between the frames that are read, ps; None where nobody knows."""
    known = dt is not None or file_has_times(reader)
    return stride * float(reader.dt if dt is None else dt) if known else None


def _no_velocities(fact: str, spacing: float | None) -> DataError:
    if spacing is not None and spacing >= _FORGOTTEN:
        return DataError(
            Remedy(
                f"{fact}, and its frames are {units.format_time(spacing)} apart: by then velocities are forgotten, and "
                "differences of frames are none. Ways out: jumps that are drawn, of a molecule without solvent",
                " (PropagatorConfig(kind='flow'), with pairs of velocities='none'); short bursts from the frames, for "
                "steps of femtoseconds (fastegnn_md.harvest.harvest draws velocities at a temperature)",
                " (train --kind flow); short bursts from the frames, for steps of femtoseconds (fastegnn-md harvest "
                "draws velocities at --temperature)",
            )
        )
    return DataError(
        Remedy(
            f"{fact}. Ways out: harvest short bursts from the frames",
            " (fastegnn_md.harvest.harvest draws velocities at a temperature); velocities='central' (differences of "
            "neighbouring frames, approximate); velocities='forward' (looks into the future, for published tables "
            "only); velocities='none' (position-only propagators)",
            " (fastegnn-md harvest draws velocities at --temperature); for train and evaluate --velocities central "
            "(differences of neighbouring frames, approximate), or a model of --kind position",
        )
    )


def friction_of(source: Source | Sequence[Source], given: float | str | None) -> float | None:
    """Langevin friction of the sources in 1/ps: the one that is given, else what they say; None where nobody says.

    Raises
    ------
    DataError
        If the given one is no friction.
    """
    if given is None:
        sources = source if isinstance(source, (list, tuple)) else [source]
        readers = [getattr(getattr(one, "universe", None), "trajectory", None) for one in sources]
        said = [friction for reader in readers if (friction := getattr(reader, "friction", None)) is not None]
        return max(said, default=None)
    friction = units.parse_quantity(given, "friction") if isinstance(given, str) else float(given)
    if not (math.isfinite(friction) and friction >= 0):
        raise DataError(f"friction is {given}; expected a number >= 0 in 1/ps, or with its unit")
    return friction
