"""The learned energy of the same systems by the C++ library: its gradients, and halves of jumps along them."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from ..graph import BondDistance, NeighbourSearch
from ..models.fastegnn import FastEGNN
from ..nn.mlp import MLP
from ..nn.native.network import Weights
from ..nn.native.potential import Energies, potential_plan
from ..nn.native.symplectic import Halves
from ..state import State
from .base import Propagator

# Atoms of a system up to which all pairs are compared; beyond, torch takes cell lists.
_ALL_PAIRS = 128
# Å. Lists of neighbours of periodic systems reach as much further, and serve until an atom has moved half of it.
_SKIN = 0.5


class LearnedEnergy:
    """What kicks of the same atoms share; made by :meth:`of`.

    Attributes
    ----------
    halves : Halves or None
        None for periodic systems.
    """

    def __init__(self, propagator: Propagator, head: MLP, unit: Tensor, state: State, weights: Weights):
        network, config = propagator.network, propagator.config
        plan = potential_plan(network.shape, head, unit)  # type: ignore[arg-type]
        assert plan is not None  # :meth:`of` has seen it
        self._plan, self._weights = plan, weights
        self._modules = network, head
        self._seen, self._version = self._what(propagator, head, unit, state), unit._version
        self._parameters = [*network.parameters(), *head.parameters()]
        self._features = propagator._features(propagator._species_index[state.numbers], state.masses)
        self._begin = torch.zeros(state.n_systems + 1, dtype=torch.int64)
        self._begin[1:] = state.atom_counts.cumsum(0)
        bonds = state.bonds if propagator.uses_bonds else None
        self._partners = None if bonds is None else BondDistance(bonds, state.n_atoms).partners()
        self._cutoff, self._radial, self._unit = config.cutoff, config.radial_functions, float(unit)
        known = propagator.surroundings
        self._lists = _Lists(config.cutoff) if propagator.periodic else None
        self.halves: Halves | None = None
        if propagator.periodic:
            return
        self.halves = Halves(
            plan,
            self._begin,
            torch.cat([self._features, self._features.new_zeros(state.n_atoms, 1)], dim=1),
            state.masses,
            cutoff=self._cutoff,
            radial=self._radial,
            unit=self._unit,
            timestep=propagator.timestep,
            kicks=config.kicks,
            partners=self._partners,
            around=None if known is None else known.around(state.numbers, propagator.dtype),
        )

    @classmethod
    def of(
        cls, propagator: Propagator, head: MLP, unit: Tensor, state: State, last: LearnedEnergy | None
    ) -> LearnedEnergy | None:
        """That of the atoms of a state.

        Parameters
        ----------
        propagator : Propagator
            With the network.
        head : MLP
            From node features to the energy of an atom, in a ``unit`` (), amu Å²/ps².
        state : State
        last : LearnedEnergy, optional
            Given back if it is the one.

        Returns
        -------
        LearnedEnergy or None
            None where the library does not serve.
        """
        if last is not None and last._fits(propagator, head, unit, state):
            return last
        network = propagator.network
        if not isinstance(network, FastEGNN) or not (propagator.periodic or _largest(state) <= _ALL_PAIRS):
            return None
        if potential_plan(network.shape, head, unit) is None:
            return None
        known = last is not None and last._modules == (network, head)
        weights = last._weights if last is not None and known else Weights(network, head)
        return cls(propagator, head, unit, state, weights)

    def gradient(self, positions: Tensor, place: Tensor, state: State) -> Tensor:
        """∂U/∂x (N, 3) with first derivatives, amu Å/ps², for kicks at a place (N,), in the boxes of a state."""
        energies = self._energies(positions, place, state)
        if torch.is_grad_enabled():
            return energies.gradient(positions, self._parameters)
        found = torch.empty(positions.shape, dtype=torch.float64)
        energies.call(self.packed(), positions, gradient=found)
        return found

    def curvature(self, positions: Tensor, direction: Tensor, state: State) -> Tensor:
        """∂²U/∂x² along a direction (N, 3) for the kick in the middle, without gradients."""
        found = torch.empty(positions.shape, dtype=torch.float64)
        middle = self._features.new_zeros(len(positions))
        self._energies(positions, middle, state).call(self.packed(), positions, direction=direction, gradient=found)
        return found

    def _energies(self, positions: Tensor, place: Tensor, state: State) -> Energies:
        index, shift = (None, None) if self._lists is None else self._lists(positions.detach(), state)
        return Energies(
            self._plan,
            self._begin,
            torch.cat([self._features, place[:, None].to(self._features.dtype)], dim=1),
            cutoff=self._cutoff,
            radial=self._radial,
            unit=self._unit,
            partners=self._partners,
            edge_index=index,
            shift=shift,
        )

    def packed(self) -> Tensor:
        """The present weights, for :attr:`halves`."""
        return self._weights.packed(self._plan)

    def _fits(self, propagator: Propagator, head: MLP, unit: Tensor, state: State) -> bool:
        now = self._what(propagator, head, unit, state)
        return self._version == unit._version and all(map(operator.is_, self._seen, now))

    @staticmethod
    def _what(propagator: Propagator, head: MLP, unit: Tensor, state: State) -> tuple[object, ...]:
        """Whatever this was made from; others in their place are noticed."""
        about = propagator.network, head, unit, propagator.surroundings, propagator.dtype
        return *about, state.numbers, state.masses, state.bonds, state.batch


class _Lists:
    """Edges to periodic images, which serve as long as no atom has moved far and boxes are the same."""

    def __init__(self, cutoff: float):
        self._search = NeighbourSearch(cutoff + _SKIN)
        self._at: Tensor | None = None
        self._boxes: tuple[Tensor | None, Tensor | None] = (None, None)
        self._found: tuple[Tensor, Tensor] | None = None

    def __call__(self, positions: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Edges (2, E) sorted by receiver, and what the differences of positions lack (E, 3), Å."""
        if self._found is not None and self._near(positions) and self._alike(state):
            return self._found
        edges = self._search(state.moved(positions=positions))
        index = edges.edge_index
        x = positions.double()
        shift = edges.vector.double() - (x.index_select(0, index[0]) - x.index_select(0, index[1]))
        self._at, self._boxes, self._found = positions.clone(), (state.cell, state.pbc), (index, shift)
        return self._found

    def _near(self, positions: Tensor) -> bool:
        assert self._at is not None  # set with what was found
        return float((positions - self._at).square().sum(dim=1).max()) < (0.5 * _SKIN) ** 2

    def _alike(self, state: State) -> bool:
        return all(
            one is other or (one is not None and other is not None and torch.equal(one, other))
            for one, other in zip(self._boxes, (state.cell, state.pbc), strict=True)
        )


def _largest(state: State) -> int:
    return state.n_atoms if state.n_systems == 1 else int(state.atom_counts.max())
