"""A State holds only what makes sense."""

from __future__ import annotations

import pytest
import torch

from fastegnn_md import State
from fastegnn_md.errors import StateError


def make(n=4, **changes):
    generator = torch.Generator().manual_seed(n)
    fields = {
        "positions": torch.randn(n, 3, generator=generator, dtype=torch.float64),
        "velocities": torch.randn(n, 3, generator=generator, dtype=torch.float64),
        "numbers": torch.full((n,), 6),
        "masses": torch.full((n,), 12.011, dtype=torch.float64),
    }
    return State(**{**fields, **changes})


def with_nan():
    positions = torch.zeros(4, 3, dtype=torch.float64)
    positions[2, 1] = float("nan")
    return positions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": torch.zeros(4, 2)}, r"positions has shape \(4, 2\); expected \(N, 3\)"),
        ({"positions": [[0.0, 0.0, 0.0]]}, "positions is a list"),
        ({"positions": torch.zeros(0, 3)}, "has no atoms"),
        ({"positions": with_nan()}, "positions has a NaN or infinite value at index 2"),
        ({"velocities": with_nan() / 0}, "velocities has a NaN or infinite value at index 0"),
        ({"velocities": torch.zeros(4, 3)}, "velocities has dtype torch.float32 but positions has torch.float64"),
        ({"velocities": torch.zeros(3, 3, dtype=torch.float64)}, "velocities has shape"),
        ({"positions": torch.zeros(4, 3, dtype=torch.int64)}, "expected torch.float32 or torch.float64"),
        ({"numbers": torch.zeros(4)}, "numbers must be a torch.Tensor of int64"),
        ({"masses": -torch.ones(4, dtype=torch.float64)}, "negative"),
        ({"batch": torch.tensor([0, 1, 0, 1])}, "without gaps"),
        ({"batch": torch.tensor([0, 0, 2, 2])}, "without gaps"),
        ({"batch": torch.tensor([1, 1, 1, 1])}, "start at 0"),
        ({"bonds": torch.tensor([[0, 4]])}, "outside 0..3"),
        ({"bonds": torch.tensor([0, 1])}, "bonds has shape"),
        ({"pbc": True}, "no cell was given"),
        ({"cell": torch.zeros(1, 3, 3, dtype=torch.float64)}, "no volume"),
        ({"cell": torch.eye(3, dtype=torch.float64)}, "cell has shape"),
        ({"cell": torch.eye(3, dtype=torch.float64)[None], "pbc": torch.ones(2, dtype=torch.bool)}, "pbc has shape"),
    ],
)
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(StateError, match=message):
        make(**changes)


def test_a_cell_means_periodic_unless_told_otherwise():
    cell = torch.eye(3, dtype=torch.float64)[None]
    assert make(cell=cell).pbc.tolist() == [[True] * 3]
    assert not make(cell=cell, pbc=False).periodic
    assert make(cell=cell, pbc=torch.tensor([True, False, True])).pbc.tolist() == [[True, False, True]]


def test_split_undoes_concatenate():
    bonds = torch.tensor([[0, 1]])
    cell = torch.eye(3, dtype=torch.float64)[None] * 9
    states = [make(n, bonds=bonds, cell=cell * n, types=torch.arange(n)) for n in (3, 1 + 1, 5)]
    batch = State.concatenate(states)
    assert batch.n_systems == 3
    assert batch.bonds.tolist() == [[0, 1], [3, 4], [5, 6]]
    for state, back in zip(states, batch.split(), strict=True):
        for name in ("positions", "velocities", "numbers", "masses", "cell", "pbc", "batch", "types", "bonds"):
            assert torch.equal(getattr(state, name), getattr(back, name)), name


def test_concatenate_refuses_a_mixture():
    with pytest.raises(StateError, match="forces is present in some states"):
        State.concatenate([make(), make(forces=torch.zeros(4, 3, dtype=torch.float64))])
    with pytest.raises(StateError, match="empty list"):
        State.concatenate([])


def test_conversion_keeps_integers():
    state = make(bonds=torch.tensor([[0, 1]])).to(dtype=torch.float32)
    assert state.dtype == torch.float32
    assert state.masses.dtype == torch.float32
    assert state.bonds.dtype == state.numbers.dtype == torch.int64
