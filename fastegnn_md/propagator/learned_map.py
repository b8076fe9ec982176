"""What dynamics ask of a learned map, be it one propagator, a committee of them, or a function in its place."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CompatibilityError
from ..state import State
from .config import Kind, PropagatorConfig, WantedForces
from .domain import Domain
from .draws import Generators
from .limits import JumpLimits
from .prediction import Prediction, Residual, Trust
from .provenance import Provenance


class LearnedMap(nn.Module, ABC):
    """A map of states over one time step, and what it was trained for.

    Attributes
    ----------
    config : PropagatorConfig
    timestep : float
        Δt in ps.
    domain : Domain
    fingerprint : str
        Of the training data, empty before training.
    provenance : Provenance or None
        What the training data were; None where the file does not say.
    reversible, volume_preserving : bool
        Whether the map is its own inverse once velocities are turned round, and its Jacobian has determinant 1.
    audited : bool
        Whether an engine is asked now and then if jumps keep the total energy.
    has_spread : bool
        Whether predictions tell how far they can be trusted.
    """

    config: PropagatorConfig
    timestep: float
    domain: Domain
    fingerprint: str
    provenance: Provenance | None = None
    reversible: bool = False
    volume_preserving: bool = False
    has_spread: bool = False
    audited: bool = True

    # what is predicted ------------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, state: State, *, generator: Generators | None = None) -> Prediction:
        """What the map says of a state, with gradients; velocities are not redrawn.

        Parameters
        ----------
        state : State
            One system or a batch, with the forces that are wanted; not modified.
        generator : torch.Generator or a sequence of them, optional
            Source of the random numbers of a stochastic map.

        Raises
        ------
        CompatibilityError
            As :meth:`check`.
        StateError
            If the network gives values that are not finite, or the state is on another device than the weights.
        """

    @abstractmethod
    def residual_scale(self, state: State) -> Tensor:
        """Unit of :meth:`residual` for each atom, shape (N, 2): amu^½ Å and amu^½ Å/ps."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people."""

    def residual(self, start: State, end: State, *, generator: torch.Generator | None = None) -> Residual:
        """Errors of a batch of training pairs, with gradients.

        Parameters
        ----------
        start, end : State
            The same systems at t and t + Δt; ``end`` unwrapped relative to ``start``.
        generator : torch.Generator, optional
            Of a stochastic map, whose errors are those of places it draws; by default always the same draws.
        """
        return self.predict(start).residual(start, end, self.residual_scale(start))

    if TYPE_CHECKING:  # to type checkers the call of a Module returns Any

        def __call__(
            self, state: State, *, generator: Generators | None = None, temperature: float | None = None
        ) -> State:
            """See :meth:`forward`."""
            ...

    def forward(self, state: State, *, generator: Generators | None = None, temperature: float | None = None) -> State:
        """Advance a state by :attr:`timestep`.

        Parameters
        ----------
        state : State
            One system or a batch; not modified.
        generator : torch.Generator or a sequence of them, optional
            Source of random numbers: velocities of kinds "position" and "flow", and whatever a stochastic map
            draws. A sequence has one for each system of the batch, which then draws what it would draw alone.
        temperature : float, optional
            K; needed for kinds "position" and "flow" only.

        Returns
        -------
        State
            Positions (unwrapped) and velocities after Δt, without forces, in the dtype of ``state``.

        Raises
        ------
        CompatibilityError
            As :meth:`check`; or kind "position" or "flow" without generator and temperature.
        StateError
            As :meth:`predict`.
        """
        return self.with_trust(state, generator=generator, temperature=temperature)[0]

    @torch.no_grad()
    def with_trust(
        self, state: State, *, generator: Generators | None = None, temperature: float | None = None
    ) -> tuple[State, Trust]:
        """What :meth:`forward` gives, and how far it can be trusted."""
        prediction = self.predict(state, generator=generator)
        return prediction.end(state, generator, temperature), prediction.trust

    def compile(self) -> None:
        """Translate the jump, where there is something to translate."""

    # what it is for ---------------------------------------------------------------------------------------------------

    def check(self, state: State) -> None:
        """Refuse a system unlike those of the training data.

        Raises
        ------
        CompatibilityError
            Unknown element, mass outside the range of training, isolated instead of periodic or the reverse, mixed
            boundaries, bonds or forces missing.
        """
        self.domain.check(state)
        if self.wants_forces is not None and self.forces_of(state) is None:
            where = "the positions of the state"
            if self.wants_forces == "midpoint":
                where = "force_positions(state), half a jump ahead, as midpoint_forces"
            raise CompatibilityError(f"this propagator is force-informed; give the forces at {where}")

    @property
    def kind(self) -> Kind:
        """What the map takes and gives; see :class:`PropagatorConfig`."""
        return self.config.kind

    @property
    def predicts_velocities(self) -> bool:
        """False for kinds "position" and "flow", where velocities are redrawn."""
        return self.config.predicts_velocities

    @property
    def stochastic(self) -> bool:
        """Whether positions are drawn: true of kind "flow" alone."""
        return self.config.stochastic

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

    # forces -----------------------------------------------------------------------------------------------------------

    @property
    def wants_forces(self) -> WantedForces | None:
        """Which forces a state must carry: those at its positions ("start"), half a jump ahead, or none."""
        return self.config.wants_forces

    def force_positions(self, state: State) -> Tensor | None:
        """Where the forces that the map wants are to be evaluated, shape (N, 3), Å; None if it wants none.

        At the midpoint that is where free flight over half a time step leads, x + v Δt/2; of kind "symplectic" where
        the first half of its jump leads.
        """
        if self.wants_forces is None:
            return None
        if self.wants_forces == "start":
            return state.positions
        return state.positions + 0.5 * self.timestep * state.velocities

    def with_forces(self, state: State, forces: Tensor) -> State:
        """The state with forces (N, 3) in amu Å/ps² that were evaluated at :meth:`force_positions`."""
        return state.replace(**{"midpoint_forces" if self.wants_forces == "midpoint" else "forces": forces})

    def forces_of(self, state: State) -> Tensor | None:
        """The forces of a state that are an input, shape (N, 3), amu Å/ps²; None for force-free maps."""
        if self.wants_forces is None:
            return None
        return state.forces if self.wants_forces == "start" else state.midpoint_forces

    # weights ----------------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device | None:
        """Where states are to be brought; None for a map without weights, which takes them where they are."""
        weight = next(chain(self.parameters(), self.buffers()), None)
        return None if weight is None else weight.device

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating-point type of what is predicted."""

    def identity(self) -> dict[str, Any]:
        """What makes two maps the same: time step (ps), training data, and SHA-256 of names and values of weights."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return {"timestep": self.timestep, "training-data": self.fingerprint, "weights": digest.hexdigest()}
