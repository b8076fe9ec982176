"""A plain function in the place of a trained propagator, for tests of scripts and of this package.

What a script does with a propagator can be tested without training one: here on a map that is known exactly.

    import numpy as np
    from ase.build import molecule
    from fastegnn_md.integrators import LearnedDynamics
    from fastegnn_md.propagator import FakePropagator

    def free_flight(state):
        return state.positions + 0.004 * state.velocities, state.velocities

    atoms = molecule("CH3OH")
    atoms.set_velocities(np.ones((6, 3)))
    LearnedDynamics(atoms, FakePropagator(free_flight, 0.004)).run(10)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..state import State
from ..units import format_time
from .config import Kind, PropagatorConfig
from .domain import Domain
from .draws import Generators
from .learned_map import LearnedMap
from .limits import JumpLimits
from .prediction import Prediction, Trust

_HEAVIEST = 118  # atomic number


class FakePropagator(LearnedMap):
    """A learned map that is a function, usable wherever a propagator is.

    Parameters
    ----------
    move : callable
        From a State to positions (N, 3) in Å and velocities (N, 3) in Å/ps after the time step, or to a State that has
        these. Of kind "position" the velocities are not looked at: they are redrawn. It finds the forces that the kind
        wants in the state. With ``random`` it is given the generator as well, see :mod:`.draws`.
    timestep : float
        Δt in ps.
    domain : Domain, optional
        Systems that it is for; others are refused. Default: any system, isolated or periodic;
        :func:`permissive_domain` makes others that are nearly as tolerant.
    kind : str
        As of :class:`PropagatorConfig`: says which forces are wanted and whether velocities are redrawn.
    cutoff : float
        Å; boxes narrower than twice of it are refused where propagators refuse them.
    reversible, volume_preserving : bool
        What the function is; nobody checks.
    audited : bool
        Ask an engine now and then whether jumps keep the total energy.
    random : bool
        Whether the function draws: ``move(state, generator)``.
    fingerprint : str
        Tells the training data of this map from those of others.

    Attributes
    ----------
    move : callable
        Can be exchanged.
    calls : int
        How often it was asked.
    """

    move: Callable[..., State | tuple[Tensor, Tensor]]
    timestep: float
    fingerprint: str
    reversible: bool
    volume_preserving: bool
    audited: bool
    random: bool
    calls: int

    def __init__(
        self,
        move: Callable[..., State | tuple[Tensor, Tensor]],
        timestep: float,
        domain: Domain | None = None,
        *,
        kind: Kind = "force-free",
        cutoff: float = 3.5,
        reversible: bool = False,
        volume_preserving: bool = False,
        audited: bool = False,
        random: bool = False,
        fingerprint: str = "fake",
    ):
        super().__init__()
        self.move, self.timestep, self.fingerprint = move, timestep, fingerprint
        self.config: PropagatorConfig = PropagatorConfig(kind=kind, cutoff=cutoff)
        self.reversible, self.volume_preserving = reversible, volume_preserving
        self.audited, self.random = audited, random
        self._any_boundary = domain is None
        self.domain: Domain = permissive_domain() if domain is None else domain
        self.calls = 0

    @property
    def dtype(self) -> torch.dtype:
        """float64, whatever the function gives."""
        return torch.float64

    def check(self, state: State) -> None:
        """Refuse a system unlike those of the domain; see :meth:`LearnedMap.check`."""
        super().check(state.replace(cell=None, pbc=None) if self._any_boundary else state)

    def predict(self, state: State, *, generator: Generators | None = None) -> Prediction:
        """What the function says of a state; see :meth:`LearnedMap.predict`."""
        ended = self._moved(state, generator)
        velocities = ended.velocities if self.predicts_velocities else None
        return Prediction(ended.positions - state.positions, velocities)

    @torch.no_grad()
    def with_trust(
        self, state: State, *, generator: Generators | None = None, temperature: float | None = None
    ) -> tuple[State, Trust]:
        """As :meth:`LearnedMap.with_trust`; positions are those of the function to the last digit."""
        ended = self._moved(state, generator)
        still = Prediction(torch.zeros_like(ended.positions), ended.velocities if self.predicts_velocities else None)
        return still.end(ended, generator, temperature), Trust()

    def residual_scale(self, state: State) -> Tensor:
        """Ones: residuals are in amu^½ Å and amu^½ Å/ps."""
        return torch.ones(state.n_atoms, 2, dtype=self.dtype, device=state.device)

    def describe(self) -> str:
        """One line for people."""
        return f"{self.kind} function in place of a propagator, Δt = {format_time(self.timestep)}"

    def _moved(self, state: State, generator: Generators | None) -> State:
        self.check(state)
        self.calls += 1
        ended = self.move(state, generator) if self.random else self.move(state)
        if isinstance(ended, State):
            return ended
        positions, velocities = ended
        return state.replace(positions=positions, velocities=velocities)


def permissive_domain(
    state: State | None = None,
    *,
    periodic: bool = False,
    bonds: bool = False,
    conserves_momentum: bool = True,
    limits: JumpLimits | None = None,
) -> Domain:
    """Domain without limits, of the elements, masses and boundary of a state.

    Parameters
    ----------
    state : State, optional
        Default: every element with any mass.
    periodic : bool
        Without a state: whether systems are periodic.
    bonds : bool
        Whether states must carry bonds.
    conserves_momentum : bool
        Whether total momentum is conserved by the map.
    limits : JumpLimits, optional
        What guards hold jumps against.
    """
    masses = dict.fromkeys(range(1, _HEAVIEST + 1), (0.0, math.inf))
    if state is not None:
        periodic = state.periodic
        masses = {}
        for number in state.numbers.unique().tolist():
            of_element = state.masses[state.numbers == number]
            masses[number] = (float(of_element.min()), float(of_element.max()))
    return Domain(
        masses=masses,
        limits=JumpLimits({}) if limits is None else limits,
        periodic=periodic,
        bonds=bonds,
        conserves_momentum=conserves_momentum,
        neighbours=1.0,
        velocity_scale=1.0,
        force_scale=1.0,
    )
