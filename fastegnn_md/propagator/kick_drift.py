"""A learned map that is reversible and preserves volume whatever its weights: learned kicks between free drifts."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..graph import EdgeList
from ..segments import Segments
from ..state import State
from ..units import format_time
from .by_library import OneCallPropagator
from .compiled import Atoms, Move, Near
from .config import PropagatorConfig
from .domain import Domain
from .force_scale import fit_force_scale, force_errors
from .origins import centred
from .prediction import Prediction

# Å. Kicks look at nearly the same positions several times per jump, so a list of neighbours serves many of them.
_SKIN = 0.5


class KickDriftPropagator(OneCallPropagator):
    """Advance systems by n kicks that are learned and n + 1 drifts that are not.

    x ← x + v δ/2,  then  v ← v + a_k(x) δ,  x ← x + v δ  for k = 1..n,  the last of these drifts over δ/2;  δ = Δt/n,

    √m a_k = σ_f ŷ_k: ŷ is the network's output for positions alone, σ_f the scale of mass-scaled forces of the element.
    Where the training data conserves momentum the mean force on each system is taken off. The network is one for all
    kicks and is told the place of a kick, |2k - n - 1|/n, the same for k and n + 1 - k.

    Every factor is a shear, so the determinant of the Jacobian is 1, and the product reads the same from both ends, so
    it is its own inverse once velocities are turned round (Hairer, Lubich, Wanner, Geometric Numerical Integration,
    2006, chapters V and VI). a_k need not be the gradient of anything. Both hold for any weights and to rounding, as
    messages carry nothing at the cutoff and which list an edge comes from makes no difference.

    Parameters and attributes are those of :class:`~fastegnn_md.Propagator`; there are no virtual nodes at the end of a
    step (:meth:`virtual_nodes` gives None).
    """

    reversible = True
    volume_preserving = True
    kinds: ClassVar[tuple[str, ...]] = ("kick-drift",)
    force_scale: Tensor

    def __init__(self, config: PropagatorConfig, timestep: float, domain: Domain, *, seed: int = 0):
        super().__init__(config, timestep, domain, seed=seed)
        self.register_buffer("force_scale", torch.ones(len(self.species)))
        self.skin = _SKIN

    @property
    def _more_features(self) -> int:
        return 1  # the place of the kick

    @torch.no_grad()
    def measure(self, start: State, end: State) -> None:
        """Fit the scales to one batch of pairs: that of forces to forces, or to changes of velocity without them."""
        super().measure(start, end)
        forces = start.forces
        if forces is None:
            forces = start.masses.double()[:, None] * (end.velocities.double() - start.velocities) / self.timestep
        fit_force_scale(self.force_scale, self._species_index[start.numbers], forces, start.masses)

    def force_residual(self, state: State) -> Tensor:
        """Errors of single kicks against the forces of a batch, in units of the force scale, with gradients.

        Each system is kicked once, by the kicks in turn.

        Parameters
        ----------
        state : State
            With forces.

        Returns
        -------
        Tensor, shape (N, 3)
        """
        assert state.batch is not None  # set by State
        found = state.masses[:, None] * self._acceleration(state, state.batch % self.config.kicks)
        return force_errors(self.force_scale, self._species_index[state.numbers], found, state)

    def describe(self) -> str:
        """One line for people."""
        where = "periodic" if self.periodic else "isolated"
        return (
            f"kick-drift {self.config.architecture} of {self.config.kicks} kicks, Δt = {format_time(self.timestep)}, "
            f"{where}, elements {self.species}"
        )

    def _unit(self) -> Tensor:
        return self.force_scale

    def _kicks(self) -> int:
        return self.config.kicks

    def _predict(self, state: State) -> Prediction:
        assert state.batch is not None  # set by State
        kicks = self.config.kicks
        step = self.timestep / kicks
        velocities, displacement = state.velocities, 0.5 * step * state.velocities
        first: EdgeList | None = None
        for number in range(kicks):
            moved = state.replace(positions=state.positions + displacement)
            edges = self._neighbours(moved)
            first = edges if first is None else first
            velocities = velocities + step * self._along(edges, moved, torch.full_like(state.batch, number))
            displacement = displacement + (step if number + 1 < kicks else 0.5 * step) * velocities
        return Prediction(displacement, velocities, None, edges=first)

    def _whole(
        self, positions: Tensor, velocities: Tensor, forces: Tensor | None, atoms: Atoms, near: Near
    ) -> tuple[Tensor, Tensor]:
        kicks = self.config.kicks
        step = self.timestep / kicks
        displacement = 0.5 * step * velocities
        for number in range(kicks):
            moved = positions + displacement
            place = torch.full_like(atoms.batch, abs(2 * number + 1 - kicks), dtype=self.dtype) / kicks
            (acceleration,) = self._kick(moved, *atoms, *near(moved), place)
            velocities = velocities + step * acceleration
            displacement = displacement + (step if number + 1 < kicks else 0.5 * step) * velocities
        return displacement, velocities

    def _acceleration(self, state: State, number: Tensor) -> Tensor:
        return self._along(self._neighbours(state), state, number)

    def _along(self, edges: EdgeList, state: State, number: Tensor) -> Tensor:
        """a_k in Å/ps², shape (N, 3), for the kick ``number`` (N,), counted from 0, of each atom."""
        assert state.batch is not None  # set by State
        move, edges = self._translated(self._kick, edges, state.n_atoms)
        (acceleration,) = move(
            state.positions,
            state.masses,
            self._species_index[state.numbers],
            state.batch,
            state.n_systems,
            edges,
            self._hops(state, edges),
            (2 * number + 1 - self.config.kicks).abs().to(self.dtype) / self.config.kicks,
        )
        return acceleration

    def _arithmetic(self) -> Move:
        return self._kick

    def _kick(
        self,
        positions: Tensor,
        masses: Tensor,
        species: Tensor,
        batch: Tensor,
        systems: int,
        edges: EdgeList,
        hops: Tensor,
        place: Tensor,
    ) -> tuple[Tensor]:
        """The network's vector, scaled. Nothing but arithmetic on tensors, so that it can be compiled whole."""
        dtype, unit, of = self.dtype, self.config.cutoff, Segments(batch, systems)
        x = centred(positions, of, periodic=self.periodic, dtype=self.dtype)[1] / unit
        inputs = self._invariants(species, masses, of, edges, hops)
        inputs["h"] = torch.cat([inputs["h"], place[:, None].to(dtype)], dim=1)
        output = self.network(
            x=x,
            v=torch.zeros_like(x),
            **inputs,
        )
        scale = self.force_scale.index_select(0, species) / masses.to(dtype).sqrt()
        acceleration = (scale[:, None] * output.v).to(positions.dtype)
        if self.domain.conserves_momentum:
            acceleration = acceleration - of.spread(of.weighted_mean(acceleration, masses))
        return (acceleration,)
