"""``fastegnn-md suggest-lag``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from ..errors import DataError, MissingDependencyError, in_shell_words
from ..units import parse_quantity
from .inputs import Dt, Json, Select, StorePath, Topology, Trajectories, frame_distance, has_velocities, open_pairs


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
    """Choose the time step to learn: from velocities, or from slow coordinates where frames are far apart.

    Frames a few femtoseconds apart, with velocities (a short run that saves them, or the store of a harvest): from the
    velocity autocorrelation of each element. Frames picoseconds apart, of a molecule without its solvent: whether kind
    "flow" is the right one, its lag, and whether the frames hold enough transitions (extra 'kinetics').
    """
    from ..data import suggest_flow_lag
    from ..data import suggest_lag as suggest
    from ..data.flow_lag import SHORTEST

    per_ps = None if friction is None else parse_quantity(friction, "friction")
    distance = frame_distance(topology, trajectory, dt)
    far = distance >= SHORTEST
    moving = not far or has_velocities(topology, trajectory)  # frames that are near and have none are refused
    pairs = open_pairs(
        topology,
        trajectory,
        lag=distance,
        select=select,
        dt=dt,
        velocities="stored" if moving else "none",
        store=store,
        progress=not as_json,
    )
    said: dict[str, Any] = {}
    text = []
    if moving:
        found = suggest(pairs, friction=per_ps)
        said, text = found.to_dict(), [str(found)]
        far = far and found.lag is None
    if far:
        try:
            flow = suggest_flow_lag(pairs)
            said["flow"] = flow.to_dict()
            text.append(str(flow))
        except (DataError, MissingDependencyError) as error:
            if not moving:
                raise
            typer.echo(f"jumps that are drawn were not looked at: {in_shell_words(error)}", err=True)
    typer.echo(json.dumps(said, indent=2) if as_json else "\n".join(text))
