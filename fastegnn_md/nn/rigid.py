"""Kinematics of sticks and hinges: their generalised coordinates, and the particles that these carry.

Huang, Han, Rong, Xu, Sun, Huang: Equivariant Graph Mechanics Networks with Constraints. ICLR 2022. Particles have unit
mass, and a step lasts the unit of time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .virtual import safe_sqrt

_SMALLEST = 1e-12  # of a squared length that is divided by


class Stick(NamedTuple):
    """Two particles at a constant distance, S of them: x_1, x_2 = centre ± half.

    Attributes
    ----------
    centre, velocity : Tensor, shape (S, 3)
        Middle of the two and its velocity.
    half, spin : Tensor, shape (S, 3)
        Vector from there to the first particle, and its angular velocity.
    """

    centre: Tensor
    velocity: Tensor
    half: Tensor
    spin: Tensor

    @classmethod
    def assembled(cls, x: Tensor, v: Tensor) -> Stick:
        """Sticks of particles (S, 2, 3); what velocities differ by along a stick is lost."""
        half = 0.5 * (x[:, 0] - x[:, 1])
        return cls(x.mean(1), v.mean(1), half, spin_of(half, 0.5 * (v[:, 0] - v[:, 1])))

    def accelerations(self, force: Tensor) -> Tensor:
        """Angular accelerations (S, 3) under forces (S, 2, 3): torque over moment of inertia."""
        return 0.5 * spin_of(self.half, force[:, 0] - force[:, 1])

    def moved(self, velocity: Tensor, spin: Tensor) -> Stick:
        """After a step with these velocities and angular velocities (S, 3)."""
        return Stick(self.centre + velocity, velocity, rotated(self.half, spin), spin)

    def particles(self) -> tuple[Tensor, Tensor]:
        """Positions and velocities (S, 2, 3): the forward kinematics."""
        across = torch.linalg.cross(self.spin, self.half)
        return (
            torch.stack([self.centre + self.half, self.centre - self.half], dim=1),
            torch.stack([self.velocity + across, self.velocity - across], dim=1),
        )


class Hinge(NamedTuple):
    """Three particles, two of them at constant distances from the first, S of them: x_k = joint + arm_k.

    Attributes
    ----------
    joint, velocity : Tensor, shape (S, 3)
        Position and velocity of the first particle.
    arms, spins : Tensor, shape (S, 2, 3)
        Vectors from it to the others, and their angular velocities.
    """

    joint: Tensor
    velocity: Tensor
    arms: Tensor
    spins: Tensor

    @classmethod
    def assembled(cls, x: Tensor, v: Tensor) -> Hinge:
        """Hinges of particles (S, 3, 3); what velocities differ by along an arm is lost."""
        arms = x[:, 1:] - x[:, :1]
        return cls(x[:, 0], v[:, 0], arms, spin_of(arms, v[:, 1:] - v[:, :1]))

    def accelerations(self, force: Tensor, joint: Tensor) -> Tensor:
        """Angular accelerations (S, 2, 3) of the arms under forces (S, 3, 3) and accelerations (S, 3) of the joint."""
        return spin_of(self.arms, force[:, 1:] - joint[:, None])

    def moved(self, velocity: Tensor, spins: Tensor) -> Hinge:
        """After a step with these velocities (S, 3) and angular velocities (S, 2, 3)."""
        return Hinge(self.joint + velocity, velocity, rotated(self.arms, spins), spins)

    def particles(self) -> tuple[Tensor, Tensor]:
        """Positions and velocities (S, 3, 3): the forward kinematics."""
        joint, velocity = self.joint[:, None], self.velocity[:, None]
        across = torch.linalg.cross(self.spins, self.arms)
        return torch.cat([joint, joint + self.arms], dim=1), torch.cat([velocity, velocity + across], dim=1)


def spin_of(arm: Tensor, velocity: Tensor) -> Tensor:
    """Angular velocities (..., 3) at which arms (..., 3) have velocities across them: arm × velocity / |arm|²."""
    return torch.linalg.cross(arm, velocity) / arm.square().sum(-1, keepdim=True).clamp(min=_SMALLEST)


def rotated(vectors: Tensor, turn: Tensor) -> Tensor:
    """Vectors (..., 3) turned about the axes and by the angles |turn| of rotation vectors (..., 3).

    Rodrigues' formula, v cos θ + (t × v) sin θ/θ + t (t · v) (1 − cos θ)/θ², written so that θ = 0 is no special case.
    """
    angle = safe_sqrt(turn.square().sum(-1, keepdim=True))
    across = torch.linalg.cross(turn, vectors) * torch.sinc(angle / torch.pi)
    along = turn * (turn * vectors).sum(-1, keepdim=True)
    return vectors * angle.cos() + across + along * (0.5 * torch.sinc(angle / (2 * torch.pi)).square())


def check_objects(sticks: Tensor | None, hinges: Tensor | None) -> None:
    """Refuse sticks and hinges of another shape than (S, 2) and (S, 3), and a particle that is in two of them.

    Raises
    ------
    ValueError
        With what was given.
    """
    given = []
    for name, nodes, corners in (("sticks", sticks, 2), ("hinges", hinges, 3)):
        if nodes is None:
            continue
        if nodes.dim() != 2 or nodes.shape[1] != corners or nodes.dtype != torch.int64:
            raise ValueError(
                f"{name} has shape {tuple(nodes.shape)} and type {nodes.dtype}; expected int64 node numbers of shape "
                f"(number of {name}, {corners})"
            )
        given.append(nodes.flatten())
    if given:
        members = torch.cat(given)
        if len(members.unique()) != len(members):
            raise ValueError("a particle is in two of the sticks and hinges; expected each in one at most")
