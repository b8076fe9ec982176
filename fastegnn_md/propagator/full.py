"""A learned map of positions and velocities, without or with the force at one place."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..graph import EdgeList
from ..segments import Segments
from ..state import State
from .by_library import OneCallPropagator
from .compiled import Atoms, Move, Near
from .origins import centred, shifted_back
from .prediction import Prediction


class FullPropagator(OneCallPropagator):
    """Advance positions and velocities by what the network adds to a linear predictor.

    x′ = x + Δq,  √m Δq = √m Δq_linear + σ_q ŷ_q;  √m v′ = √m v_linear + σ_p ŷ_p,

    where the linear predictor (:mod:`fastegnn_md.propagator.linear`) and the scales σ belong to the element and ŷ is
    the network's output. Parameters and attributes are those of :class:`~fastegnn_md.Propagator`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("force-free", "force-start", "force-midpoint")

    def _predict(self, state: State) -> Prediction:
        found = self._neighbours(state)
        move, edges = self._translated(self._move, found, state.n_atoms)
        displacement, velocities, z = move(
            state.positions,
            state.velocities,
            self.forces_of(state),
            state.masses,
            self._species_index[state.numbers],
            state.batch,
            state.n_systems,
            edges,
            self._hops(state, edges),
        )
        return Prediction(displacement, velocities, z, edges=found)

    def _whole(
        self, positions: Tensor, velocities: Tensor, forces: Tensor | None, atoms: Atoms, near: Near
    ) -> tuple[Tensor, Tensor]:
        return self._move(positions, velocities, forces, *atoms, *near(positions))[:2]

    def _arithmetic(self) -> Move:
        return self._move

    def _move(
        self,
        positions: Tensor,
        velocities: Tensor,
        forces: Tensor | None,
        masses: Tensor,
        species: Tensor,
        batch: Tensor,
        systems: int,
        edges: EdgeList,
        hops: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The network's two vectors on top of the linear predictor, without the motion of the centre.

        Nothing but arithmetic on tensors, so that it can be compiled whole.
        """
        dtype, unit, of = self.dtype, self.config.cutoff, Segments(batch, systems)
        origin, x = centred(positions, of, periodic=self.periodic, dtype=self.dtype)
        drift = None
        if self.domain.conserves_momentum:  # the map commutes with it
            drift = of.spread(of.weighted_mean(velocities, masses))
            velocities = velocities - drift
        invariants = self._invariants(species, masses, of, edges, hops)
        velocities, masses = velocities.to(dtype), masses.to(dtype)
        root = masses.sqrt()[:, None]
        vectors = None
        if forces is not None:
            forces = forces.to(dtype)
            vectors = (forces / (root * self.domain.force_scale))[:, None]
        v = velocities / self.domain.velocity_scale
        # In units of the cutoff squared lengths are of the order of one, which the first layers learn faster from.
        x = x / unit
        output = self.network(
            x=x,
            v=v,
            vectors=vectors,
            **invariants,
        )
        displacement, velocities = self.linear(velocities, forces, masses, species)
        scale = self.linear.scale.index_select(0, species) / root
        displacement = displacement + scale[:, :1] * (output.x - x)
        velocities = velocities + scale[:, 1:] * (output.v - v)
        if drift is not None:
            both = torch.cat([displacement, velocities], dim=1)
            displacement, velocities = (both - of.spread(of.weighted_mean(both, masses))).split(3, dim=1)
            drift = drift.to(dtype)
            displacement, velocities = displacement + self.timestep * drift, velocities + drift
        z = None if output.z is None else shifted_back(output.z * unit, origin)
        return displacement, velocities, z
