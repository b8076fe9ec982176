"""Jumps by one call of the C++ library, for networks that it knows."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from ..graph import BondDistance
from ..models.fastegnn import FastEGNN
from ..nn.native.jump import Jump, run
from ..nn.native.network import Plan, plan_for, weights_of
from ..state import State
from .base import Propagator
from .prediction import Prediction, Trust

# Atoms of an isolated system up to which all pairs are compared; beyond, cell lists are faster.
_ALL_PAIRS = 128


class OneCallPropagator(Propagator):
    """A propagator whose jumps without gradients are one call of the library, where it serves."""

    _known: _System | None = None

    def _unit(self) -> Tensor:
        """Scale of what the network says: (S, 2) of displacements and velocities, or (S,) of kicks."""
        return self.linear.scale

    def _kicks(self) -> int:
        """Number of calls of the network in a jump; 0 for one that gives displacements and velocities."""
        return 0

    def _served(self) -> bool:
        return self._plan() is not None

    def _plan(self) -> Plan | None:
        network = self.network
        if not isinstance(network, FastEGNN) or network.shape is None or network.edge_dropping:
            return None
        return plan_for(network.shape, self._unit())

    def _jump(self, state: State) -> Prediction | None:
        """As :meth:`Propagator._jump`; GraphError if two atoms lie on each other."""
        linear, unit = self.linear.coefficients, self._unit()
        system = self._known
        if system is None or not system.fits(state, self.network, self.surroundings, linear, unit):
            plan = self._plan()
            self._known = system = None if plan is None else _System(self, plan, state, linear, unit)
        if system is None:
            return None
        all_pairs = not state.periodic and _largest(state) <= _ALL_PAIRS
        if system.jump.kicks and not all_pairs:  # every kick needs a list of its own
            return None
        jump = Jump.from_buffer_copy(system.jump)
        forces = self.forces_of(state)
        held = [_double(state.positions), _double(state.velocities), None if forces is None else _double(forces)]
        jump.set(positions=held[0], velocities=held[1], forces=held[2])
        jump.edges = -1
        if not all_pairs:
            edges = self._neighbours(state)
            index, vector = edges.edge_index.contiguous(), _double(edges.vector)
            held += index, vector
            jump.edges = index.shape[1]
            jump.set(receiver=index[0], sender=index[1], vector=vector)
        found = torch.empty((2, state.n_atoms, 3), dtype=torch.float64)
        displacement, velocities = found.unbind(0)
        jump.set(displacement=displacement, moved=velocities)
        unlike = None
        if system.around is not None:
            unlike = torch.empty(state.n_atoms, dtype=system.plan.dtype)
            jump.set_around(system.around, unlike)
        run(system.plan, system.weights.packed(system.plan), jump, state.positions)
        return Prediction(displacement, velocities, trust=Trust(unlike=unlike))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_known": None}


class _System:
    """What jumps of the same atoms share."""

    def __init__(self, of: OneCallPropagator, plan: Plan, state: State, linear: Tensor, unit: Tensor):
        self.plan, self.weights = plan, weights_of(of.network)
        known = of.surroundings
        # Whatever this was made from; others in their place are noticed.
        self._seen = state.numbers, state.masses, state.bonds, state.batch, of.network, known, linear, unit
        dtype, config, domain, kicks = of.dtype, of.config, of.domain, of._kicks()
        species = of._species_index[state.numbers]
        features = of._features(species, state.masses)
        if kicks:  # the place of the kick
            features = torch.cat([features, torch.zeros(len(features), 1, dtype=dtype)], dim=1)
        begin = torch.zeros(state.n_systems + 1, dtype=torch.int64)
        begin[1:] = state.atom_counts.cumsum(0)
        self._held: dict[str, Tensor | None] = {
            "begin": begin,
            "species": species,
            "features": features.contiguous(),
            "masses": _double(state.masses),
            "linear": None if kicks else linear,
            "scale": unit,
        }
        bonds = state.bonds if of.uses_bonds else None
        if bonds is not None:
            self._held |= BondDistance(bonds, state.n_atoms).partners()
        self.jump = Jump(
            nodes=state.n_atoms,
            systems=state.n_systems,
            radial=config.radial_functions,
            periodic=of.periodic,
            conserve=domain.conserves_momentum,
            bonded=bonds is not None,
            kicks=kicks,
            cutoff=config.cutoff,
            timestep=of.timestep,
            velocity_scale=domain.velocity_scale,
            force_scale=domain.force_scale,
        )
        self.around = None if known is None else known.around(state.numbers, dtype)
        self.jump.set(**self._held)

    def fits(self, state: State, *others: object) -> bool:
        """Whether the atoms are the same, and what the propagator knows of them."""
        now = state.numbers, state.masses, state.bonds, state.batch, *others
        return all(map(operator.is_, self._seen, now))


def _double(values: Tensor) -> Tensor:
    return values.detach().to(torch.float64).contiguous()


def _largest(state: State) -> int:
    return state.n_atoms if state.n_systems == 1 else int(state.atom_counts.max())
