"""Components that are extras of the installation, and which extra brings them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from .errors import MissingDependencyError

# Importable name -> extra of pyproject.toml that brings it.
EXTRA_OF: Mapping[str, str] = {
    "ase": "ase",
    "openmm": "openmm",
    "openmmtorch": "openmm-torch",
    "tblite": "xtb",
    "lightning": "train",
    "tensorboard": "train",
    "jinja2": "report",
    "ninja": "compile",
    "matplotlib": "report",
    "torch_scatter": "scatter",
    "e3nn": "tfn",
    "deeptime": "kinetics",
    "distributed": "cluster",
    "physical_validation": "validate",
    "tidynamics": "validate",
    "triton": "gpu",
    "vesin_torch": "gpu",
}
# Extras that bring others.
_BRINGS: Mapping[str, frozenset[str]] = {
    "openmm": frozenset({"ase"}),
    "xtb": frozenset({"ase"}),
    "validate": frozenset({"ase", "kinetics", "report"}),
}
# What no extra brings, or an extra alone does not: the command that does.
_BROUGHT_BY: Mapping[str, str] = {
    "C++ compiler": "apt-get install g++ (macOS: xcode-select --install)",
    "headers of Python": "apt-get install python3-dev",
    "OpenMM platform OpenCL": "apt-get install pocl-opencl-icd ocl-icd-libopencl1 (a GPU: with its driver)",
    "torch_scatter": "make install-scatter",
    "openmmtorch": "make install-openmm-torch",
}


def how_to_get(component: str) -> str:
    """The command that brings a component, by its importable name or its name in :data:`_BROUGHT_BY`; else empty."""
    if component in _BROUGHT_BY:
        return _BROUGHT_BY[component]
    return f"pip install 'fastegnn-md[{EXTRA_OF[component]}]'" if component in EXTRA_OF else ""


def check_installed(user: str, *components: str) -> None:
    """Name all that is missing at once, and before minutes of work.

    Parameters
    ----------
    user : str
        What needs the components, for the message.
    components : str
        Importable names of :data:`EXTRA_OF`.

    Raises
    ------
    MissingDependencyError
        If some of them are not installed.
    """
    missing = [name for name in dict.fromkeys(components) if importlib.util.find_spec(name) is None]
    if missing:
        raise _missing(user, missing)


@contextmanager
def naming_extras(user: str) -> Iterator[None]:
    """Name the extra to install when an optional component is missing.

    Put the imports of the component into it: ``with naming_extras(__name__): from ase import Atoms``.

    Parameters
    ----------
    user : str
        What needs the component, for the message.

    Raises
    ------
    MissingDependencyError
        If a component of :data:`EXTRA_OF` is not installed. Any other failed import is left as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        component = (error.name or "").partition(".")[0]
        if component not in EXTRA_OF:
            raise
        raise _missing(user, [component]) from error


def _missing(user: str, components: Iterable[str]) -> MissingDependencyError:
    *others, last = components
    extras = {EXTRA_OF[name] for name in (*others, last)}
    extras -= {brought for extra in extras for brought in _BRINGS.get(extra, ())}
    named = f"{', '.join(others)} and {last}, which are" if others else f"{last}, which is"
    return MissingDependencyError(
        f"{user} needs {named} not installed; install the {'extras' if len(extras) > 1 else 'extra'}: "
        f"pip install 'fastegnn-md[{','.join(sorted(extras))}]'"
    )
