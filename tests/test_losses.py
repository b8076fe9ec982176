"""Losses against double loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from fastegnn_md.propagator.prediction import Residual
from fastegnn_md.training import residual_loss, virtual_node_mmd


def ragged(sizes: list[int], channels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    virtual = torch.randn(len(sizes), channels, 3, generator=generator, dtype=torch.float64)
    return real, torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)), virtual


def double_loop(real: torch.Tensor, batch: torch.Tensor, virtual: torch.Tensor, sigma: float, published: bool) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        distance = math.dist(a.tolist(), b.tolist())
        return math.exp(-(distance if published else distance**2) / (2 * sigma**2))

    total = 0.0
    for system, nodes in enumerate(virtual):
        mine = real[batch == system]
        among = sum(kernel(a, b) for a in nodes for b in nodes) / len(nodes) ** 2
        cross = sum(kernel(a, b) for a in mine for b in nodes) / (len(mine) * len(nodes))
        total += among - (2 if published else 1) * cross
    return total / len(virtual)


def test_the_residual_loss_is_the_weighted_sum_of_two_means() -> None:
    x, v = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    expected = sum(value**2 for value in x.flatten().tolist()) / 15 + 0.3 * sum(w**2 for w in v.flatten().tolist()) / 15
    assert float(residual_loss(Residual(x, v, None), 0.3)) == pytest.approx(expected, rel=1e-14)


def test_without_predicted_velocities_only_positions_count() -> None:
    assert float(residual_loss(Residual(torch.full((2, 3), 2.0), None, None), 7.0)) == 4.0


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("sizes", "channels"), [([4], 1), ([1, 7, 3], 3), ([2, 2], 10)])
def test_mmd_is_the_double_loop_of_the_formula(sizes: list[int], channels: int, published: bool) -> None:
    real, batch, virtual = ragged(sizes, channels)
    value = virtual_node_mmd(real, batch, virtual, sigma=1.3, published=published)
    assert value.item() == pytest.approx(double_loop(real, batch, virtual, 1.3, published), rel=1e-12)


@pytest.mark.parametrize("published", [False, True])
def test_drawing_takes_so_many_nodes_of_each_system_and_no_more_than_it_has(published: bool) -> None:
    real, batch, virtual = ragged([40, 2, 9], 2)
    real.requires_grad_()
    generator = torch.Generator().manual_seed(3)
    value = virtual_node_mmd(real, batch, virtual, sigma=1.0, samples=3, generator=generator, published=published)
    (gradient,) = torch.autograd.grad(value, real)
    drawn = gradient.abs().sum(dim=1) > 0
    assert torch.bincount(batch[drawn]).tolist() == ([6, 2, 6] if published else [3, 2, 3])
    expected = double_loop(real[drawn], batch[drawn], virtual, 1.0, published)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_the_draw_is_the_generators_and_every_node_is_drawn_equally_often() -> None:
    real, batch, virtual = ragged([8, 5], 1)
    before = torch.random.get_rng_state()
    counts = torch.zeros(13)
    for seed in range(400):
        values = []
        for _ in range(2):
            x = real.clone().requires_grad_()
            generator = torch.Generator().manual_seed(seed)
            values.append(virtual_node_mmd(x, batch, virtual, sigma=1.0, samples=2, generator=generator))
        assert torch.equal(*values)
        counts += torch.autograd.grad(values[-1], x)[0].abs().sum(dim=1) > 0
    assert torch.equal(before, torch.random.get_rng_state())
    # 400 draws of 2 of 8 and 2 of 5: within five standard deviations of the mean
    expected = 400 * torch.tensor([2 / 8] * 8 + [2 / 5] * 5)
    assert bool(((counts - expected).abs() < 5 * (expected * 0.75).sqrt()).all())


@pytest.mark.parametrize("published", [False, True])
def test_gradients_are_those_of_finite_differences(published: bool) -> None:
    real, batch, virtual = ragged([3, 4], 2)

    def value(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return virtual_node_mmd(x, batch, z, sigma=0.9, published=published)

    assert torch.autograd.gradcheck(value, (real.requires_grad_(), virtual.requires_grad_()))


@pytest.mark.parametrize("published", [False, True])
def test_gradients_stay_finite_where_nodes_coincide(published: bool) -> None:
    real, batch, virtual = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.zeros(1, 3, 3).requires_grad_()
    value = virtual_node_mmd(real, batch, virtual, sigma=1.0, published=published)
    assert float(value.detach()) == (-1.0 if published else 0.0)
    (gradient,) = torch.autograd.grad(value, virtual)
    assert bool(gradient.isfinite().all())


def test_drawing_without_a_generator_is_refused() -> None:
    real, batch, virtual = ragged([3], 1)
    with pytest.raises(ValueError, match="generator"):
        virtual_node_mmd(real, batch, virtual, sigma=1.0, samples=2)
