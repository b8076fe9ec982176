"""Calculators that others make: a user's function is called once and what it gives is looked at."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeGuard

from ...errors import DataError, brief

if TYPE_CHECKING:
    from ase import Atoms
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


def charge_of(calculator: Calculator | None, atoms: Atoms | None = None) -> float | None:
    """Total charge in e, where the calculator or the atoms say it: ``info["charge"]``, initial charges.

    A calculator that has a charge and was given none takes that of the atoms, which is 0 where they say nothing.
    """
    given = getattr(asked_calculator(calculator), "parameters", None) or {}
    info = {} if atoms is None else atoms.info
    for value in (given.get("charge"), info.get("charge")):
        if _is_number(value):
            return float(value)
    charges = None if atoms is None else atoms.arrays.get("initial_charges")
    if charges is not None and charges.any():
        return float(charges.sum())
    return 0.0 if "charge" in given else None


def multiplicity_of(calculator: Calculator | None, atoms: Atoms | None = None) -> int | None:
    """2S + 1, where the calculator or the atoms say it: ``info["multiplicity"]``, ``info["spin"]``, magnetic moments.

    A calculator that has a multiplicity and was given none takes the lowest for the electrons of the atoms.
    """
    given = getattr(asked_calculator(calculator), "parameters", None) or {}
    info = {} if atoms is None else atoms.info
    for value in (given.get("multiplicity"), info.get("multiplicity"), info.get("spin")):
        if _is_number(value):
            return max(1, round(value))
    moments = None if atoms is None else atoms.arrays.get("initial_magmoms")
    if moments is not None and moments.any():
        return 1 + abs(round(float(moments.sum())))
    if atoms is None or "multiplicity" not in given:
        return None
    return 1 + round(atoms.numbers.sum() - (charge_of(calculator, atoms) or 0.0)) % 2


def about_calculator(calculator: Calculator | None, atoms: Atoms) -> dict[str, Any]:
    """What a calculator says of itself and of these atoms: ``theory``, ``charge`` (e) and ``multiplicity``."""
    return {
        "theory": describe_calculator(calculator),
        "charge": charge_of(calculator, atoms),
        "multiplicity": multiplicity_of(calculator, atoms),
    }


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def asked_calculator(calculator: Any) -> Any:
    """The calculator itself where another one counts its calls."""
    return getattr(calculator, "counted", calculator)
