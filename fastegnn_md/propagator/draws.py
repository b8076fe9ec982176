"""Random numbers of a batch: from one generator, or from one for each of its systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import CompatibilityError
from ..mechanics.thermal import thermal_velocities
from ..state import State

# One for the batch, or one for each system, which then draws what it would draw alone.
Generators = torch.Generator | Sequence[torch.Generator]


def normal(state: State, generator: Generators, dtype: torch.dtype) -> Tensor:
    """Standard normal numbers, shape (N, 3), on the device of the state."""
    parts = [
        torch.randn((count, 3), generator=one, dtype=dtype, device=one.device)
        for count, one in _shares(state, generator)
    ]
    return torch.cat(parts).to(state.device)


def velocities(state: State, generator: Generators, temperature: float) -> Tensor:
    """Velocities (N, 3) of the Maxwell-Boltzmann distribution at a temperature in K."""
    begun, parts = 0, []
    for count, one in _shares(state, generator):
        parts.append(thermal_velocities(state.masses[begun : begun + count], temperature, one))
        begun += count
    return torch.cat(parts)


def _shares(state: State, generator: Generators) -> list[tuple[int, torch.Generator]]:
    if isinstance(generator, torch.Generator):
        return [(state.n_atoms, generator)]
    counts = state.atom_counts.tolist()
    if len(generator) != len(counts):
        raise CompatibilityError(
            f"{len(generator)} generators for a batch of {len(counts)} systems; give one for each, or one for all"
        )
    return list(zip(counts, generator, strict=True))
