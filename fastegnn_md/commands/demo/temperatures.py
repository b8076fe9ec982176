"""Temperatures of elements in a trajectory, with errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import MDAnalysis as mda
import numpy as np

from ...validation.observables.temperature import ElementTemperatures

_BLOCKS = 8


@dataclass(frozen=True)
class Kelvin:
    """A temperature and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.0f} ± {self.error:.0f} K"


def temperatures(universe: mda.Universe, skip: float = 0.0) -> dict[str, Kelvin]:
    """Of each element, from the velocities of all frames but a share at the beginning."""
    found = ElementTemperatures(universe.atoms).run(start=int(skip * len(universe.trajectory)))
    kelvin = found.results.temperatures
    blocks = np.array([block.mean(axis=0) for block in np.array_split(kelvin, min(_BLOCKS, len(kelvin)))])
    errors = blocks.std(axis=0, ddof=1) / math.sqrt(len(blocks))
    return {
        element: Kelvin(float(mean), float(error))
        for element, mean, error in zip(found.results.elements, kelvin.mean(axis=0), errors, strict=True)
    }
