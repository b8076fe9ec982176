"""Velocities of thermal equilibrium, for all who draw some, and the temperature of velocities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..units import BOLTZMANN


def thermal_velocities(masses: Tensor, temperature: float, rng: np.random.Generator | torch.Generator) -> Tensor:
    """Velocities of the Maxwell-Boltzmann distribution, √(k_B T / m) ξ.

    Parameters
    ----------
    masses : Tensor, shape (N,), amu
    temperature : float
        K.
    rng : numpy.random.Generator or torch.Generator
        Advanced.

    Returns
    -------
    Tensor, shape (N, 3), Å/ps
        In the dtype of ``masses``, before any constraint.
    """
    shape = (masses.shape[0], 3)
    if isinstance(rng, torch.Generator):
        noise = torch.randn(shape, generator=rng, dtype=masses.dtype, device=rng.device).to(masses.device)
    else:
        noise = torch.from_numpy(rng.standard_normal(shape)).to(masses.device, masses.dtype)
    return (BOLTZMANN * temperature / masses).sqrt()[:, None] * noise


def temperature_per_element(kinetic: np.ndarray, symbols: np.ndarray) -> dict[str, float]:
    """2 ⟨K⟩ / 3 k_B of each element in K, not corrected for constraints.

    Parameters
    ----------
    kinetic : ndarray, shape (N,), amu Å²/ps²
        ½ m v² of each atom.
    symbols : ndarray of str, shape (N,)
    """
    scale = 2.0 / (3.0 * BOLTZMANN)
    return {symbol: float(scale * kinetic[symbols == symbol].mean()) for symbol in sorted(set(symbols.tolist()))}
