"""The scale of forces on each element, of kinds whose kicks are trained on forces."""

from __future__ import annotations

import torch
from torch import Tensor

from ..state import State


@torch.no_grad()
def fit_force_scale(scale: Tensor, species: Tensor, forces: Tensor, masses: Tensor) -> None:
    """Set a scale to the RMS of mass-scaled forces f/√m, and to 1 for elements on which there are none.

    Parameters
    ----------
    scale : Tensor, shape (S,), amu^½ Å/ps²
        Written to.
    species : Tensor of int64, shape (N,)
        Index of each atom's element.
    forces : Tensor, shape (N, 3), amu Å/ps²
    masses : Tensor, shape (N,), amu
    """
    scaled = forces.double() / masses.double().sqrt()[:, None]
    for index in range(len(scale)):
        rms = scaled[species == index].square().mean().sqrt()
        scale[index] = rms if float(rms) > 1e-12 else 1.0  # nan where an element is missing


def force_errors(scale: Tensor, species: Tensor, found: Tensor, state: State) -> Tensor:
    """Differences of forces (N, 3) from those of a state, in units of the scale and in its dtype."""
    assert state.forces is not None  # asked for by the kinds that learn from them
    unit = state.masses.sqrt().to(scale.dtype) * scale.index_select(0, species)
    return (found - state.forces).to(scale.dtype) / unit[:, None]
