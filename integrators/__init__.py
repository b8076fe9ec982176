"""How time advances with learned jumps.

Names are imported on first use: guards and thermostats work without an engine, dynamics need theirs (extra ``ase``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastegnn_md.optional import lazy_exports

if TYPE_CHECKING:
    from .ase import LearnedDynamics
    from .guarded import JumpStatistics
    from .guards import GuardSettings, check_jump
    from .thermostats import LangevinHalfStep

__all__ = ["GuardSettings", "JumpStatistics", "LangevinHalfStep", "LearnedDynamics", "check_jump"]

_HOME = {
    "GuardSettings": ".guards",
    "JumpStatistics": ".guarded",
    "LangevinHalfStep": ".thermostats",
    "LearnedDynamics": ".ase",
    "check_jump": ".guards",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOME, globals())
