"""OpenMM: force fields for ASE, and jumps inside a Context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optional import lazy_exports

if TYPE_CHECKING:
    from .openmm_calculator import OpenMMCalculator, reduced_box
    from .openmm_force import JumpForce, add_jump_force, find_jump_force

__all__ = ["JumpForce", "OpenMMCalculator", "add_jump_force", "find_jump_force", "reduced_box"]

_HOME = {
    "JumpForce": ".openmm_force",
    "OpenMMCalculator": ".openmm_calculator",
    "add_jump_force": ".openmm_force",
    "find_jump_force": ".openmm_force",
    "reduced_box": ".openmm_calculator",
}

__getattr__, __dir__ = lazy_exports("fastegnn_md.engines", _HOME, globals())
