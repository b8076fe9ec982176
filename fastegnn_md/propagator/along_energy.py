"""What kinds share whose kicks are gradients of a learned potential."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import StateError
from ..graph import EdgeList
from ..models.fastegnn import FastEGNN
from ..nn.mlp import MLP
from ..nn.native.potential import potential_plan
from ..segments import Segments
from ..state import State
from .base import Propagator
from .config import PropagatorConfig
from .domain import Domain
from .force_scale import fit_force_scale, force_errors
from .learned_energy import LearnedEnergy
from .origins import centred


class EnergyPropagator(Propagator):
    """A propagator with a learned potential U(x; k) of its k-th kick, a sum over atoms of a number.

    The number is made of the network's node features, unchanged by translations, rotations and reflections. The network
    is one for all kicks and is told the place of a kick, |2k − K − 1|/K, the same for k and K + 1 − k.

    Parameters and attributes are those of :class:`~fastegnn_md.Propagator`; there are no virtual nodes at the end of a
    step (:meth:`virtual_nodes` gives None).
    """

    reversible = True
    volume_preserving = True
    force_scale: Tensor
    energy_unit: Tensor
    _known: LearnedEnergy | None = None

    def __init__(self, config: PropagatorConfig, timestep: float, domain: Domain, *, seed: int = 0):
        super().__init__(config, timestep, domain, seed=seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)  # noqa: TID251 - nn.Module initialisers take no generator
            self.head: MLP = MLP(config.hidden, config.hidden, 1)
        self.register_buffer("force_scale", torch.ones(len(self.species)))
        self.register_buffer("energy_unit", torch.ones(()))

    @property
    def _more_features(self) -> int:
        return 1  # the place of the kick

    @torch.no_grad()
    def measure(self, start: State, end: State) -> None:
        """Fit the scales to one batch of pairs: to the forces they bring, or to changes of velocity without them."""
        super().measure(start, end)
        forces = start.forces if self.wants_forces is None else self.forces_of(start)
        if forces is None:
            forces = start.masses.double()[:, None] * (end.velocities.double() - start.velocities) / self.timestep
        fit_force_scale(self.force_scale, self._species_index[start.numbers], forces, start.masses)
        rms = forces.double().square().mean().sqrt()
        self.energy_unit.fill_(float(rms) * self.config.cutoff if float(rms) > 1e-12 else 1.0)

    def force_residual(self, state: State) -> Tensor:
        """Errors of the learned potential against the forces of a batch, in units of the force scale, with gradients.

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
        found = self._force(state.positions, state, self._place(state.batch % ((self.config.kicks + 1) // 2)))
        return force_errors(self.force_scale, self._species_index[state.numbers], found, state)

    def _place(self, number: Tensor) -> Tensor:
        """Place of kicks that are counted from the middle outwards."""
        kicks = self.config.kicks
        return (2 * number + (1 - kicks % 2)) / kicks

    def _served(self) -> bool:
        network = self.network
        return isinstance(network, FastEGNN) and potential_plan(network.shape, self.head, self.energy_unit) is not None

    def _learned_energy(self, state: State) -> LearnedEnergy | None:
        """By the library, where it serves."""
        found = LearnedEnergy.of(self, self.head, self.energy_unit, state, self._known)
        if found is not None:
            self._known = found
        return found

    def _force(self, positions: Tensor, state: State, place: Tensor) -> Tensor:
        """−∂U/∂x (N, 3) at other positions of the atoms of a state, in amu Å/ps², for kicks at a place (N,)."""
        energy = self._learned_energy(state)
        if energy is None:
            gradient = -self._by_torch(positions, state, place)
        else:
            gradient = -energy.gradient(positions, place, state).to(positions.dtype)
        if not bool(torch.isfinite(gradient.detach().sum())):
            raise StateError(
                "the gradient of the learned potential is not finite; look for atoms that lie on each other"
            )
        return gradient

    def _by_torch(self, positions: Tensor, state: State, place: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = positions if positions.requires_grad else positions.detach().requires_grad_()
            edges = self._neighbours(state.moved(positions=x))
            (gradient,) = torch.autograd.grad(self._energy(x, state, edges, place), x, create_graph=wanted)
        return gradient

    def _energy(self, positions: Tensor, state: State, edges: EdgeList, place: Tensor) -> Tensor:
        """Σ U over the systems of a batch, amu Å²/ps²."""
        assert state.batch is not None  # set by State
        of = Segments(state.batch, state.n_systems)
        x = centred(positions, of, periodic=self.periodic, dtype=self.dtype)[1] / self.config.cutoff
        species = self._species_index[state.numbers]
        inputs = self._invariants(species, state.masses, of, edges, self._hops(state, edges))
        inputs["h"] = torch.cat([inputs["h"], place[:, None].to(self.dtype)], dim=1)
        h = self.network(x=x, v=torch.zeros_like(x), **inputs).h
        return self.energy_unit * self.head(h).sum()

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_known": None}
