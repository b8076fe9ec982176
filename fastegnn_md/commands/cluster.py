"""``--scheduler tcp://…``: bursts run by the workers of a dask cluster that is already there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Annotated

import typer

from .._extras import naming_extras
from ..errors import ConfigError

Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Of a dask cluster whose workers run the bursts, as tcp://node1:8786 (extra 'cluster').",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        min=1,
        help="Processes to share the bursts; with --scheduler, tasks given to it at a time. Default: 1; 64.",
    ),
]
_SECONDS = 10  # for a scheduler to answer in


@contextmanager
def executor_of(scheduler: str | None) -> Iterator[Executor | None]:
    """The executor of a dask cluster, which is left running; None without an address.

    Raises
    ------
    ConfigError
        If nothing answers there.
    MissingDependencyError
        If dask.distributed is not installed.
    """
    if scheduler is None:
        yield None
        return
    with naming_extras("--scheduler"):
        from distributed import Client
    try:
        client = Client(scheduler, timeout=_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no dask scheduler answers at {scheduler!r} within {_SECONDS} s; expected the address that "
            "'dask scheduler' shows, as tcp://node1:8786"
        ) from error
    with client:
        threads = client.nthreads()
        typer.echo(
            f"{scheduler}: {len(threads)} workers, {sum(threads.values())} threads"
            + ("" if threads else "; bursts wait until the first one comes"),
            err=True,
        )
        yield client.get_executor(pure=False)
