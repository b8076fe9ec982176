"""Forces between charges of unit strength, clipped, for many systems at once."""

from __future__ import annotations

import numpy as np

# Added to r², which is a difference of larger numbers here and could come out below zero for a pair that meets. Forces
# are clipped from a distance of 0.1 on, where this changes them by 10⁻¹⁰ of their value.
_SOFTENING = 1e-12


class CoulombForces:
    """Forces F_i = q_i Σ_j q_j (x_i − x_j)/|x_i − x_j|³, each component clipped.

    Both sums over j are products of small matrices: r² from (x_i, |x_i|², 1)·(−2x_j, 1, |x_j|²), and the force from
    F_i = q_i (x_i Σ_j w_ij q_j − Σ_j w_ij q_j x_j) with w = r⁻³. In float64 this costs no accuracy that the clipping
    would not hide: a pair at a distance of 10⁻³ is good to 10⁻⁸ of its force. In float32 it would.

    Parameters
    ----------
    systems, particles : int
        Number of systems B and of particles N of each; buffers of that size are kept.
    limit : float
        Largest absolute value of a component.
    """

    def __init__(self, systems: int, particles: int, limit: float):
        self.limit = limit
        self._left = np.ones((systems, particles, 5))
        self._right = np.ones((systems, 5, particles))
        self._carried = np.empty((systems, particles, 4))
        self._sums = np.empty((systems, particles, 4))
        self._square = np.empty((systems, particles, particles))
        self._weight = np.empty_like(self._square)
        self._diagonal = np.einsum("bii->bi", self._square)

    def __call__(self, x: np.ndarray, charges: np.ndarray) -> np.ndarray:
        """Forces, shape (B, N, 3), on charges (B, N, 1) at positions (B, N, 3)."""
        norm = np.einsum("bik,bik->bi", x, x)
        self._left[..., :3], self._left[..., 3] = x, norm
        np.multiply(x.transpose(0, 2, 1), -2.0, out=self._right[:, :3])
        self._right[:, 4] = norm + _SOFTENING
        square, weight = self._square, self._weight
        np.matmul(self._left, self._right, out=square)
        self._diagonal[...] = np.inf  # no force of a particle on itself
        np.sqrt(square, out=weight)
        np.multiply(weight, square, out=weight)
        np.divide(1.0, weight, out=weight)
        np.multiply(x, charges, out=self._carried[..., :3])
        self._carried[..., 3:] = charges
        np.matmul(weight, self._carried, out=self._sums)
        force = charges * (x * self._sums[..., 3:] - self._sums[..., :3])
        return np.clip(force, -self.limit, self.limit, out=force)
