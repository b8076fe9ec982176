"""``fastegnn-md models``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OutputError
from .inputs import Json
from .outputs import Overwrite, claimed

if TYPE_CHECKING:
    from ..propagator.catalogue import Catalogue


def models(
    context: typer.Context,
    as_json: Json = False,
    start: Annotated[
        tuple[str, Path] | None,
        typer.Option("--start", metavar="NAME FILE", help="Write the structure that comes with a model."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """List the trained propagators that come with the package; every MODEL can be one of these names.

    Errors are those of one step on held-out pairs, over the best of three predictors that learn nothing. "run" are the
    options of "fastegnn-md run" for the structure of the model.
    """
    from ..propagator.catalogue import Catalogue

    catalogue = Catalogue()
    if start is not None:
        name, file = start
        source = catalogue.start(name)
        if file.suffix.lower() != source.suffix:
            raise OutputError(f"the structure of {name} is a {source.suffix} file; end {file} so, as {source.name}")
        context.with_resource(claimed([file], [source], overwrite=overwrite))
        shutil.copyfile(source, file)
        typer.echo(f"saved {file}: {catalogue.entries[name].system}")
        return
    described = _described(catalogue)
    if as_json:
        typer.echo(json.dumps(described, indent=2, ensure_ascii=False))
    elif not described:
        typer.echo("this version of the package brings no trained models")
    else:
        for line in _lines(described):
            typer.echo(line)


def _described(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Each model: what the catalogue says and what its file says."""
    rows = []
    for name, entry in catalogue.entries.items():
        manifest = catalogue.manifest(name)
        file = {
            "timestep_ps": manifest.timestep_ps,
            "kind": manifest.config.kind,
            "periodic": manifest.periodic,
            "over_best_baseline": manifest.metrics.get("over_best_baseline", {}),
        }
        said = entry.model_dump(mode="json") | {"start": entry.start and catalogue.start(name).name}
        rows.append({"name": name} | said | file)
    return rows


def _lines(models: list[dict[str, Any]]) -> list[str]:
    """A table of what is short, and below it what is long."""
    from ..units import format_time

    table = [("name", "Δt", "kind", "T / K", "error x", "error v", "engine, theory")]
    for one in models:
        low, high = one["temperature_K"]
        temperature = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        errors = (one["over_best_baseline"].get(key) for key in ("x", "v"))
        shown = ("" if error is None else f"{error:.3f}" for error in errors)
        source = f"{one['engine']}, {one['theory']}, steps of {one['classical_timestep_fs']:g} fs"
        table.append((one["name"], format_time(one["timestep_ps"]), one["kind"], temperature, *shown, source))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    for one in models:
        lines += ["", f"{one['name']}: {one['system']}"]
        if one["start"] is not None:
            options = " ".join(filter(None, (one["run"], "--steps 100 -o run.xtc")))
            lines += [f"  start    {one['start']}", f"  run      fastegnn-md run {one['name']} {options}"]
        lines += [f"  made by  {one['command']} (seed {one['seed']})"]
    return lines
