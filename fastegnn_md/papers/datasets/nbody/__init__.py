"""Charged particles, sticks, hinges and rigid bodies: the N-body and M-complex data sets, simulated."""

from .generate import ChargedSystems, ChargedSystemsRecipe, charged_systems
from .simulate import Composition, Trajectories, simulate

__all__ = [
    "ChargedSystems",
    "ChargedSystemsRecipe",
    "Composition",
    "Trajectories",
    "charged_systems",
    "simulate",
]
