"""Arguments that several commands share, and how a topology and trajectories become pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, DataError
from ..units import parse_quantity

if TYPE_CHECKING:
    from MDAnalysis import Universe

    from ..data import TrajectoryPairs
    from ..propagator.learned_map import LearnedMap

Topology = Annotated[
    Path,
    typer.Argument(metavar="TOPOLOGY", help="Topology or structure that MDAnalysis or ASE reads, or a store (.h5md)."),
]
Trajectories = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[TRAJECTORY]...", help="Trajectories, read one after the other; none with a store."),
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help='Trained propagator (.safetensors), or a name that "fastegnn-md models" lists.'
    ),
]
Members = Annotated[
    list[Path] | None,
    typer.Option(
        "--committee",
        metavar="MODEL",
        help="A further model whose predictions are averaged with those of MODEL; repeat for more.",
    ),
]
Select = Annotated[str, typer.Option("--select", help="MDAnalysis selection of the atoms.")]
Dt = Annotated[str | None, typer.Option("--dt", help='Time between frames, as "2 ps"; only where the file has none.')]
Bonds = Annotated[
    str | None,
    typer.Option("--bonds", help="guess: take bonds from the distances of atoms, where the topology has none."),
]
Velocities = Annotated[
    str | None,
    typer.Option(
        "--velocities",
        help="stored, central (differences of frames), forward (looks into the future) or none. "
        "Default: stored, or none for position-only propagators.",
    ),
]
StorePath = Annotated[
    Path | None,
    typer.Option("--store", help="Keep the frames in this store (.h5md) and reuse it; default: a temporary one."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Translate the jump first: for a GPU, or where the C++ library does not serve (half a minute then; C++ "
        "compiler, extra 'compile').",
    ),
]
ConserveEnergy = Annotated[
    bool, typer.Option("--conserve-energy", help="Scale velocities after each jump to conserve the true energy (ase).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def open_model(model: Path, members: list[Path] | None = None) -> LearnedMap:
    """Load a propagator, or a committee of it and further members.

    Raises
    ------
    CheckpointError, ConfigError, CompatibilityError
        As :meth:`fastegnn_md.Propagator.load` and :class:`fastegnn_md.Committee`.
    """
    from ..nn.native.library import library
    from ..propagator import Committee, load

    library()  # compiled once on a machine: before a bar of progress begins, whose speed it would spoil
    return Committee.load([model, *members]) if members else load(model)


def file_components(*files: Path) -> list[str]:
    """What reading these files needs, by the importable names of :mod:`fastegnn_md._extras`."""
    from ..data.ase_files import ase_format

    return ["ase"] if any(path.exists() and ase_format(path) for path in files) else []


def open_universe(
    topology: Path, trajectories: list[Path] | None, dt: str | None = None, bonds: str | None = None
) -> Universe:
    """Open files with MDAnalysis or ASE; missing and unreadable ones become a DataError.

    With ``bonds="guess"`` a topology without bonds gets those that distances suggest, and the user is told.
    """
    from ..data import load_universe

    if bonds not in (None, "guess"):
        raise ConfigError(f"--bonds {bonds!r}; expected guess, or leave it out")
    options: dict[str, Any] = {} if dt is None else {"dt": parse_quantity(dt, "time")}
    universe = load_universe(topology, *(trajectories or []), **options)
    if bonds is not None:
        from ..data.bonds import add_guessed_bonds

        count = add_guessed_bonds(universe)
        if count:
            typer.echo(f"{topology} has no bonds: {count} are taken from the distances of atoms", err=True)
    return universe


def open_pairs(
    topology: Path,
    trajectories: list[Path] | None,
    *,
    lag: float | str,
    select: str,
    dt: str | None,
    velocities: str,
    store: Path | None,
    stride: int = 1,
    time_reversal: bool = False,
    bonds: str | None = None,
    friction: str | None = None,
    isolated: bool = False,
    progress: bool = True,
) -> TrajectoryPairs:
    """Pairs from the files named on the command line; ``isolated`` ones lose their box.

    Raises
    ------
    DataError
        If a file is missing or unreadable, or gives no such pairs.
    """
    from ..data import TrajectoryPairs

    common: dict[str, Any] = {
        "lag": lag,
        "velocities": velocities,
        "time_reversal": time_reversal,
        "friction": friction,
        "progress": progress,
    }
    written = _written_store(topology, trajectories or [])
    if written is not None:
        options = {
            "--select": select != "all",
            "--dt": dt,
            "--store": store,
            "--stride": stride != 1,
            "--bonds": bonds,
        }
        for name, given in options.items():
            if given:
                raise DataError(f"{name} applies when a trajectory is read; {written} is a store already")
        return TrajectoryPairs(written, **common)
    universe = open_universe(topology, trajectories, bonds=bonds)
    return TrajectoryPairs(
        universe,
        select=select,
        store=store,
        dt=None if dt is None else parse_quantity(dt, "time"),
        stride=stride,
        isolated=isolated,
        **common,
    )


def frame_distance(topology: Path, trajectories: list[Path] | None, dt: str | None = None) -> float:
    """Time between frames of the files named on the command line, ps.

    Raises
    ------
    DataError
        If a file is missing or unreadable.
    """
    from ..data import Store
    from ..data.topology import quiet

    written = _written_store(topology, trajectories or [])
    if written is not None:
        return Store(written).dt
    if dt is not None:
        return parse_quantity(dt, "time")
    with quiet():  # who makes pairs of a file without times is told
        return float(open_universe(topology, trajectories).trajectory.dt)


def has_velocities(topology: Path, trajectories: list[Path] | None) -> bool:
    """Whether the files named on the command line have velocities.

    Raises
    ------
    DataError
        If a file is missing or unreadable.
    """
    from ..data import Store
    from ..data.topology import quiet

    written = _written_store(topology, trajectories or [])
    if written is not None:
        return Store(written).has_velocities
    with quiet():
        return bool(open_universe(topology, trajectories).trajectory.ts.has_velocities)


def _written_store(topology: Path, trajectories: list[Path]) -> Path | None:
    """The store among the arguments: the topology itself, or the only trajectory."""
    if topology.suffix == ".h5md" and trajectories:
        raise DataError(f"{topology} is a store and brings its own frames; leave {trajectories[0]} out")
    for path in (topology, *trajectories):
        if not path.exists():
            raise DataError(f"{path} does not exist; give the path of a topology, a trajectory or a store")
    if topology.suffix == ".h5md":
        return topology
    if len(trajectories) == 1 and trajectories[0].suffix in (".h5md", ".h5"):
        import h5py

        try:
            with h5py.File(trajectories[0], "r") as file:
                return trajectories[0] if "fastegnn_md" in file else None
        except OSError as error:
            raise DataError(f"cannot read {trajectories[0]}: {error}") from error
    return None
