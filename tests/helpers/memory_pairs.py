"""Pairs of small molecules that live in memory, in place of those of a trajectory."""

from __future__ import annotations

import numpy as np
import torch

from fastegnn_md import State

CELL = torch.tensor([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.5, 2.5, 7.5]], dtype=torch.float64)


class MemoryPairs:
    """Random pairs of molecules of nine atoms, as TrajectoryPairs would give them."""

    lag = 0.01
    fingerprint = "memory"
    stores = ()

    def __init__(self, count=12, periodic=False, forces=True, velocities=True, conserving=True, bonds=True):
        self.has_forces, self.has_velocities, self.periodic = forces, velocities, periodic
        generator = torch.Generator().manual_seed(11)

        def draw(scale):
            return scale * torch.randn(9, 3, generator=generator, dtype=torch.float64)

        grid = torch.cartesian_prod(*[torch.arange(3.0, dtype=torch.float64)] * 3)[::3] * 1.3
        self.pairs = []
        for _ in range(count):
            state = State(
                positions=grid + draw(0.1),
                velocities=draw(5.0),
                numbers=torch.tensor([1, 6, 8] * 3),
                masses=torch.tensor([1.008, 12.011, 15.999] * 3, dtype=torch.float64),
                forces=draw(3e3) if forces else None,
                cell=CELL[None] if periodic else None,
                bonds=torch.tensor([[0, 1], [1, 2], [3, 4], [4, 5], [1, 4]]) if bonds else None,
            )
            v = 0.8 * state.velocities + draw(1.0)
            if conserving:
                v = v + (state.masses @ (state.velocities - v)) / state.masses.sum()
            end = state.replace(positions=state.positions + 0.01 * v, velocities=v)
            self.pairs.append((state, end))

    def __len__(self):
        return len(self.pairs)

    n_atoms = 9

    def frame_indices(self, indices):
        return np.stack([np.zeros(len(indices), dtype=int)] * 3, axis=1)

    def batch(self, indices):
        return tuple(State.concatenate([self.pairs[i][k] for i in indices]) for k in (0, 1))
