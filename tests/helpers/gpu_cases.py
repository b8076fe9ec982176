"""The device of the tests for GPUs, and systems and propagators small enough for them.

``FASTEGNN_MD_TEST_DEVICE=cpu`` tries these tests where there is no GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from fastegnn_md import Propagator, State
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain

DEVICE = torch.device(os.environ.get("FASTEGNN_MD_TEST_DEVICE", "cuda"))
ON_GPU = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(),
    reason="elsewhere: a GPU that torch sees (fastegnn-md doctor says what is there)",
)
TIMESTEP = 0.008  # ps
_CELL = torch.tensor([[9.0, 0.0, 0.0], [2.0, 8.6, 0.0], [-1.5, 2.5, 8.2]], dtype=torch.float64)


def system(seed: int = 0, *, periodic: bool = False, side: int | None = None) -> State:
    """A jittered lattice of H, C and O, with forces and bonds, float64 on the CPU.

    A cube of 27 atoms 1.4 Å apart, or 64 in a triclinic cell, or ``side``³.
    """
    side = side or (4 if periodic else 3)
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(*[torch.arange(float(side), dtype=torch.float64)] * 3)
    n = len(grid)

    def draw(scale: float) -> torch.Tensor:
        return scale * torch.randn(n, 3, generator=generator, dtype=torch.float64)

    cell = _CELL * side / 4 if periodic else None
    positions = (grid / side) @ cell if cell is not None else 1.4 * grid
    kinds = torch.tensor([1, 6, 8]).repeat(-(-n // 3))[:n]
    masses = torch.tensor([1.008, 12.011, 15.999], dtype=torch.float64).repeat(-(-n // 3))[:n]
    return State(
        positions=positions + draw(0.1),
        velocities=draw(5.0),
        forces=draw(3e3),
        midpoint_forces=draw(3e3),
        numbers=kinds,
        masses=masses,
        cell=None if cell is None else cell[None],
        bonds=torch.stack([torch.arange(n - 1), torch.arange(1, n)], dim=1),
    )


def propagator(state: State, seed: int = 0, **options: object) -> Propagator:
    """One for such systems whose network matters beside what it corrects, float64 on the CPU."""
    config = PropagatorConfig(**options)
    velocities = 0.9 * state.velocities
    later = state.replace(positions=state.positions + TIMESTEP * velocities, velocities=velocities)
    made = Propagator.build(config, TIMESTEP, Domain.from_pairs(state, later, config), seed=seed).double()
    made.measure(state, later)
    made.linear.scale.data[:] = torch.tensor([0.02, 2.0], dtype=torch.float64)
    if made.kind == "kick-drift":
        made.force_scale *= 10
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.network.parameters():
        scale = 0.5 * parameter.shape[-1] ** -0.5
        parameter.data += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return made.eval().requires_grad_(False)
