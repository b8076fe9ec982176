"""Pairs of states with the engine's forces where a model asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.pairs import TrajectoryPairs
from ..errors import EngineError, NotFiniteError
from ..propagator.learned_map import LearnedMap
from ..state import State

if TYPE_CHECKING:
    from ase import Atoms


class EnginePairs(TrajectoryPairs):
    """A view on pairs of one system, as a propagator that asks an engine for forces meets them in dynamics.

    Forces are those of the place that the propagator predicts from the first state, never those of a stored frame
    in the middle, which knows the future. The engine is called once for each pair.

    Parameters
    ----------
    pairs : TrajectoryPairs
    propagator : LearnedMap
    atoms : ase.Atoms
        With a calculator; not modified.
    indices : sequence of int
        Which pairs.

    Attributes
    ----------
    indices : list of int
        Pairs whose forces are known; those at which the engine failed are missing.
    """

    def __init__(self, pairs: TrajectoryPairs, propagator: LearnedMap, atoms: Atoms, indices: Sequence[int]):
        self.__dict__.update(pairs.__dict__)
        self.has_middle_frames = False  # not for exams
        self._propagator = propagator
        self._asked: dict[int, Tensor] = {}
        self.indices: list[int] = list(indices)
        if propagator.wants_forces is not None:
            self.indices = [index for index in self.indices if self._ask(index, atoms)]

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[State, ...]:
        """As that of the pairs, with these forces."""
        start, *ends = super().batch(indices)
        if self._asked:
            start = self._propagator.with_forces(start, torch.cat([self._asked[int(index)] for index in indices]))
        return start, *ends

    def _ask(self, index: int, atoms: Atoms) -> bool:
        from ..engines.ase.atoms import forces_at

        start = super().batch([index])[0]
        where = self._propagator.force_positions(start)
        assert where is not None  # it wants forces
        try:
            self._asked[index] = forces_at(atoms, where.double()).to(start.dtype)
        except (EngineError, NotFiniteError):
            return False
        return True
