"""The structure that comes with a model of the package, where a command is given none."""

from __future__ import annotations

from pathlib import Path

import typer

from ..errors import ConfigError


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
            f"START is missing: {model} is a file, and only models that come with the package bring a structure; "
            f"give one after it"
        )
    catalogue = Catalogue()
    start = catalogue.start(str(model))
    lowest = catalogue.entries[str(model)].temperature_K[0]
    told = "" if temperature is not None else f" at {lowest:g} K, the lowest temperature of its training data"
    typer.echo(f"{model} starts from its own structure, {start.name}{told}", err=True)
    return start, lowest if temperature is None else temperature
