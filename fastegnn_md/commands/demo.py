"""``fastegnn-md demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("demo-output"),
) -> None:
    """Alanine dipeptide from a classical trajectory to learned dynamics and a report, in about ten minutes."""
    from ..demo import run_demo

    run_demo(output)
