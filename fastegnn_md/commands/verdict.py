"""What a run was like, at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..integrators.verdict import RunVerdict

DOUBTFUL = 3  # exit code of a run that went through and should not be trusted


def tell(verdict: RunVerdict) -> None:
    """Print temperatures and audits, and what speaks against the run; with exit code 3 if anything does."""
    for line in verdict.lines:
        typer.echo(line)
    for reason in verdict.warnings:
        typer.echo(f"warning: {reason}", err=True)
    if verdict.warnings:
        typer.echo("the files are whole, but this run should not be trusted (exit code 3)", err=True)
        raise typer.Exit(DOUBTFUL)
