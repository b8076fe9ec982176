"""``fastegnn-md bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .outputs import claimed_folder


def bench(
    context: typer.Context,
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="table1, table2, table3, table7, eghn, gmn; table1-times for relative times."
        ),
    ],
    budget: Annotated[
        str, typer.Option("--budget", help='Time for training, shared by the rows: "90 min", "2 h".')
    ] = "1 h",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the results and checkpoints; continued if it is there.")
    ] = Path("tables"),
    data: Annotated[Path, typer.Option("--data", help="Folder of the data sets.")] = Path("data"),
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    only: Annotated[str, typer.Option("--only", help='Rows whose name fits a pattern: "nbody * p=1".')] = "*",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Systems per update, in place of the paper's.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="On a CPU, compile the kernel of messages first (C++ compiler, ninja).")
    ] = False,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes that simulate data.")] = 1,
) -> None:
    """Train what a table of the papers names and write it down beside the paper's figures.

    A run that was stopped, or ran out of its budget, continues when the command is given again. Results say how many of
    the paper's epochs are done.
    """
    from ..papers.tables.run import parse_budget, run_table
    from ..papers.tables.timing import write_relative_times

    if table == "table1-times":
        typer.echo(write_relative_times(output, device).read_text(encoding="utf-8"))
        return
    context.with_resource(claimed_folder(output, [], [], overwrite=False))  # results there are continued
    written = run_table(
        table,
        budget=parse_budget(budget),
        output=output,
        data=data,
        device=device,
        only=only,
        batch_size=batch_size,
        compiled=compiled,
        processes=processes,
    )
    typer.echo(written.read_text(encoding="utf-8"))
