"""A jump as one function from tensors to tensors, which looks at no value: neighbours, network and checks."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..graph import EdgeList, FixedEdges, FixedNeighbours
from ..state import State
from .compiled import Atoms, Near
from .config import PropagatorConfig
from .surroundings import Surroundings

# What belongs to a system and not to a moment.
_LASTING = ("numbers", "masses", "batch", "pbc", "bonds")


class Ended(NamedTuple):
    """Where a jump leads to."""

    positions: Tensor  # (N, 3), Å
    velocities: Tensor  # (N, 3), Å/ps
    unlike: Tensor | None  # (N,), as in Trust
    good: Tensor  # bool, no dimensions: all values are finite, and all neighbours were found


class Jumps(Protocol):
    """What is asked of a propagator here."""

    config: PropagatorConfig
    surroundings: Surroundings | None
    _species_index: Tensor

    def forces_of(self, state: State) -> Tensor | None: ...  # noqa: D102

    def _hops(self, state: State, edges: EdgeList) -> Tensor: ...

    def _whole(
        self, positions: Tensor, velocities: Tensor, forces: Tensor | None, atoms: Atoms, near: Near
    ) -> tuple[Tensor, Tensor]: ...


class WholeJump:
    """The jump of a propagator for the systems of one state.

    Parameters
    ----------
    propagator : Jumps
        A propagator, of a kind that predicts velocities.
    state : State
        One that was checked.

    Raises
    ------
    GraphError
        If :meth:`FixedNeighbours.serve` says no.
    """

    def __init__(self, propagator: Jumps, state: State):
        assert state.batch is not None  # set by State
        self._propagator, self._state = propagator, state
        self._neighbours = FixedNeighbours(state, propagator.config.cutoff)
        species = propagator._species_index[state.numbers]
        self._atoms = Atoms(state.masses, species, state.batch, state.n_systems)
        nothing = state.positions.new_zeros(0, 3)
        # Of a few kinds of pairs the kind is kept, not looked up.
        pairs = EdgeList(self._neighbours.pairs, nothing, nothing)
        self._hops = propagator._hops(state, pairs).to(torch.uint8)

    def fits(self, state: State) -> bool:
        """Whether a state is of the same systems, in the same precision and with the same kind of forces."""
        mine, own = self._state, self._propagator.forces_of
        if (
            state.dtype != mine.dtype
            or state.device != mine.device
            or state.n_atoms != mine.n_atoms
            or (own(state) is None) != (own(mine) is None)
        ):
            return False
        for name in _LASTING:
            one, other = getattr(state, name), getattr(mine, name)
            if one is not other and (
                one is None or other is None or one.shape != other.shape or not torch.equal(one, other)
            ):
                return False
        self._state = state  # the next one most likely has these tensors
        return True

    def __call__(self, positions: Tensor, velocities: Tensor, forces: Tensor | None, cell: Tensor | None) -> Ended:
        """Where a state comes to, in the dtype of its positions."""
        propagator, found = self._propagator, []

        def near(at: Tensor) -> tuple[EdgeList, Tensor]:
            found.append(self._neighbours(at, cell))
            return found[-1].edges, self._hops_of(found[-1])

        displacement, moved = propagator._whole(positions, velocities, forces, self._atoms, near)
        ended, moved = positions + displacement.to(positions.dtype), moved.to(positions.dtype)
        unlike = None
        if propagator.surroundings is not None:
            unlike = propagator.surroundings(self._state.numbers, found[0].edges)
        good = (ended.sum() + moved.sum()).isfinite()
        for one in found:
            good = good & one.whole
        return Ended(ended, moved, unlike, good)

    def _hops_of(self, found: FixedEdges) -> Tensor:
        return self._hops if found.pair is None else self._hops.index_select(0, found.pair)
