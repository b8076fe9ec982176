"""Calculators that others make: a user's function is called once and what it gives is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import DataError, brief

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


def new_calculator(factory: Callable[[], Any]) -> Calculator:
    """Call a function that makes a calculator.

    Raises
    ------
    DataError
        If it fails, or what it returns is no ASE calculator with energy and forces.
    """
    name = getattr(factory, "__qualname__", None) or repr(factory)
    try:
        made = factory()
    except Exception as error:  # of any program; each has errors of its own
        raise DataError(
            f"the engine factory {name}() failed with {type(error).__name__}: {brief(error, quoted=False)}; expected a "
            "function that needs no arguments and returns an ASE calculator"
        ) from error
    lacking = {"energy", "forces"} - set(getattr(made, "implemented_properties", ("energy", "forces")))
    if isinstance(made, type) or not callable(getattr(made, "get_property", None)) or lacking:
        raise DataError(
            f"the engine factory {name}() returned a {type(made).__name__}; expected an ASE calculator with energy and "
            "forces"
        )
    return made
