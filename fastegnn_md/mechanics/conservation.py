"""Conserved quantities restored after a jump."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..state import State
from .freedom import Freedom
from .motion import angular_momentum, centre_of_mass, kinetic_energy, rigid_rotation

# Of the factor on velocities: a jump takes out at most 19 % of the kinetic energy and adds at most 21 %.
_LEAST, _MOST = 0.9, 1.1


def conserve_momentum(before: State, after: State, timestep: float) -> State:
    """Give a jump the exact linear momentum and the exact drift of the centre of mass.

    With P = Σ m v before the jump and M = Σ m, of each system:

    v′ ← v′ + (P - Σ m v′) / M,    x′ ← x′ + P Δt / M - Σ m (x′ - x) / M.

    Right only where total momentum is conserved: no frozen atoms, no walls, no external field. Relative positions and
    velocities do not change.

    Parameters
    ----------
    before, after : State
        One or more systems before and after the jump; positions unwrapped.
    timestep : float
        Δt in ps.
    """
    momentum_velocity = centre_of_mass(before.velocities, before)
    drift = momentum_velocity * timestep - centre_of_mass(after.positions - before.positions, before)
    kick = momentum_velocity - centre_of_mass(after.velocities, before)
    return after.replace(positions=after.positions + drift, velocities=after.velocities + kick)


def conserve_angular_momentum(before: State, after: State) -> State:
    """Give velocities after a jump the exact angular momentum about the centre of mass.

    With L = Σ m (x - X) × v before the jump and L′ after it, of each system:

    v′ ← v′ + I⁺ (L - L′) × (x′ - X′),

    I⁺ the pseudo-inverse of the inertia tensor at x′: a component of L along the axis of a straight molecule cannot be
    given back, and a single atom has none. Right only for isolated systems: not periodic, nothing frozen, no field.
    Linear momentum and velocities along bonds do not change, so it comes after the constraints.

    Parameters
    ----------
    before, after : State
        One or more systems before and after the jump.
    """
    lost = angular_momentum(before) - angular_momentum(after)
    return after.replace(velocities=after.velocities + rigid_rotation(after, lost))


@dataclass
class EnergyRescale:
    """Total energy brought back to what it was before the first accepted jump, by scaling velocities.

    A thermostat adds the heat of its half steps to H_0. With ΔE = U + K - H_0 after a jump, velocities become
    √(1 - ΔE / K) v. Where momenta are conserved K and v are those of the motion relative to the rigid motion that has
    them (:meth:`Freedom.conserved`), so that momenta stay exact.
    The factor is kept within 0.9 and 1.1; what it could not take out is still in ΔE after the next jump.

    The energy is that of a whole system. A scalar does not repair equipartition, it hides that it is broken.

    Attributes
    ----------
    target : float or None
        H_0 in amu Å²/ps², with the heat since; None before that jump.
    """

    target: float | None = None

    def __call__(self, state: State, potential: float, freedom: Freedom) -> State:
        """The state after a jump with scaled velocities; ``potential`` is U in amu Å²/ps², finite."""
        if self.target is None:
            return state
        conserved = freedom.conserved(state)
        free = state.velocities if conserved is None else state.velocities - conserved
        kinetic = kinetic_energy(free, state.masses)
        excess = potential + kinetic_energy(state.velocities, state.masses) - self.target
        # Without motion there is nothing to scale; the argument of the root is negative if there is too little.
        share = max(0.0, 1.0 - excess / kinetic) if kinetic > 0 else 1.0
        factor = min(max(math.sqrt(share), _LEAST), _MOST)
        return state.replace(velocities=factor * free if conserved is None else conserved + factor * free)
