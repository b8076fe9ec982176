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


# What tells one level of theory from another, where a calculator has it as a parameter.
_LEVEL = ("method", "xc", "basis", "model", "solvation")


def describe_calculator(calculator: Calculator | None, known: str = "") -> str:
    """Program and level of theory, as far as a calculator says them; empty without one.

    A subclass of the calculator that is ``known`` by its description is described as that one.
    """
    if calculator is None:
        return ""
    calculator = asked_calculator(calculator)
    given = getattr(calculator, "parameters", None) or {}
    level = ", ".join(f"{name}={brief(given[name], quoted=False)}" for name in _LEVEL if given.get(name) is not None)
    names = [kind.__name__ + (f" ({level})" if level else "") for kind in type(calculator).__mro__]
    return known if known in names else names[0]


def charge_of(calculator: Calculator | None) -> float | None:
    """Total charge in e, where the calculator says it."""
    charge = (getattr(asked_calculator(calculator), "parameters", None) or {}).get("charge")
    return float(charge) if isinstance(charge, (int, float)) and not isinstance(charge, bool) else None


def asked_calculator(calculator: Any) -> Any:
    """The calculator itself where another one counts its calls."""
    return getattr(calculator, "counted", calculator)
