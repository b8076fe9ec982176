"""Errors a user can meet, one class per kind of mistake.

Every message says what was given, what was expected and what to do. All inherit from :class:`FastEGNNMDError`, so a
script (and the command line) can catch the whole family, and from the built-in class a Python user would expect.
"""

from __future__ import annotations

import reprlib
from typing import Any

_LONGEST = 200  # characters of what a message quotes
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _LONGEST


def brief(value: Any, *, quoted: bool = True) -> str:
    """What was given, as a message can quote it: one line of at most some hundred characters, whatever it is.

    Parameters
    ----------
    value : any
        A string, a number, or what a file held: nested, with millions of values.
    quoted : bool
        As Python writes it; else as text, for words of others.
    """
    try:
        text = _REPR.repr(value) if quoted else str(value)
    except (ValueError, RecursionError):  # Python does not print an int of more than 4,300 digits
        text = f"<{type(value).__name__} that is too large to print>"
    text = " ".join(text.split())
    return text if len(text) <= 2 * _LONGEST else f"{text[:_LONGEST]} ... {text[-_LONGEST // 2 :]}"


class Remedy(str):
    """A message that ends with what to do: in Python as text, in words of the command line as ``shell``.

    For messages of errors and warnings. Formatted into another text it is only what Python shows; :meth:`after` keeps
    both.

    Parameters
    ----------
    fact : str
        What was given and what was expected.
    python, shell : str
        What to do, the end of the sentence.

    Attributes
    ----------
    shell : str
        The whole message for the command line.
    """

    shell: str

    def __new__(cls, fact: str, python: str = "", shell: str = "") -> Remedy:  # noqa: D102
        message = super().__new__(cls, f"{fact}{python}")
        message.shell = f"{fact}{shell}"
        return message

    @staticmethod
    def after(beginning: str, error: BaseException) -> Remedy:
        """The message of an error, with something before it."""
        return Remedy(beginning, str(error), in_shell_words(error))


def in_shell_words(error: BaseException) -> str:
    """The message of an error or warning as the command line shows it."""
    message = error.args[0] if error.args else ""
    return message.shell if isinstance(message, Remedy) else str(error)


class FastEGNNMDError(Exception):
    """Base class of every error this package raises on purpose."""


class StateError(FastEGNNMDError, ValueError):
    """A :class:`~fastegnn_md.State` was given wrong shapes, dtypes or values."""


class NotFiniteError(StateError):
    """A tensor of a :class:`~fastegnn_md.State` has a NaN or an infinite value.

    Attributes
    ----------
    field : str
        Which one: ``"positions"``, …
    atom : int or None
        Index of the first such atom; None for what is not of atoms, and where nobody knows.
    """

    field: str
    atom: int | None

    def __init__(self, message: str, field: str = "", atom: int | None = None):
        super().__init__(message)
        self.field, self.atom = field, atom


class UnitError(FastEGNNMDError, ValueError):
    """A quantity has no unit, an unknown unit, or the unit of another dimension."""


class GraphError(FastEGNNMDError, ValueError):
    """A neighbour list cannot be built from the positions or the cell given."""

    @classmethod
    def overlapping(cls, i: int, j: int, distance: float) -> GraphError:
        """Of two atoms that lie on each other, at a distance in Å."""
        return cls(f"atoms {i} and {j} are {distance:.1e} Å apart; separate overlapping atoms")


class DataError(FastEGNNMDError, ValueError):
    """A trajectory, a selection or a store cannot give training pairs."""


class ConfigError(FastEGNNMDError, ValueError):
    """A training configuration has an unknown key or a value out of range."""


class TrainingError(FastEGNNMDError, RuntimeError):
    """Training cannot go on: the loss is not finite, or its files cannot be written."""


class CompatibilityError(FastEGNNMDError, ValueError):
    """A system differs from what a propagator was trained on."""


class CheckpointError(FastEGNNMDError, ValueError):
    """A model or training file is truncated, foreign, tampered with or too new."""


class OutputError(FastEGNNMDError, OSError):
    """An output is there already, is an input too, is being written by another process, or cannot be written."""


class ConstraintError(FastEGNNMDError, ValueError):
    """A constraint of the engine cannot be combined with learned jumps."""


class EngineError(FastEGNNMDError, RuntimeError):
    """What computes forces and energies failed, or answered something that is neither."""


class JumpError(FastEGNNMDError, RuntimeError):
    """A guarded jump was refused and nothing could take its place.

    Attributes
    ----------
    atom : int or None
        Index of the atom that failed the guard.
    """

    def __init__(self, message: str, atom: int | None = None):
        super().__init__(message)
        self.atom = atom


class MissingDependencyError(FastEGNNMDError, ImportError):
    """An optional engine or back-end is not installed."""
