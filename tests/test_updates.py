"""What an update does besides the network's arithmetic: clipping, the moving average, and states read for it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.training.weights import MovingAverage, clip_gradients


def network(seed):
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    for value in [*layers.parameters(), *layers.buffers()]:
        if value.is_floating_point():
            value.data = torch.randn(value.shape, generator=generator)
    return layers


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_gradients_are_clipped_as_by_torch(size):
    generator = torch.Generator().manual_seed(1)
    weights = list(network(0).parameters())
    for weight in weights[1:]:  # the first one takes no part
        weight.grad = size * torch.randn(weight.shape, generator=generator)
    twins = copy.deepcopy(weights)
    for twin, weight in zip(twins[1:], weights[1:], strict=True):
        twin.grad = weight.grad.clone()
    clip_gradients(weights, 1.0)
    nn.utils.clip_grad_norm_(twins, 1.0)
    assert weights[0].grad is None
    for weight, twin in zip(weights[1:], twins[1:], strict=True):
        torch.testing.assert_close(weight.grad, twin.grad)
    norm = float(torch.cat([weight.grad.flatten() for weight in weights[1:]]).norm())
    assert norm < 1.0 + 1e-5


def test_no_gradients_are_nothing_to_clip():
    clip_gradients(network(0).parameters(), 1.0)


def test_gradients_that_are_not_finite_stay_so():
    weights = list(network(0).parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    weights[2].grad[0] = torch.nan
    clip_gradients(weights, 1.0)
    assert not all(bool(weight.grad.isfinite().all()) for weight in weights)


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
                writer.write(
                    0.02 * x, 0.01 * frame, velocities=4.0 * v, forces=forces[0], ahead=forces[1], behind=forces[2]
                )
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
