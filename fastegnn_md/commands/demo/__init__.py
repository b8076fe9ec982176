"""``fastegnn-md demo``: copper, aspirin with GFN2-xTB, a peptide inside OpenMM, each beside its engine."""

from .command import demo

__all__ = ["demo"]
