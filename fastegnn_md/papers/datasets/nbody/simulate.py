"""Simulation of charged particles, sticks, hinges and rigid bodies: a batch of systems of one composition."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ....errors import DataError
from .bodies import Hinges, Sticks
from .complexes import RigidBody, place_complexes
from .coulomb import CoulombForces

TIMESTEP = 1e-3
STEPS_PER_FRAME = 100
_LARGEST_FORCE = 0.1 / TIMESTEP
_SPEED = 0.5
_SPREAD = 0.1  # added to (N/5)^(1/3): standard deviation of the positions


@dataclass(frozen=True)
class Composition:
    """What a system is made of; its particles come in this order.

    Attributes
    ----------
    isolated, sticks, hinges : int
        Numbers of free particles, of pairs at a constant distance, of triples with two constant distances.
    complexes : tuple of int
        Sizes of the rigid bodies of an M-complex system of EGHN; excludes the others.

    Raises
    ------
    DataError
        If a number is negative, there are fewer than two particles, or complexes stand beside other things.
    """

    isolated: int = 0
    sticks: int = 0
    hinges: int = 0
    complexes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.isolated, self.sticks, self.hinges, *self.complexes) < 0 or self.particles < 2:
            raise DataError(
                f"{self} has {self.particles} particles; a system needs at least two, and no number may be negative"
            )
        if self.complexes and (self.isolated or self.sticks or self.hinges or min(self.complexes) < 2):
            raise DataError(f"{self} mixes complexes with other particles, or has one of a single particle")

    @property
    def particles(self) -> int:
        """Number of particles N."""
        return self.isolated + 2 * self.sticks + 3 * self.hinges + sum(self.complexes)

    @property
    def bodies(self) -> np.ndarray:
        """Rigid body, stick or hinge that each particle belongs to, shape (N,); free particles are alone."""
        sizes = [1] * self.isolated + [2] * self.sticks + [3] * self.hinges + list(self.complexes)
        return np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Frames of a batch of systems, without units (unit mass, unit charge, unit Coulomb constant).

    Attributes
    ----------
    positions, velocities : ndarray of float64, shape (B, F, N, 3)
    charges : ndarray of float64, shape (B, N)
        +1 or −1.
    """

    positions: np.ndarray
    velocities: np.ndarray
    charges: np.ndarray


def simulate(
    composition: Composition,
    generators: Sequence[np.random.Generator],
    frames: Sequence[int],
    stepped: Callable[[int], object] | None = None,
) -> Trajectories:
    """Simulate one system per generator.

    Charges are ±1 with equal chance, positions normal with standard deviation (N/5)^(1/3) + 0.1, velocities of length
    0.5 in any direction. Charges interact by q_i q_j / r; each component of the force on a particle is clipped at
    0.1/δt = 100. Symplectic Euler with δt = 0.001, velocities first. (Kipf et al., ICML 2018; Fuchs et al., NeurIPS
    2020; Huang et al., ICLR 2022: the generator that FastEGNN and EGHN use.)

    Parameters
    ----------
    composition : Composition
    generators : sequence of Generator
        One per system. A system depends on its own generator only, so batches of any size give the same numbers.
    frames : sequence of int
        Frames to keep, ascending. Frame k is the state after 100 k + 1 steps, as published.
    stepped : callable, optional
        Called with the number of systems after every frame.

    Returns
    -------
    Trajectories

    Raises
    ------
    DataError
        If the frames are not ascending and non-negative, or a system left the numbers (no known start does).
    """
    if not len(frames) or frames[0] < 0 or any(b <= a for a, b in itertools.pairwise(frames)):
        raise DataError(f"frames {tuple(frames)} must ascend from 0 or more")
    x, v, charges = (np.stack(arrays) for arrays in zip(*(_draw(composition, one) for one in generators), strict=True))
    parts = _parts(composition, x, v)
    for place, part in parts:
        x[:, place], v[:, place] = _flat(part.particles())
    forces = CoulombForces(len(x), composition.particles, _LARGEST_FORCE)
    kept = []
    for step in range(STEPS_PER_FRAME * frames[-1] + 1):
        force = forces(x, charges)
        free = slice(0, composition.isolated)
        v[:, free] += TIMESTEP * force[:, free]
        x[:, free] += TIMESTEP * v[:, free]
        for place, part in parts:
            part.step(_cornered(force[:, place], part), TIMESTEP)
            x[:, place], v[:, place] = _flat(part.particles())
        if step % STEPS_PER_FRAME == 0:
            if step // STEPS_PER_FRAME in frames:
                kept.append((x.copy(), v.copy()))
            if stepped is not None:
                stepped(len(x))
    positions, velocities = (np.stack(arrays, axis=1) for arrays in zip(*kept, strict=True))
    if not np.isfinite(positions).all():
        raise DataError("a position is not finite; particles started at the same place: use another seed")
    return Trajectories(positions, velocities, charges[..., 0])


def _draw(composition: Composition, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (N, 3), velocities (N, 3) and charges (N, 1) of one system, bodies not yet assembled."""
    n = composition.particles
    charges = rng.choice([1.0, -1.0], size=(n, 1))
    if composition.complexes:
        x = place_complexes(rng, composition.complexes)
    else:
        x = rng.normal(size=(n, 3)) * ((n / 5.0) ** (1 / 3) + _SPREAD)
    v = rng.normal(size=(n, 3))
    return x, _SPEED * v / np.linalg.norm(v, axis=1, keepdims=True), charges


_Part = Sticks | Hinges | RigidBody


def _parts(composition: Composition, x: np.ndarray, v: np.ndarray) -> list[tuple[slice, _Part]]:
    """Bodies of all systems and which particles they hold."""
    parts: list[tuple[slice, _Part]] = []
    begin = composition.isolated
    kinds: tuple[tuple[type[Sticks] | type[Hinges], int, int], ...] = (
        (Sticks, composition.sticks, 2),
        (Hinges, composition.hinges, 3),
    )
    for kind, count, corners in kinds:
        if count:
            place = slice(begin, begin + count * corners)
            shape = (len(x), count, corners, 3)
            parts.append((place, kind.assembled(x[:, place].reshape(shape), v[:, place].reshape(shape))))
            begin = place.stop
    for size in composition.complexes:
        place = slice(begin, begin + size)
        parts.append((place, RigidBody.assembled(x[:, place], v[:, place])))
        begin = place.stop
    return parts


def _cornered(force: np.ndarray, part: _Part) -> np.ndarray:
    """Forces (B, n, 3) in the shape the step of a part takes."""
    if isinstance(part, RigidBody):
        return force
    return force.reshape(len(force), -1, 2 if isinstance(part, Sticks) else 3, 3)


def _flat(particles: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    x, v = (one.reshape(len(one), -1, 3) for one in particles)
    return x, v
