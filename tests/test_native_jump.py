"""Jumps as one call of the C++ library against the same by torch, for every kind that has it."""

from __future__ import annotations

import copy
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import read
from memory_pairs import MemoryPairs

import fastegnn_md
from fastegnn_md import State
from fastegnn_md.engines.ase.atoms import guess_bonds, state_from_atoms
from fastegnn_md.errors import GraphError, StateError
from fastegnn_md.nn.native.library import library
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.propagator.surroundings import Surroundings

KINDS = ("force-free", "force-start", "force-midpoint", "kick-drift")
TIGHT = {torch.float64: 1e-11, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _there() -> None:
    assert library() is not None, "the C++ library could not be built"


def made(kind: str, *, dtype: torch.dtype = torch.float64, **options) -> tuple[Propagator, MemoryPairs]:
    """A propagator with weights that matter, and pairs that it fits."""
    pairs = MemoryPairs(**options)
    config = PropagatorConfig(kind=kind, hidden=16, layers=2, cutoff=3.0)
    start, end = pairs.batch(range(len(pairs)))
    if kind == "force-midpoint":
        start = start.replace(midpoint_forces=start.forces)
    propagator = Propagator.build(config, 0.01, Domain.from_pairs(start, end, config), seed=3)
    generator = torch.Generator().manual_seed(0)
    propagator.measure(start, end)
    with torch.no_grad():
        for parameter in propagator.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    propagator = propagator.to(dtype)
    propagator.surroundings = Surroundings.measure(start, config.cutoff)
    return propagator, pairs


def start_of(propagator: Propagator, pairs: MemoryPairs, indices: list[int]) -> State:
    state = pairs.batch(indices)[0]
    return state.replace(midpoint_forces=state.forces) if propagator.kind == "force-midpoint" else state


def by_torch(propagator: Propagator, state: State, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr("fastegnn_md.nn.native.network._plan", lambda shape, dtype: None)
        return copy.deepcopy(propagator).predict(state)


def assert_same(found, expected, bound: float) -> None:
    for one, other in ((found.displacement, expected.displacement), (found.velocities, expected.velocities)):
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=bound * float(other.abs().max()))
    assert (found.trust.unlike is None) == (expected.trust.unlike is None)
    if expected.trust.unlike is not None:
        torch.testing.assert_close(found.trust.unlike.double(), expected.trust.unlike.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", TIGHT, ids=["double", "single"])
@pytest.mark.parametrize("options", [{}, {"bonds": False}, {"periodic": True}], ids=["bonds", "no bonds", "periodic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jump_is_that_of_torch(kind, options, dtype, threads, monkeypatch):
    propagator, pairs = made(kind, dtype=dtype, **options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for indices in ([0], [1, 2, 3], [4] * 40):
            state = start_of(propagator, pairs, indices)
            with torch.no_grad():
                found = propagator.predict(state)
            assert_same(found, by_torch(propagator, state, monkeypatch), TIGHT[dtype])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["ala2-vacuum", "ethanol-xtb", "copper-emt"])
def test_shipped_models_jump_as_by_torch(name, monkeypatch):
    if name == "ala2-vacuum":
        with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
            atoms = read(path)
    else:
        atoms = molecule("CH3CH2OH") if name == "ethanol-xtb" else bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.05)
    propagator = fastegnn_md.load(name)
    bonds = guess_bonds(atoms) if propagator.uses_bonds else None
    state = state_from_atoms(atoms, bonds=bonds)
    with torch.no_grad():
        found = propagator.predict(state)
    assert_same(found, by_torch(propagator, state, monkeypatch), 1e-5)


def test_a_float32_state_stays_one():
    propagator, pairs = made("force-free", dtype=torch.float32)
    state = pairs.batch([0])[0].to(dtype=torch.float32)
    ended = propagator(state)
    assert ended.dtype == torch.float32
    expected = propagator(state.to(dtype=torch.float64))
    torch.testing.assert_close(ended.positions.double(), expected.positions, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["force-free", "kick-drift"])
def test_other_atoms_weights_and_surroundings_are_noticed(kind, monkeypatch):
    propagator, pairs = made(kind)
    state = start_of(propagator, pairs, [0])
    propagator(state)
    heavier = state.replace(masses=1.005 * state.masses)
    with torch.no_grad():
        found = propagator.predict(heavier)
    assert_same(found, by_torch(propagator, heavier, monkeypatch), 1e-11)
    with torch.no_grad():
        propagator.linear.scale *= 2
        next(propagator.network.parameters()).add_(0.1)
        found = propagator.predict(state)
    assert_same(found, by_torch(propagator, state, monkeypatch), 1e-11)
    propagator.surroundings = None
    with torch.no_grad():
        assert propagator.predict(state).trust.unlike is None


@pytest.mark.parametrize("kind", ["force-free", "kick-drift"])
def test_atoms_on_each_other_are_named(kind):
    propagator, pairs = made(kind)
    state = start_of(propagator, pairs, [0])
    positions = state.positions.clone()
    positions[4] = positions[2]
    still = state.replace(positions=positions, velocities=torch.zeros_like(positions))
    with pytest.raises(GraphError, match=r"atoms (2 and 4|4 and 2) are .* apart"):
        propagator(still)


def test_a_prediction_that_is_not_finite_is_refused():
    propagator, pairs = made("force-free")
    with torch.no_grad():
        propagator.network.readout.second.bias.fill_(float("nan"))
    with pytest.raises(StateError):
        propagator(start_of(propagator, pairs, [0]))


def test_kicks_are_their_own_inverse():
    """Whatever the weights."""
    propagator, pairs = made("kick-drift")
    state = start_of(propagator, pairs, [0, 1])
    there = propagator(state)
    back = propagator(there.replace(velocities=-there.velocities))
    torch.testing.assert_close(back.positions, state.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(-back.velocities, state.velocities, rtol=0, atol=1e-10)


def test_virtual_nodes_are_still_there():
    propagator, pairs = made("force-free")
    z = propagator.virtual_nodes(start_of(propagator, pairs, [0, 1]))
    assert z is not None
    assert z.shape == (2, 3, 3)


def test_gradients_go_through_a_jump():
    propagator, pairs = made("force-free")
    state = start_of(propagator, pairs, [0])
    propagator.predict(state).displacement.square().sum().backward()
    assert all(one.grad is not None for one in propagator.network.parameters())


def test_copies_have_weights_of_their_own():
    propagator, pairs = made("force-free")
    state = start_of(propagator, pairs, [0])
    before = propagator(state)
    other = copy.deepcopy(propagator)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.zero_()
    assert not torch.allclose(other(state).velocities, before.velocities)
    torch.testing.assert_close(propagator(state).velocities, before.velocities, rtol=0, atol=0)
