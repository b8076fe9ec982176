"""How time advances with learned jumps.

Names are imported on first use: guards and thermostats work without an engine, dynamics need theirs (extra ``ase``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastegnn_md.optional import lazy_exports

if TYPE_CHECKING:
    from .ase import LearnedDynamics

__all__ = ["LearnedDynamics"]

__getattr__, __dir__ = lazy_exports(__name__, {"LearnedDynamics": ".ase"}, globals())
