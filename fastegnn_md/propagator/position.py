"""A learned map of positions alone, for lags at which velocities say nothing."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..segments import Segments
from ..state import State
from .base import Propagator
from .origins import centred, shifted_back
from .prediction import Prediction


class PositionPropagator(Propagator):
    """Advance positions by what the network says; velocities are drawn from the Maxwell-Boltzmann distribution.

    The network as its paper has it, in Å, with velocities of zero. Parameters and attributes are those of
    :class:`~fastegnn_md.Propagator`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("position",)

    def _predict(self, state: State) -> Prediction:
        assert state.batch is not None  # set by State
        edges = self._neighbours(state)
        systems, species = Segments(state.batch, state.n_systems), self._species_index[state.numbers]
        origin, x = centred(state.positions, systems, periodic=self.periodic, dtype=self.dtype)
        inputs = self._invariants(species, state.masses, systems, edges, self._hops(state, edges))
        inputs |= {"edge_vector": edges.vector.to(self.dtype), "edge_weight": None}
        output = self.network(x=x, v=torch.zeros_like(x), **inputs)
        z = shifted_back(output.z, origin)
        return Prediction(output.x - x, None, z, output.connectivity_loss, edges=edges)
