"""Learned molecular-dynamics steps: a ``State`` comes in, a ``Propagator`` moves it by Δt, a ``State`` goes out."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from .optional import lazy_exports

if TYPE_CHECKING:
    from .committee import Committee
    from .propagator import Propagator
    from .state import State

__version__ = version("fastegnn-md")
__all__ = ["Committee", "Propagator", "State", "__version__"]

# On first use, so that `fastegnn-md --version` does not wait for torch.
_HOME = {"Committee": ".committee", "Propagator": ".propagator", "State": ".state"}
__getattr__, __dir__ = lazy_exports(__name__, _HOME, globals())
