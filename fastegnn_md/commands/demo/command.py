"""``fastegnn-md demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..outputs import Overwrite, claimed_folder


def demo(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("demo-output"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Little of everything: shows that all is installed, and no gain.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Three systems, each by its own engine and by jumps, in a few minutes: what is gained by the clock."""
    from .records import QUICK, DemoSettings
    from .report import summary_lines
    from .run import run_demo

    names = ("copper.trr", "aspirin.traj", "ala2.dcd", "report.html")
    context.with_resource(claimed_folder(output, names, [], overwrite=overwrite))
    steps = run_demo(output, QUICK if quick else DemoSettings())
    for line in summary_lines(steps):
        typer.echo(line)
    typer.echo(f"{output / 'report.html'}: open it in a browser.")
