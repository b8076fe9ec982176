"""What dynamics ask of a learned map, be it one propagator or a committee of them."""

from __future__ import annotations

from torch import nn

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
        """Whether a state must carry forces."""
        return self.config.forces

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
