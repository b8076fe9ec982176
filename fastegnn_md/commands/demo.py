"""``fastegnn-md demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .outputs import Overwrite, claimed_folder


def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("demo-output"),
    updates: Annotated[
        int | None,
        typer.Option(
            "--updates", min=1, help="Optimiser updates of each of the two trainings. Default: a few minutes."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Alanine dipeptide from a classical trajectory to learned dynamics and a report, in about ten minutes."""
    from ..demo import DemoSettings, run_demo

    names = ("reference.dcd", "topology.pdb", "bursts.h5md", "learned.xtc", "report.html")
    context.with_resource(claimed_folder(output, names, [], overwrite=overwrite))
    report = run_demo(output, DemoSettings() if updates is None else DemoSettings(updates=updates))
    typer.echo(f"{report}: open it in a browser. The learned trajectory is {output / 'learned.xtc'}.")
