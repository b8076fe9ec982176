"""What dynamics ask of a learned map, be it one propagator or a committee of them."""

from __future__ import annotations

from torch import Tensor, nn

from ..state import State
from .config import PropagatorConfig
from .domain import Domain
from .limits import JumpLimits


class LearnedMap(nn.Module):
    """A map of states over one time step, and what it was trained for.

    Attributes
    ----------
    config : PropagatorConfig
    timestep : float
        Δt in ps.
    domain : Domain
    fingerprint : str
        Of the training data, empty before training.
    """

    config: PropagatorConfig
    timestep: float
    domain: Domain
    fingerprint: str

    @property
    def needs_forces(self) -> bool:
        """Whether a state must carry the forces at its positions."""
        return self.config.forces and not self.config.midpoint

    @property
    def needs_midpoint_forces(self) -> bool:
        """Whether a state must carry the forces at its :meth:`midpoint`."""
        return self.config.forces and self.config.midpoint

    def midpoint(self, state: State) -> Tensor:
        """Where free flight over half a time step leads, x + v Δt/2, shape (N, 3), Å."""
        return state.positions + 0.5 * self.timestep * state.velocities

    def forces_of(self, state: State) -> Tensor | None:
        """The forces of a state that are an input, shape (N, 3), amu Å/ps²; None for force-free maps."""
        if not self.config.forces:
            return None
        return state.midpoint_forces if self.config.midpoint else state.forces

    @property
    def predicts_velocities(self) -> bool:
        """False in position mode, where velocities are redrawn."""
        return self.config.mode != "position"

    @property
    def uses_bonds(self) -> bool:
        """Whether a state must carry bonds."""
        return self.domain.bonds

    @property
    def periodic(self) -> bool:
        """Whether the map is for periodic systems (else for isolated ones)."""
        return self.domain.periodic

    @property
    def limits(self) -> JumpLimits:
        """Ranges of displacements, speeds and bond lengths in the training data, for guards."""
        return self.domain.limits
