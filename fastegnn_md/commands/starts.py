"""Structures that runs start from: those that come with models of the package, boxes left out, a look at the bonds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    import MDAnalysis as mda
    import numpy as np

    from ..propagator.learned_map import LearnedMap
    from ..state import State


def own_start(model: Path, topology: Path | None, temperature: float | None) -> tuple[Path, float]:
    """The structure that comes with a model, and the temperature where none is given; the user is told of both.

    Raises
    ------
    ConfigError, CheckpointError
        If the model is a file or comes with no structure, or a topology is given.
    """
    from ..propagator.catalogue import Catalogue, is_file

    if topology is not None:
        raise ConfigError(f"--topology {topology} goes with a START that has coordinates only; give both")
    if is_file(model):
        raise ConfigError(
            f"START is missing: only models that come with the package bring a structure; give one after {model}"
        )
    catalogue = Catalogue()
    start = catalogue.start(str(model))
    lowest = catalogue.entries[str(model)].temperature_K[0]
    told = "" if temperature is not None else f" at {lowest:g} K, the lowest temperature of its training data"
    typer.echo(f"{model} starts from its own structure, {start.name}{told}", err=True)
    return start, lowest if temperature is None else temperature


def leave_box_out(group: mda.AtomGroup, start: Path) -> None:
    """Leave the box out of all frames and put the molecule together, for drawn jumps; the user is told."""
    from ..data.trajectory import leave_box

    if leave_box(group):
        typer.echo(
            f"the box of {start} is left out, its molecule put together: draws are of isolated molecules", err=True
        )


def check_start(
    name: str, group: mda.AtomGroup, state: State, bonds: np.ndarray | None, propagator: LearnedMap | None = None
) -> None:
    """Refuse a state that cannot be one of these atoms: coordinates in nm, atoms in another order or twice.

    Bonds (M, 2) are held against those of training where the propagator has seen bonds, else against covalent radii.

    Raises
    ------
    DataError
        As :func:`..integrators.start.check_start`, :func:`..data.bonds.check_spacing` and
        :func:`..data.bonds.check_bond_lengths`.
    """
    import torch

    from ..data.bonds import check_bond_lengths, check_spacing
    from ..data.topology import Topology
    from ..integrators.start import check_start as check_bonds

    if bonds is not None:
        state = state.replace(bonds=torch.as_tensor(bonds, dtype=torch.int64).view(-1, 2))
    trained = propagator is not None and bool(propagator.limits.bonds)
    if propagator is not None and trained:
        check_bonds(name, state, propagator.limits)
    x, cell = state.positions.numpy(), None if state.cell is None else state.cell[0].numpy()
    check_spacing(group, x, cell, name)
    if state.bonds is not None and not trained:
        topology = Topology(state.numbers.numpy(), state.masses.numpy(), bonds=state.bonds.numpy())
        check_bond_lengths(topology, x, cell, name, atoms=group)
