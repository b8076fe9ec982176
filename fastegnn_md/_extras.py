"""Components that are extras of the installation, and which extra brings them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .errors import MissingDependencyError

# Importable name -> extra of pyproject.toml that brings it.
EXTRA_OF: Mapping[str, str] = {
    "ase": "ase",
    "openmm": "openmm",
    "openmmtorch": "openmm-torch",
    "lightning": "train",
    "tensorboard": "train",
    "jinja2": "report",
    "ninja": "compile",
    "matplotlib": "report",
    "torch_scatter": "scatter",
    "e3nn": "tfn",
    "deeptime": "validate",
    "physical_validation": "validate",
    "tidynamics": "validate",
    "triton": "gpu",
    "vesin_torch": "gpu",
}


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
        raise MissingDependencyError(
            f"{user} needs {component}, which is not installed; "
            f"install the extra: pip install 'fastegnn-md[{EXTRA_OF[component]}]'"
        ) from error
