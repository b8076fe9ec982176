"""Rigid bodies of unit masses: what one step of time does to particles, sticks and hinges.

Every step is symplectic Euler: velocities first, then positions with the new velocities. Arrays have the axes (system,
body, corner, component). Huang et al., Equivariant Graph Mechanics Networks with Constraints, ICLR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Sticks:
    """Pairs of particles at a constant distance, kept as centre, half vector and angular velocity.

    Attributes
    ----------
    centre, velocity, half, spin : ndarray, shape (B, K, 3)
        Centre of mass, its velocity, vector from it to the first particle, angular velocity.
    """

    centre: np.ndarray
    velocity: np.ndarray
    half: np.ndarray
    spin: np.ndarray

    @classmethod
    def assembled(cls, x: np.ndarray, v: np.ndarray) -> Sticks:
        """Sticks of particles (B, K, 2, 3); velocities along a stick become their mean."""
        half = 0.5 * (x[:, :, 0] - x[:, :, 1])
        relative = 0.5 * (v[:, :, 0] - v[:, :, 1])  # the spin sees its part across the stick only
        return cls(x.mean(2), v.mean(2), half, np.cross(half, relative) / _square(half))

    def step(self, force: np.ndarray, dt: float) -> None:
        """One step under forces (B, K, 2, 3)."""
        self.velocity += 0.5 * dt * force.sum(2)
        self.centre += dt * self.velocity
        torque = np.cross(self.half, force[:, :, 0] - force[:, :, 1])
        self.spin += dt * torque / (2.0 * _square(self.half))
        self.half = rotated(self.half, self.spin, dt)

    def particles(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of the particles, shape (B, K, 2, 3)."""
        across = np.cross(self.spin, self.half)
        return (
            np.stack([self.centre + self.half, self.centre - self.half], axis=2),
            np.stack([self.velocity + across, self.velocity - across], axis=2),
        )


@dataclass
class Hinges:
    """Triples of particles: two at constant distances from the first, which joins the two arms.

    Attributes
    ----------
    joint, velocity : ndarray, shape (B, K, 3)
        Position and velocity of the first particle.
    arms, spins : ndarray, shape (B, K, 2, 3)
        Vectors from it to the others, and the angular velocities of these.
    """

    joint: np.ndarray
    velocity: np.ndarray
    arms: np.ndarray
    spins: np.ndarray

    @classmethod
    def assembled(cls, x: np.ndarray, v: np.ndarray) -> Hinges:
        """Hinges of particles (B, K, 3, 3); along an arm its end takes the velocity of the joint."""
        arms = x[:, :, 1:] - x[:, :, :1]
        relative = v[:, :, 1:] - v[:, :, :1]
        return cls(x[:, :, 0].copy(), v[:, :, 0].copy(), arms, np.cross(arms, relative) / _square(arms))

    def step(self, force: np.ndarray, dt: float) -> None:
        """One step under forces (B, K, 3, 3).

        An arm e_k of length l_k pulls its end along e_k alone, so the end k has the acceleration
        e_k (e_k·a₀) + ω_k × (ω_k × l_k e_k) + (1 − e_k e_kᵀ) f_k; that the three forces add up to f₀ + f₁ + f₂ then
        gives the acceleration a₀ of the joint:
        (1 + Σ e_k e_kᵀ) a₀ = f₀ + Σ [e_k (e_k·f_k) − ω_k × (ω_k × l_k e_k)].
        """
        ends = force[:, :, 1:]
        direction = self.arms / np.sqrt(_square(self.arms))
        along = direction * (direction * ends).sum(-1, keepdims=True)
        inward = np.cross(self.spins, np.cross(self.spins, self.arms))
        matrix = np.eye(3) + np.einsum("bkai,bkaj->bkij", direction, direction)
        pull = force[:, :, 0] + (along - inward).sum(2)
        acceleration = np.linalg.solve(matrix, pull[..., None])[..., 0]
        self.velocity += dt * acceleration
        self.joint += dt * self.velocity
        self.spins += dt * np.cross(self.arms, ends - acceleration[:, :, None]) / _square(self.arms)
        self.arms = rotated(self.arms, self.spins, dt)

    def particles(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of the particles, shape (B, K, 3, 3)."""
        joint, velocity = self.joint[:, :, None], self.velocity[:, :, None]
        return (
            np.concatenate([joint, joint + self.arms], axis=2),
            np.concatenate([velocity, velocity + np.cross(self.spins, self.arms)], axis=2),
        )


def rotated(vectors: np.ndarray, spin: np.ndarray, dt: float) -> np.ndarray:
    """Vectors after a time dt of rotation at angular velocity ω (Rodrigues' formula).

    v cos θ + (ω̂ × v) sin θ + ω̂ (ω̂·v) (1 − cos θ), θ = |ω| dt; written so that ω = 0 is no special case.
    """
    turn = spin * dt
    angle = np.sqrt(_square(turn))
    half = 0.5 * angle / np.pi
    across = np.cross(turn, vectors) * np.sinc(2.0 * half)
    along = turn * (turn * vectors).sum(-1, keepdims=True) * (0.5 * np.sinc(half) ** 2)
    return vectors * np.cos(angle) + across + along


def _square(vectors: np.ndarray) -> np.ndarray:
    return np.square(vectors).sum(-1, keepdims=True)
