"""``fastegnn-md plot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._extras import naming_extras
from ..errors import ConfigError
from .inputs import Model, Select, open_universe
from .outputs import Overwrite, claimed

if TYPE_CHECKING:
    import numpy as np

    from ..state import State


def plot(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="virtual-nodes, or clusters of a model that pools.")],
    model: Model,
    start: Annotated[Path, typer.Argument(metavar="START", help="Structure or trajectory.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Picture to write (.png); a PDB file of that name comes beside it.")
    ],
    topology: Annotated[
        Path | None, typer.Option("--topology", help="Topology, where START has coordinates only.")
    ] = None,
    select: Select = "all",
    overwrite: Overwrite = False,
) -> None:
    """Show where the virtual nodes of a propagator come to lie, or how it pools atoms: a picture and a PDB file.

    In the PDB file virtual nodes are residues VND, clusters are numbers in the column of B factors.
    """
    from ..data.topology import select_atoms
    from ..engines.mdanalysis import state_from_universe
    from ..propagator.base import Propagator
    from ..report.structures import (
        cluster_figure,
        save_figure,
        virtual_node_figure,
        write_clusters,
        write_virtual_nodes,
    )

    if what not in ("virtual-nodes", "clusters"):
        raise ConfigError(f"cannot plot {what!r}; expected virtual-nodes or clusters")
    if output.suffix.lower() != ".png":
        raise ConfigError(f"{output} must end in .png")
    written = output.with_suffix(".pdb")
    context.with_resource(claimed([output, written], [model, start, topology], overwrite=overwrite))
    propagator = Propagator.load(model)
    universe = open_universe(topology or start, [start] if topology else None)
    group = select_atoms(universe, select)
    moving = bool(universe.trajectory.ts.has_velocities)
    state = _with_bonds(state_from_universe(group, velocities="stored" if moving else "zero"), propagator.uses_bonds)
    positions = state.positions.numpy()
    bonds: np.ndarray | None = None if state.bonds is None else state.bonds.numpy()
    if what == "virtual-nodes":
        virtual = propagator.virtual_nodes(state)
        if virtual is None:
            raise ConfigError(
                f"the virtual nodes of {model} have no positions: it has none, or is for periodic systems"
            )
        write_virtual_nodes(written, group, virtual[0].double().numpy())
        save_figure(output, virtual_node_figure(positions, bonds, virtual[0].double().numpy()))
    else:
        clusters = propagator.clusters(state)
        if clusters is None:
            raise ConfigError(f"{model} does not pool atoms into clusters; eghn does")
        write_clusters(written, group, clusters.argmax(1).numpy())
        save_figure(output, cluster_figure(positions, bonds, clusters.argmax(1).numpy()))
    typer.echo(f"saved {output} and {written}")


def _with_bonds(state: State, needed: bool) -> State:
    """The state with bonds from the distances of atoms, where a model needs them and the file has none."""
    if not needed or state.bonds is not None:
        return state
    with naming_extras("fastegnn-md plot"):
        from ase import Atoms

        from ..engines.ase.stepper import guess_bonds
    import torch

    bonds = guess_bonds(Atoms(numbers=state.numbers.numpy(), positions=state.positions.numpy()))
    return state.replace(bonds=torch.from_numpy(bonds))
