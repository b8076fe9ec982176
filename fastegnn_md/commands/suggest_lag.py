"""``fastegnn-md suggest-lag``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..units import parse_quantity
from .inputs import Dt, Json, Select, StorePath, Topology, Trajectories, frame_distance, open_pairs


def suggest_lag(
    topology: Topology,
    trajectory: Trajectories = None,
    friction: Annotated[
        str | None, typer.Option("--friction", help='Langevin friction of the run, as "1/ps", for the noise floor.')
    ] = None,
    select: Select = "all",
    dt: Dt = None,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Choose the time step to learn from the velocity autocorrelation of each element.

    Needs velocities, and frames a few femtoseconds apart: a short run that saves them, or the store of a harvest.
    """
    from ..data import suggest_lag as suggest

    per_ps = None if friction is None else parse_quantity(friction, "friction")
    pairs = open_pairs(
        topology,
        trajectory,
        lag=frame_distance(topology, trajectory, dt),
        select=select,
        dt=dt,
        velocities="stored",
        store=store,
        progress=not as_json,
    )
    found = suggest(pairs, friction=per_ps)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
