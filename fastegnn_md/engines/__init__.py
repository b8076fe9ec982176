"""Borders to ASE, OpenMM and MDAnalysis; units are converted here and nowhere else.

Names are imported on first use: the package works without the engines (extras ``ase``, ``openmm``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optional import lazy_exports

if TYPE_CHECKING:
    from .ase import LearnedStepper
    from .openmm import OpenMMCalculator

__all__ = ["LearnedStepper", "OpenMMCalculator"]

__getattr__, __dir__ = lazy_exports(__name__, {"LearnedStepper": ".ase", "OpenMMCalculator": ".openmm"}, globals())
