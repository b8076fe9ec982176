"""Data sets of the tables, by name: what is simulated here, and what the user has to have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..datasets.motion_steps import RUN, WALK, MotionBenchmark, MotionSteps, motion_files, motion_steps
from ..datasets.nbody import ChargedSystems, ChargedSystemsRecipe, charged_systems
from ..datasets.protein import ProteinSteps, adk_equilibrium, protein_steps
from ..datasets.water3d import RADIUS, Water3D
from .graphs import FluidGraphs, GraphSet, complete_graphs, given_edges, radius_graphs, with_speed

Splits = dict[str, GraphSet]
_PROTEIN_RADIUS = 10.0  # Å
_MOTIONS = {"mocap-walk": WALK, "mocap-run": RUN}
# Bones that the published code of GMN takes for sticks, by the numbers of joints in the skeletons of the CMU database.
_STICKS = ((0, 11), (12, 13), (2, 3), (7, 8), (17, 18), (24, 25))
OBJECTS = ((1, 2, 0), (2, 0, 1), (3, 2, 1))  # isolated particles, sticks and hinges of the data sets of GMN


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


def check_data(name: str, folder: Path) -> None:
    """Look for the files that the user has to have, without reading them.

    Raises
    ------
    DataError
        If they are missing; the message says which and from where.
    """
    if name == "adk":
        adk_equilibrium(folder)
    elif name == "water-3d":
        Water3D(folder / "Water-3D" / "train.h5")
    elif name in _MOTIONS:
        motion_files(folder / "mocap", _MOTIONS[name])


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
    return GraphSet(
        systems.x,
        systems.v,
        systems.target,
        with_speed(systems.v, systems.charges),
        systems.counts,
        complete_graphs,
        dropped=dropped,
    )


def mcomplex_graphs(systems: ChargedSystems) -> GraphSet:
    """Complete graphs of M-complex systems; the node feature is the speed, as in the code of EGHN.

    Edge attributes beside the length: q_i q_j, and 1 where both ends belong to one complex.
    """
    graphs = charged_graphs(systems, 0.0)
    graphs.h = graphs.h[:, :1]
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


def object_graphs(systems: ChargedSystems) -> GraphSet:
    """Complete graphs of free particles, sticks and hinges; the node feature is the speed, as in the code of GMN.

    Edge attributes beside the length: q_i q_j, and 1 along a stick, 2 along an arm of a hinge.
    """
    graphs = charged_graphs(systems, 0.0)
    graphs.h = graphs.h[:, :1]
    system = np.repeat(np.arange(len(systems)), systems.counts)
    starts = np.flatnonzero(np.diff(systems.bodies, prepend=-1) | np.diff(system, prepend=-1))
    sizes = np.diff(np.append(starts, len(system)))
    graphs.sticks, graphs.hinges = (
        torch.from_numpy(starts[sizes == corners, None] + np.arange(corners)) for corners in (2, 3)
    )
    charges, body, size, joint = (
        torch.from_numpy(one)
        for one in (
            systems.charges,
            np.repeat(starts, sizes),
            np.repeat(sizes, sizes),
            np.arange(len(system)) == np.repeat(starts, sizes),
        )
    )

    def attributes(nodes: torch.Tensor) -> torch.Tensor:
        one, other = nodes
        same = body[one] == body[other]
        rigid = same * ((size[one] == 2) + 2 * ((size[one] == 3) & (joint[one] | joint[other])))
        return torch.stack([charges[one] * charges[other], rigid.to(charges)], dim=1)

    graphs.attributes = attributes
    return graphs


def _objects(isolated: int, sticks: int, hinges: int) -> Callable[[float, Path, int, bool], Splits]:
    def load(dropped: float, folder: Path, processes: int, progress: bool) -> Splits:
        recipe = ChargedSystemsRecipe.nbody(isolated, sticks, hinges, systems=(500, 2000, 2000))
        name = f"objects-{isolated}-{sticks}-{hinges}.h5"
        systems = charged_systems(recipe, folder / name, processes=processes, progress=progress)
        return {split: object_graphs(one) for split, one in systems.items()}

    return load


def protein_graphs(steps: ProteinSteps, dropped: float) -> GraphSet:
    """Graphs of the atoms of a protein within 10 Å; node features are the speed and the partial charge."""
    systems, atoms, _ = steps.x.shape
    x, v, target = (one.reshape(-1, 3) for one in (steps.x, steps.v, steps.target))
    features = with_speed(v, np.tile(steps.charges, systems))
    return GraphSet(x, v, target, features, np.full(systems, atoms), radius_graphs(_PROTEIN_RADIUS), dropped=dropped)


def _protein(dropped: float, folder: Path, processes: int, progress: bool) -> Splits:
    parts = protein_steps(adk_equilibrium(folder), progress=progress)
    return {split: protein_graphs(one, dropped) for split, one in parts.items()}


def _water3d(dropped: float, folder: Path, processes: int, progress: bool) -> Splits:
    home = folder / "Water-3D"
    return {
        split: FluidGraphs(
            Water3D(home / f"{split}.h5", turned=split == "test"), radius_graphs(RADIUS), dropped=dropped
        )
        for split in ("train", "valid", "test")
    }


def motion_graphs(steps: MotionSteps) -> GraphSet:
    """Joints joined along one bone and along two; the node feature is the speed.

    Edge attributes beside the length: the number of bones, and 1 for one bone. Sticks are the bones that GMN takes.
    """
    systems, joints, _ = steps.x.shape
    one = np.zeros((joints, joints), dtype=bool)
    one[tuple(steps.bones.T)] = one[tuple(steps.bones.T[::-1])] = True
    two = (one @ one) & ~one & ~np.eye(joints, dtype=bool)
    hops = torch.from_numpy(one + 2 * two)
    x, v, target = (part.reshape(-1, 3) for part in (steps.x, steps.v, steps.target))
    sticks = np.array([pair for pair in _STICKS if max(pair) < joints and one[pair]], dtype=np.int64).reshape(-1, 2)

    def attributes(nodes: torch.Tensor) -> torch.Tensor:
        bones = hops[nodes[0] % joints, nodes[1] % joints]
        return torch.stack([bones, (bones == 1).to(bones)], dim=1)

    return GraphSet(
        x,
        v,
        target,
        np.linalg.norm(v, axis=1, keepdims=True),
        np.full(systems, joints),
        given_edges(np.argwhere(one | two).T),
        attributes=attributes,
        sticks=(sticks + joints * np.arange(systems)[:, None, None]).reshape(-1, 2),
    )


def _motion(benchmark: MotionBenchmark) -> Callable[[float, Path, int, bool], Splits]:
    def load(dropped: float, folder: Path, processes: int, progress: bool) -> Splits:
        return {split: motion_graphs(one) for split, one in motion_steps(folder / "mocap", benchmark).items()}

    return load


DATA: dict[str, Callable[[float, Path, int, bool], Splits]] = {
    "nbody-100": _nbody(100),
    "adk": _protein,
    "water-3d": _water3d,
    **{name: _motion(benchmark) for name, benchmark in _MOTIONS.items()},
    **{f"objects-{p}-{s}-{h}": _objects(p, s, h) for p, s, h in OBJECTS},
    **{f"mcomplex-{m}-{n}-1": _mcomplex(m, n, 1) for m, n in ((3, 3), (5, 5), (5, 10), (10, 10))},
    **{f"mcomplex-{m}-{n}-5": _mcomplex(m, n, 5) for m, n in ((3, 3), (5, 5), (5, 10), (10, 10))},
}
