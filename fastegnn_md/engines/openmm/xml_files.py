"""XML that OpenMM reads, looked through before OpenMM sees it: some of it runs code.

A serialised PythonForce holds a pickle, a TorchForce names a program, forces of other plugins read and write files, and
force field files may hold Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from ..._extras import naming_extras
from ...errors import DataError, brief

_DEEPEST = 100  # elements within each other; OpenMM writes ten, and its reader has no limit but that of the stack
_SCRIPTS = ("Script", "InitializationScript")


class _Refused(Exception):
    """Why a file is not read further."""


def check_serialized(text: str, source: str | Path, kind: str) -> None:
    """Refuse XML that is anything but one object of OpenMM's own classes, which hold numbers and formulas only.

    Parameters
    ----------
    text : str
        As ``openmm.XmlSerializer.serialize`` writes it. It is not given to OpenMM here.
    source : str or Path
        Where it is from, for messages.
    kind : str
        Class of the object: ``"System"`` or ``"State"``.

    Raises
    ------
    DataError
        If it holds an object of another class (a PythonForce or a force of a plugin), is of another kind, or is XML as
        OpenMM does not write it: with entities, comments, or elements within each other without end.
    """
    with naming_extras(__name__):
        import openmm
    own = {name for name, value in vars(openmm).items() if isinstance(value, type)} - {
        "PythonForce",
        "PythonTorchForce",
    }

    def look(tag: str, attributes: Mapping[str, str], depth: int) -> None:
        found = attributes.get("type")
        if depth == 1 and not tag == found == kind:
            raise _Refused(f"holds a {brief(tag, quoted=False)}, expected a serialised OpenMM {kind}")
        if found is not None and found not in own and not found.isdigit():
            raise _Refused(
                f"holds a {brief(found, quoted=False)}, which is not one of OpenMM's own objects that hold numbers "
                "only, and may run code when it is read"
            )

    _look_through(text, source, look, bare=True)


def check_forcefield(path: Path) -> None:
    """Refuse a force field file, or one that it includes, that holds Python code.

    Parameters
    ----------
    path : Path
        An existing file; those that OpenMM brings need no look.

    Raises
    ------
    DataError
        If it does, or is not XML.
    """
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop().resolve()
        if file in seen:
            continue
        seen.add(file)
        included: list[str] = []

        def look(tag: str, attributes: Mapping[str, str], depth: int, included: list[str] = included) -> None:
            if tag in _SCRIPTS:
                raise _Refused("holds a script, which is run when it is read")
            if tag == "Include":
                included.append(attributes.get("file", ""))

        try:
            text = file.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the force field {file}: {error.strerror or error}") from error
        _look_through(text, file, look)
        waiting += [place for name in included for place in (file.parent / name, Path(name)) if place.is_file()]


def _look_through(
    text: str | bytes, source: str | Path, look: Callable[[str, Mapping[str, str], int], None], *, bare: bool = False
) -> None:
    """Show every element to a function that may raise; nothing of the file is kept.

    With ``bare``, what OpenMM does not write is refused: its own reader may see it otherwise than this one.
    """
    parser = expat.ParserCreate("utf-8" if isinstance(text, str) else None)
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise _Refused(f"has more than {_DEEPEST} elements within each other")
        look(tag, attributes, depth)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(what: str) -> Callable[..., NoReturn]:
        def handler(*_: object) -> NoReturn:
            raise _Refused(f"has {what}, which OpenMM does not write; it may hide what is in the file")

        return handler

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse("a document type")  # entities may stand for text without end
    if bare:
        parser.StartCdataSectionHandler = refuse("a CDATA section")
        parser.CommentHandler = refuse("a comment")
        parser.ProcessingInstructionHandler = refuse("a processing instruction")
    try:
        parser.Parse(text, True)
    except _Refused as error:
        raise DataError(f"{source} {error}") from None
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"{source} is not well-formed XML: {error}") from error
