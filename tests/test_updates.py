"""What an update does besides the network's arithmetic: clipping, the moving average, and states read for it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.training.weights import MovingAverage, WeightBlock


def network(seed):
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    for value in [*layers.parameters(), *layers.buffers()]:
        if value.is_floating_point():
            value.data = torch.randn(value.shape, generator=generator)
    return layers


def gradients(weights, size, generator, without=()):
    """The same random gradients for each list of weights; none for some."""
    for place in range(len(weights[0])):
        value = size * torch.randn(weights[0][place].shape, generator=generator)
        for one in weights:
            one[place].grad = None if place in without else value.clone()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("fused", [False, True])
def test_updates_of_the_block_are_those_of_its_weights(size, fused):
    plain, blocked = network(0), network(0)
    block = WeightBlock(blocked)
    options = {"lr": 1e-2, "weight_decay": 0.0, "fused": fused}
    ours, torchs = torch.optim.Adam([block.values], **options), torch.optim.Adam(plain.parameters(), **options)
    weights, generator = [list(plain.parameters()), list(blocked.parameters())], torch.Generator().manual_seed(1)
    for _ in range(4):
        gradients(weights, size, generator, without=[1])
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        torchs.step()
        block.gather()
        block.clip(1.0)
        assert float(block.values.grad.norm()) < 1.0 + 1e-5
        ours.step()
        for weight, twin in zip(*weights, strict=True):
            torch.testing.assert_close(weight, twin, rtol=1e-5, atol=1e-6)
    assert torch.equal(weights[1][1], list(network(0).parameters())[1])  # no gradient, no change


def test_a_block_keeps_what_weights_are_and_the_network_follows_it():
    blocked, same = network(0), network(0)
    block = WeightBlock(blocked)
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(blocked(inputs), same(inputs))
    with torch.no_grad():
        block.values.zero_()
    assert not any(bool(weight.any()) for weight in blocked.parameters())


def test_gradients_of_an_update_before_are_forgotten():
    blocked = network(0)
    block, weights = WeightBlock(blocked), [list(blocked.parameters())]
    gradients(weights, 1.0, torch.Generator().manual_seed(1))
    block.gather()
    assert bool(block.values.grad.any())
    block.forget()
    block.gather()
    assert block.values.grad is None
    gradients(weights, 1.0, torch.Generator().manual_seed(1), without=[0, 2, 3, 4, 5])
    block.gather()
    assert int(block.values.grad.count_nonzero()) == weights[0][1].numel()
    block.clip(1.0)
    block.values.grad = None
    block.clip(1.0)  # nothing to clip


def test_gradients_that_are_not_finite_stay_so():
    blocked = network(0)
    block, weights = WeightBlock(blocked), list(blocked.parameters())
    gradients([weights], 1.0, torch.Generator().manual_seed(1))
    weights[2].grad[0] = torch.nan
    block.gather()
    block.clip(1.0)
    assert not bool(block.values.grad.isfinite().all())


def test_moments_by_weight_come_back_as_those_of_the_block():
    blocked = network(0)
    block = WeightBlock(blocked)
    optimizer = torch.optim.Adam([block.values], fused=True)
    gradients([list(blocked.parameters())], 1.0, torch.Generator().manual_seed(1))
    block.gather()
    optimizer.step()
    state = optimizer.state[block.values]
    named = block.moments(state)
    assert {name for name in named if name.startswith("exp_avg/")} == {
        f"exp_avg/{name}" for name, _ in blocked.named_parameters()
    }
    for name, weight in blocked.named_parameters():
        assert named[f"exp_avg_sq/{name}"].shape == weight.shape
    again = block.state(named)
    assert again.keys() == state.keys()
    for key, value in again.items():
        assert torch.equal(value, state[key])
    del named["exp_avg/0.weight"]  # as in checkpoints of weights that had no gradient
    assert not bool(block.state(named)["exp_avg"][: blocked[0].weight.numel()].any())


def test_the_average_moves_towards_the_weights_and_copies_buffers():
    average, followed = network(0).requires_grad_(False), network(1)
    before = copy.deepcopy(average)
    following = MovingAverage(average, followed)
    followed[1].num_batches_tracked += 4
    following.move(0.75)
    for mean, old, now in zip(average.parameters(), before.parameters(), followed.parameters(), strict=True):
        torch.testing.assert_close(mean, 0.75 * old + 0.25 * now.detach())
    for kept, buffer in zip(average.buffers(), followed.buffers(), strict=True):
        assert torch.equal(kept, buffer)


@pytest.fixture(scope="module", params=[1, 2])
def pairs(request, tmp_path_factory):
    """Of one or two molecules of different size, with all forces that a store can hold."""
    rng, paths = np.random.default_rng(0), []
    for atoms in range(2, 2 + request.param):
        topology = Topology(numbers=np.full(atoms, 6), masses=np.full(atoms, 12.0), bonds=np.array([[0, 1]]))
        paths.append(tmp_path_factory.mktemp("store") / f"{atoms}.h5md")
        options = {"velocities": True, "forces": True, "cells": False, "kind": "bursts", "provenance": {}}
        with StoreWriter(paths[-1], topology, 24, midpoint=0.01, **options) as writer:
            for frame in range(24):
                x, v, *forces = rng.normal(size=(5, atoms, 3))
                x = np.arange(atoms)[:, None] * [1.5, 0.0, 0.0] + 0.02 * x
                writer.write(x, 0.01 * frame, velocities=4.0 * v, forces=forces[0], ahead=forces[1], behind=forces[2])
            writer.finish(0.01, np.array([[0, 12], [12, 24]]))
    return TrajectoryPairs(paths, lag=0.01, time_reversal=True, progress=False)


@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("midpoint", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_lean_pairs_are_the_same_states_with_no_more_forces_than_asked_for(pairs, forces, midpoint, steps):
    whole = pairs.sequences(steps)
    lean = whole.lean(forces=forces, midpoint=midpoint)
    assert (lean.has_forces, lean.has_midpoint_forces) == (forces, midpoint)
    assert lean.fingerprint == whole.fingerprint
    assert len(lean) == len(whole)
    for indices in ([0, len(whole) - 1, 3], [5, 2, len(whole) // 2]):
        states = lean.batch(indices)
        for instant, (state, full) in enumerate(zip(states, whole.batch(indices), strict=True)):
            for name in ("positions", "velocities", "numbers", "masses", "batch", "bonds"):
                assert torch.equal(getattr(state, name), getattr(full, name))
            for name, wanted in (("forces", forces), ("midpoint_forces", midpoint)):
                if wanted and instant == 0:
                    assert torch.equal(getattr(state, name), getattr(full, name))
                else:
                    assert getattr(state, name) is None
    assert whole.batch([0])[1].forces is not None  # the data it is a view of still have theirs
