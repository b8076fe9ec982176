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


@contextmanager
def naming_extras(user: str, extra: str | None = None) -> Iterator[None]:
    """Name the extra to install when an optional component is missing.

    Put the imports of the component into it: ``with naming_extras(__name__): from ase import Atoms``.

    Parameters
    ----------
    user : str
        What needs the component, for the message.
    extra : str, optional
        The extra that brings all that the user needs, where that is more than one component.

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
            f"install the extra: pip install 'fastegnn-md[{extra or EXTRA_OF[component]}]'"
        ) from error
