"""What a command writes: never over its input, over other files only when asked to, and by one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from .._files import only_writer
from ..errors import OutputError

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there under the name of the output; never an input.")
]


@contextlib.contextmanager
def claimed(
    outputs: Sequence[Path], inputs: Iterable[str | Path | None], *, overwrite: bool, hint: str = ""
) -> Iterator[None]:
    """Check the outputs of a command before its work, and keep other processes from writing them during it.

    Parameters
    ----------
    outputs : sequence of Path
        Files that will be written; the first one, which names the others, is locked.
    inputs : iterable of path or None
        All that the command reads; names of no file are passed over.
    overwrite, hint
        As :func:`check_outputs`.

    Raises
    ------
    OutputError
        As :func:`check_outputs`, and if another process is writing the first one.
    """
    check_outputs(outputs, inputs, overwrite=overwrite, hint=hint)
    with only_writer(outputs[0]):
        check_outputs(outputs, inputs, overwrite=overwrite, hint=hint)  # it may have come meanwhile
        yield


def check_outputs(
    outputs: Sequence[Path], inputs: Iterable[str | Path | None], *, overwrite: bool, hint: str = ""
) -> None:
    """Refuse outputs that would destroy something, or have no place.

    Parameters
    ----------
    outputs : sequence of Path
    inputs : iterable of path or None
    overwrite : bool
        Whether files that are no inputs may be replaced.
    hint : str
        A further way out where an output is there already, as "continue with --resume".

    Raises
    ------
    OutputError
        If an output is an input under whatever name (links and relative paths included), is there already, is a
        folder, or its folder is missing or cannot be written to.
    """
    read = [Path(one) for one in inputs if one is not None and os.path.exists(one)]
    for output in outputs:
        folder = Path(os.path.realpath(output)).parent
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} of the output {output} does not exist; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {folder} of the output {output} is read-only; choose another")
        if not output.exists():
            continue
        if output.is_dir():
            raise OutputError(f"the output {output} is a folder; give the name of a file")
        for one in read:
            if os.path.samefile(output, one):
                raise OutputError(f"the output {output} is the same file as the input {one}; choose another output")
        if not overwrite:
            also = f", {hint}" if hint else ""
            raise OutputError(f"the output {output} is there already; choose another name{also}, or give --overwrite")


@contextlib.contextmanager
def claimed_folder(
    folder: Path, names: Iterable[str], inputs: Iterable[str | Path | None], *, overwrite: bool
) -> Iterator[None]:
    """As :func:`claimed` for files of these names in a folder, which is made if it is missing; its other files stay.

    Raises
    ------
    OutputError
        As :func:`claimed`, and if the folder is a file or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"the output {folder} is a file; give the name of a folder")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another") from error
    check_outputs([folder / name for name in names], inputs, overwrite=overwrite)
    try:
        with only_writer(folder / "results"):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was written
