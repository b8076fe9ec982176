"""M-complex systems of EGHN: rigid bodies of several charged particles, with the rules of the published generator.

Han, Huang, Xu, Rong: Equivariant Graph Hierarchy-Based Neural Networks. NeurIPS 2022. The rules are not those of
mechanics: the centre of a body of n particles moves with the sum of its forces over n², and its moment of inertia is a
third of Σ|r⊥|² about the present axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....errors import DataError
from .bodies import rotated

_SPREAD = 0.5  # added to (N/5)^(1/3): half the edge of the cube of centres
_APART = 1.6  # centres are drawn again while one is closer than this,
_TRIES = 20  # so many times
_RADII = 0.6, 1.1  # of particles about their centre, in units of the smallest distance of centres / 1.6


@dataclass
class RigidBody:
    """One body of every system of a batch.

    Attributes
    ----------
    centre, velocity, spin : ndarray, shape (B, 1, 3)
    arms : ndarray, shape (B, n, 3)
        Vectors from the centre to the particles.
    """

    centre: np.ndarray
    velocity: np.ndarray
    spin: np.ndarray
    arms: np.ndarray

    @classmethod
    def assembled(cls, x: np.ndarray, v: np.ndarray) -> RigidBody:
        """A body of particles (B, n, 3); its spin is the mean of what each velocity asks for."""
        centre, velocity = x.mean(1, keepdims=True), v.mean(1, keepdims=True)
        arms = x - centre
        spin = np.cross(arms, v - velocity) / np.square(arms).sum(-1, keepdims=True)
        return cls(centre, velocity, spin.mean(1, keepdims=True), arms)

    def step(self, force: np.ndarray, dt: float) -> None:
        """One step under forces (B, n, 3)."""
        self.velocity = self.velocity + dt * force.mean(1, keepdims=True) / force.shape[1]
        self.centre = self.centre + dt * self.velocity
        axis = self.spin / np.sqrt(np.square(self.spin).sum(-1, keepdims=True))
        across = self.arms - axis * (axis * self.arms).sum(-1, keepdims=True)
        inertia = np.square(across).sum((1, 2), keepdims=True) / 3.0
        self.spin = self.spin + dt * np.cross(self.arms, force).sum(1, keepdims=True) / inertia
        self.arms = rotated(self.arms, self.spin, dt)

    def particles(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of the particles, shape (B, n, 3)."""
        return self.centre + self.arms, self.velocity + np.cross(self.spin, self.arms)


def draw_sizes(rng: np.random.Generator, complexes: int, average: int, types: int) -> list[tuple[int, ...]]:
    """Sizes of the complexes of each type of system, all different within a type.

    Parameters
    ----------
    rng : Generator
    complexes : int
        Number M of complexes of a system.
    average : int
        Size N/M in the name of the data set; sizes are drawn from 2 to 2 N/M − 2, small ones more often.
    types : int
        Number J of types: 1 for the data set *single*, 5 for *multiple*.

    Raises
    ------
    DataError
        If there are fewer sizes than complexes.
    """
    sizes = np.arange(2, 2 * average - 1)
    if len(sizes) < complexes:
        raise DataError(
            f"{complexes} complexes of average size {average} cannot all differ: their sizes are drawn from "
            f"2 to {2 * average - 2}; use fewer complexes or a larger average"
        )
    weights = sizes[::-1] + 4.0
    if len(weights) > 2:
        weights[[0, 2]] = weights[1]
    drawn = [rng.choice(sizes, size=complexes, replace=False, p=weights / weights.sum()) for _ in range(types)]
    return [tuple(int(size) for size in one) for one in drawn]


def place_complexes(rng: np.random.Generator, sizes: tuple[int, ...]) -> np.ndarray:
    """Positions of the particles of one system, complex after complex, shape (N, 3)."""
    edge = (sum(sizes) / 5.0) ** (1 / 3) + _SPREAD
    centres = np.empty((len(sizes), 3))
    for body in range(len(sizes)):
        for _ in range(_TRIES + 1):
            centres[body] = rng.uniform(-edge, edge, size=3)
            if not body or np.linalg.norm(centres[:body] - centres[body], axis=1).min() >= _APART:
                break
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(len(sizes), 1)]
    scale = apart.min(initial=_APART) / _APART if len(sizes) > 1 else 1.0
    arms = rng.normal(size=(sum(sizes), 3))
    radii = rng.uniform(*_RADII, size=(sum(sizes), 1)) * scale
    return np.repeat(centres, sizes, axis=0) + radii * arms / np.linalg.norm(arms, axis=1, keepdims=True)
