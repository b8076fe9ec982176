"""Jumps as functions that look at no value: their numbers, and that nothing in them would wait for a GPU."""

from __future__ import annotations

import dataclasses

import gpu_cases
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

import fastegnn_md
from fastegnn_md import State, segments
from fastegnn_md.errors import GraphError
from fastegnn_md.graph import FixedNeighbours, neighbour_list
from fastegnn_md.nn.messages import cpu as cpu_kernel
from fastegnn_md.propagator.compiled import Atoms
from fastegnn_md.propagator.whole import WholeJump

SMALL = {"hidden": 16, "layers": 2}
KINDS = {
    "force-free": SMALL,
    "force-midpoint": {**SMALL, "kind": "force-midpoint"},
    "kick-drift": {**SMALL, "kind": "kick-drift", "kicks": 3},
    "egnn": {**SMALL, "architecture": "egnn", "kind": "force-start"},
}
SYSTEMS = {
    "isolated": lambda: gpu_cases.system(),
    "isolated, 64 atoms": lambda: gpu_cases.system(side=4),
    "replicas": lambda: State.concatenate([gpu_cases.system(seed) for seed in range(4)]),
    "periodic": lambda: gpu_cases.system(periodic=True),
    "periodic replicas": lambda: State.concatenate([gpu_cases.system(seed, periodic=True) for seed in range(3)]),
}
SLAB = {"slab": lambda: gpu_cases.system(periodic=True).replace(pbc=torch.tensor([True, True, False]))}


@pytest.fixture(autouse=True)
def _by_torch(without_library: None) -> None:
    """What a GPU does; on the CPU the library would do it."""


def moving(propagator, state):
    return state.positions, state.velocities, propagator.forces_of(state), state.cell if state.periodic else None


@pytest.mark.parametrize("which", SYSTEMS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_the_jump(kind, which):
    state = SYSTEMS[which]()
    propagator = gpu_cases.propagator(state, **KINDS[kind])
    whole, generator = WholeJump(propagator, state), torch.Generator().manual_seed(1)
    for _ in range(2):
        expected, found = propagator(state), whole(*moving(propagator, state))
        torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.velocities, expected.velocities, rtol=0, atol=1e-8)
        assert found.good
        noise = 0.05 * torch.randn(state.positions.shape, generator=generator, dtype=state.dtype)
        cell = None if state.cell is None else 1.01 * state.cell
        state = dataclasses.replace(state, positions=state.positions + noise, cell=cell)
        assert whole.fits(state)


@torch.no_grad()
def test_surroundings_are_those_of_the_jump():
    propagator = fastegnn_md.load("copper-emt").double()
    from ase.build import bulk

    from fastegnn_md.engines.ase import state_from_atoms

    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.1, seed=0)
    state = state_from_atoms(atoms)
    (expected, trust), found = propagator.with_trust(state), WholeJump(propagator, state)(*moving(propagator, state))
    torch.testing.assert_close(found.unlike, trust.unlike, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.positions, expected.positions, rtol=0, atol=1e-10)


@pytest.mark.parametrize("which", ["isolated", "isolated, 64 atoms", "periodic"])
def test_what_is_not_whole_says_so(which):
    state = SYSTEMS[which]()
    search = FixedNeighbours(state, 3.5)
    x, cell = state.positions, state.cell
    assert search(x, cell).whole
    together = x.clone()
    together[1] = together[0] + 1e-4
    assert not search(together, cell).whole, "atoms on each other"
    if which != "isolated":
        assert not search(0.5 * x, None if cell is None else 0.5 * cell).whole, "no room, or a cell too small"
    if cell is not None:
        assert not search(x, 0.7 * cell).whole


@torch.no_grad()
def test_a_value_that_is_not_finite_says_so():
    state = gpu_cases.system()
    propagator = gpu_cases.propagator(state)
    x, *others = moving(propagator, state)
    broken = x.clone()
    broken[3, 1] = torch.nan
    assert not WholeJump(propagator, state)(broken, *others).good


@pytest.mark.parametrize("which", SYSTEMS | SLAB)
def test_edges_are_those_of_the_search_and_others_weigh_nothing(which):
    state = (SYSTEMS | SLAB)[which]()
    search, expected = FixedNeighbours(state, 3.5), neighbour_list(state, 3.5)
    (index, vector, distance), pair, _ = search(state.positions, state.cell)
    assert bool((index[0].diff() >= 0).all())
    near = distance[:, 0] < 3.5

    def rows(pairs, vectors):
        both = zip(pairs.T.tolist(), vectors.tolist(), strict=True)
        return sorted((*one, *(round(4 * x) for x in other)) for one, other in both)

    assert rows(index[:, near], vector[near]) == rows(*expected[:2])
    assert bool((distance[~near] == 3.5).all())
    if pair is not None:
        assert torch.equal(search.pairs[:, pair[near]], index[:, near])


def test_systems_it_cannot_serve_are_refused():
    uneven = State.concatenate([gpu_cases.system(side=3), gpu_cases.system(side=4)])
    narrow = gpu_cases.system(periodic=True)
    assert not FixedNeighbours.serve(uneven, 3.5)
    assert not FixedNeighbours.serve(narrow, 6.0)
    assert not FixedNeighbours.serve(gpu_cases.system(side=13), 3.5)
    with pytest.raises(GraphError, match="one size"):
        FixedNeighbours(uneven, 3.5)


def test_another_system_does_not_fit():
    state = gpu_cases.system()
    whole = WholeJump(gpu_cases.propagator(state), state)
    assert whole.fits(dataclasses.replace(state, numbers=state.numbers.clone()))
    assert not whole.fits(dataclasses.replace(state, numbers=state.numbers.flip(0), masses=state.masses.flip(0)))
    assert not whole.fits(dataclasses.replace(state, bonds=state.bonds[1:]))
    assert not whole.fits(state.to(dtype=torch.float32))
    assert not whole.fits(gpu_cases.system(side=4))


def faked(mode, tensor):
    with mode:
        return torch.empty(tensor.shape, dtype=tensor.dtype)


@pytest.mark.parametrize("which", SYSTEMS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_nothing_in_it_looks_at_a_value(kind, which, monkeypatch, without_library):
    """Of tensors without values: on a GPU each look would be waited for, and no graph could be recorded."""
    # On a CPU two more looks are taken that a GPU, or one that records, does without.
    monkeypatch.setattr(segments, "_check_range", lambda *given: None)
    monkeypatch.setattr(cpu_kernel, "serves", lambda tensor: False)
    state = SYSTEMS[which]()
    propagator = gpu_cases.propagator(state, **KINDS[kind])
    whole, mode = WholeJump(propagator, state), FakeTensorMode()
    for holder in (whole, whole._neighbours):
        tensors = {name: one for name, one in vars(holder).items() if isinstance(one, torch.Tensor)}
        vars(holder).update({name: faked(mode, one) for name, one in tensors.items()})
    masses, species, batch, systems = whole._atoms
    whole._atoms = Atoms(faked(mode, masses), faked(mode, species), faked(mode, batch), systems)
    for module in propagator.modules():
        for named in (module._parameters, module._buffers):
            named.update({name: faked(mode, one) for name, one in named.items() if one is not None})
    inputs = [None if one is None else faked(mode, one) for one in moving(propagator, state)]
    with mode:
        ended = whole(*inputs)
        assert ended.positions.shape == state.positions.shape
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            bool(ended.good)
