"""Limits of a propagator, of the atoms and bonds of one system: what guards hold a jump against."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastegnn_md.nn.native.functions import readable
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.state import State

from .shapes import Shape


@dataclass(frozen=True, eq=False)
class Ranges:
    """Limits of a propagator, margins included, of the atoms and bonds of one system.

    Attributes
    ----------
    numbers : Tensor, shape (N,)
    bonds : Tensor, shape (M, 2), or None
    displacement, speed : Tensor, shape (N,), or None
        Å and Å/ps; of elements without a limit the largest number there is.
    shortest, longest : Tensor, shape (M,), or None
        Å; None without bonds or limits.
    shape : Shape, optional
        Of molecules that are redrawn as a whole.
    """

    numbers: Tensor
    bonds: Tensor | None
    displacement: Tensor | None
    speed: Tensor | None
    shortest: Tensor | None
    longest: Tensor | None
    shape: Shape | None = None

    @classmethod
    def of(cls, state: State, limits: JumpLimits, factor: float, margin: float, *, redrawn: bool = False) -> Ranges:
        """Look up the limits of the atoms and bonds of a state; margins as in :class:`GuardSettings`.

        ``redrawn`` says that a jump draws molecules as a whole, so that they might change their hand.
        """
        known = itertools.chain(limits.displacement, limits.speed, *limits.bonds)
        size = max(int(state.numbers.max()), *known, 0)
        shortest = longest = None
        if state.bonds is not None and limits.bonds:
            low = torch.zeros((size + 1, size + 1), dtype=state.dtype)
            high = torch.full_like(low, math.inf)
            for (p, q), (least, most) in limits.bonds.items():
                low[p, q] = low[q, p] = (1 - margin) * least
                high[p, q] = high[q, p] = (1 + margin) * most
            kinds = state.numbers[state.bonds].cpu().unbind(1)
            shortest, longest = low[kinds].to(state.device), high[kinds].to(state.device)
        return cls(
            state.numbers,
            state.bonds,
            _per_atom(state, limits.displacement, factor, size),
            _per_atom(state, limits.speed, factor, size),
            shortest,
            longest,
            Shape.of(state, limits.torsions) if redrawn or limits.torsions else None,
        )

    def read(self, *per_atom: Tensor) -> bool:
        """Whether the C++ library can hold these (N, 3) against the limits."""
        fits = all(x.shape == self._shape for x in per_atom)
        return fits and self._readable and readable(*per_atom)

    @cached_property
    def _shape(self) -> tuple[int, int]:
        return len(self.numbers), 3

    @cached_property
    def _readable(self) -> bool:
        limits = (self.displacement, self.speed, self.shortest, self.longest)
        rows = self.bonds is None or self.bonds.is_contiguous()
        return rows and readable(*(limit for limit in limits if limit is not None))

    def fit(self, state: State) -> bool:
        """Whether they are those of the atoms and bonds of a state."""
        return _same(self.numbers, state.numbers) and _same(self.bonds, state.bonds)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    # States of the same atoms share these tensors.
    if one is other or one is None or other is None:
        return one is other
    return one.device == other.device and torch.equal(one, other)


def _per_atom(state: State, limits: dict[int, float], factor: float, size: int) -> Tensor | None:
    if not limits:
        return None
    table = torch.full((size + 1,), torch.finfo(state.dtype).max, dtype=state.dtype)  # infinity is beyond it
    for number, limit in limits.items():
        table[number] = factor * limit
    return table.to(state.device)[state.numbers]
