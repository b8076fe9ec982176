"""What users give out of habit: arguments in the order of other dynamics, names of models, options assigned later."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from fastegnn_md.errors import ConfigError
from fastegnn_md.propagator.base import load
from fastegnn_md.propagator.learned_map import LearnedMap


def propagator_of(given: Any, call: str, misplaced: tuple[Any, ...] = ()) -> LearnedMap:
    """The propagator that was meant: one, or the name or file of one, which is loaded.

    Parameters
    ----------
    given : LearnedMap, str or Path
    call : str
        How the object is made, for the error.
    misplaced : tuple
        Positional arguments that there is no place for.

    Raises
    ------
    ConfigError
        If it is something else, or there are further positional arguments.
    CheckpointError
        If there is no such model.
    """
    if isinstance(given, (str, Path)) and not misplaced:
        return load(given)
    if isinstance(given, LearnedMap) and not misplaced:
        return given
    if not isinstance(given, LearnedMap) and any(isinstance(one, LearnedMap) for one in misplaced):
        raise ConfigError(
            f"propagator is a {type(given).__name__} and the propagator came later; the order is {call}. It has one "
            "time step of its own: leave the time step out"
        )
    if misplaced:
        raise ConfigError(
            f"{type(misplaced[0]).__name__} {misplaced[0]!r} has no place in this order; it is {call}, with everything "
            "else by its name"
        )
    raise ConfigError(
        f"propagator is a {type(given).__name__}; expected a Propagator, a Committee or the name or file of a model: "
        f"{call}"
    )


class ReadOnce:
    """Options that were read when the object was made: to assign them later would do nothing, so it raises.

    A subclass lists them and sets ``_made`` when it is made.
    """

    _read_once: ClassVar[dict[str, str]] = {}  # name -> what to do instead
    _made = False

    def __setattr__(self, name: str, value: Any) -> None:
        if self._made and name in self._read_once:
            raise ConfigError(f"{type(self).__name__}.{name} cannot be assigned: {self._read_once[name]}")
        super().__setattr__(name, value)


ANEW = "it was read when this was made; make a new one"
TIMESTEP = "jumps have the time step of the propagator, classical steps that of the schedule; make a new one"
