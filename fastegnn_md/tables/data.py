"""Data sets of the tables, by name: what is simulated here, and what the user has to have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..data.nbody import ChargedSystems, ChargedSystemsRecipe, charged_systems
from .graphs import GraphSet, complete_graphs

Splits = dict[str, GraphSet]


def load_data(name: str, dropped: float, folder: Path, *, processes: int = 1, progress: bool = True) -> Splits:
    """The splits of a data set of a table.

    Parameters
    ----------
    name : str
        ``nbody-100``, or another name of :data:`DATA`.
    dropped : float
        Edge dropping rate p.
    folder : Path
        Where data sets are kept.
    processes : int
        That simulate, where it has to be simulated.
    progress : bool

    Returns
    -------
    dict of GraphSet
        ``train``, ``valid`` and ``test``.

    Raises
    ------
    DataError
        If files that the user has to have are missing; the message says which and from where.
    """
    return DATA[name](dropped, folder, processes, progress)


def _nbody(particles: int) -> Callable[[float, Path, int, bool], Splits]:
    def load(dropped: float, folder: Path, processes: int, progress: bool) -> Splits:
        systems = charged_systems(
            ChargedSystemsRecipe.nbody(particles),
            folder / f"nbody-{particles}.h5",
            processes=processes,
            progress=progress,
        )
        return {split: charged_graphs(one, dropped) for split, one in systems.items()}

    return load


def charged_graphs(systems: ChargedSystems, dropped: float) -> GraphSet:
    """Complete graphs of charged particles; node features are the speed and the charge."""
    speed = np.linalg.norm(systems.v, axis=1)
    return GraphSet(
        systems.x,
        systems.v,
        systems.target,
        np.stack([speed, systems.charges], axis=1),
        systems.counts,
        complete_graphs,
        dropped=dropped,
    )


def mcomplex_graphs(systems: ChargedSystems) -> GraphSet:
    """The same for M-complex systems, with q_i q_j and whether both ends belong to one complex as edge attributes."""
    graphs = charged_graphs(systems, 0.0)
    charges, bodies = torch.from_numpy(systems.charges), torch.from_numpy(systems.bodies)

    def attributes(nodes: torch.Tensor) -> torch.Tensor:
        q, body = charges[nodes], bodies[nodes]
        return torch.stack([q[0] * q[1], (body[0] == body[1]).to(q)], dim=1)

    graphs.attributes = attributes
    return graphs


def _mcomplex(complexes: int, average: int, types: int) -> Callable[[float, Path, int, bool], Splits]:
    def load(dropped: float, folder: Path, processes: int, progress: bool) -> Splits:
        recipe = ChargedSystemsRecipe.mcomplex(complexes, average, types)
        name = f"mcomplex-{complexes}-{average}-{types}.h5"
        systems = charged_systems(recipe, folder / name, processes=processes, progress=progress)
        return {split: mcomplex_graphs(one) for split, one in systems.items()}

    return load


DATA: dict[str, Callable[[float, Path, int, bool], Splits]] = {
    "nbody-5": _nbody(5),
    "nbody-100": _nbody(100),
    **{f"mcomplex-{m}-{n}-1": _mcomplex(m, n, 1) for m, n in ((3, 3), (5, 5), (5, 10), (10, 10))},
    **{f"mcomplex-{m}-{n}-5": _mcomplex(m, n, 5) for m, n in ((3, 3), (5, 5), (5, 10), (10, 10))},
}
