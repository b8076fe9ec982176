"""A learned energy by the C++ library against the same by torch: values, gradients, and derivatives of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from energy_cases import CUTOFF, RADIAL, EnergyCase
from torch import Tensor

from fastegnn_md.errors import GraphError
from fastegnn_md.nn.mlp import MLP
from fastegnn_md.nn.native.library import library
from fastegnn_md.nn.native.potential import Energies, potential_plan

TIGHT = {torch.float64: 1e-10, torch.float32: 1e-4}
SECOND = {torch.float64: 1e-6, torch.float32: 1e-2}
TYPES = pytest.mark.parametrize("dtype", TIGHT, ids=["double", "single"])


@pytest.fixture(autouse=True)
def _there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library() is not None, "the C++ library could not be built"
    monkeypatch.setattr("fastegnn_md.models.fastegnn.by_library", lambda *_, **__: None)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_close(found: Tensor, expected: Tensor, bound: float) -> None:
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=bound * float(expected.detach().abs().max() + 1e-9)
    )


def gradients(energies: Callable[[Tensor], Tensor], case: EnergyCase, seeds: Tensor) -> tuple[Tensor, ...]:
    x = case.x.clone().requires_grad_()
    return torch.autograd.grad((seeds * energies(x)).sum(), [x, *case.parameters], allow_unused=True)


FORMS = [
    pytest.param({}, id="plain"),
    pytest.param({"bonds": True}, id="bonds"),
    pytest.param({"form": "published", "vector_channels": 4, "layers": 1}, id="distances, one layer"),
    pytest.param({"sizes": [9] * 25, "layers": 2}, id="many systems"),
    pytest.param({"sizes": [20, 25], "layers": 2}, id="larger systems"),
    pytest.param({"sizes": [200], "layers": 2}, id="more edges than are kept"),
]


def same(found: Sequence[Tensor], expected: Sequence[Tensor | None], bound: float) -> None:
    """What is read out of vectors has no part in an energy: torch says None, the library zero."""
    for one, other in zip(found, expected, strict=True):
        assert_close(one, torch.zeros_like(one) if other is None else other, bound)


@TYPES
@pytest.mark.parametrize("options", FORMS)
def test_energies_and_gradients_are_those_of_torch(options, dtype):
    case = EnergyCase(dtype, **options)
    native, seeds = case.native(), torch.linspace(-1.0, 2.0, case.of.size, dtype=torch.float64)
    energies, ones = case.by_torch(case.x), torch.ones_like(seeds)
    expected, (gradient, *_) = (gradients(case.by_torch, case, one) for one in (seeds, ones))
    for count in (1, 2):
        with threads(count):
            assert_close(native.energy(case.x, case.parameters), energies, TIGHT[dtype])
            same(gradients(lambda x: native.energy(x, case.parameters), case, seeds), expected, TIGHT[dtype])
            assert_close(native.gradient(case.x, case.parameters), gradient, TIGHT[dtype])


@TYPES
@pytest.mark.parametrize("options", FORMS)
def test_derivatives_of_gradients_are_those_of_torch(options, dtype):
    case, reference = EnergyCase(dtype, **options), EnergyCase(torch.float64, **options)
    for one, other in zip(reference.parameters, case.parameters, strict=True):
        one.data.copy_(other.data)
    reference.features = case.features.double()
    w = torch.randn(case.x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    w[: case.begin[1]] = 0  # a system that nobody asks about
    x = case.x.clone().requires_grad_()
    (g,) = torch.autograd.grad(reference.by_torch(x).sum(), x, create_graph=True)
    expected = torch.autograd.grad((w * g).sum(), [x, *reference.parameters], allow_unused=True)
    native = case.native()
    for count in (1, 2):
        with threads(count):
            found = torch.autograd.grad((w * native.gradient(x, case.parameters)).sum(), [x, *case.parameters])
        same(found, expected, SECOND[dtype])
        assert not found[0][: case.begin[1]].any()


def test_forces_and_torques_sum_to_zero_and_turn_with_the_system():
    case = EnergyCase(torch.float64)
    native = case.native()
    energy, gradient = native.energy(case.x, case.parameters), native.gradient(case.x, case.parameters)
    for total in (gradient, torch.linalg.cross(case.x, gradient)):
        torch.testing.assert_close(case.of.sum(total), torch.zeros(case.of.size, 3).double(), rtol=0, atol=1e-12)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    moved = case.x @ turn.T + torch.tensor([100.0, -3.0, 20.0], dtype=torch.float64)
    torch.testing.assert_close(native.energy(moved, case.parameters), energy, rtol=1e-10, atol=0)
    torch.testing.assert_close(native.gradient(moved, case.parameters), gradient @ turn.T, rtol=0, atol=1e-10)


@TYPES
def test_a_list_of_edges_is_as_good_as_a_search(dtype):
    case = EnergyCase(dtype, [6, 15])
    index = torch.cat([case.pairs(case.x), torch.tensor([[6], [20]])], dim=1)  # beyond the cutoff nothing matters
    index = index[:, index[0].argsort(stable=True)]
    listed, searched = case.native(edge_index=index), case.native()
    seeds = torch.tensor([1.0, -2.0], dtype=torch.float64)
    same(*(gradients(lambda x, of=of: of.energy(x, case.parameters), case, seeds) for of in (listed, searched)), 1e-5)
    x = case.x.clone().requires_grad_()
    second = (torch.autograd.grad(of.gradient(x, case.parameters).square().sum(), x)[0] for of in (listed, searched))
    assert_close(next(second), next(second), SECOND[dtype])


def test_only_what_is_asked_for_has_a_gradient():
    case = EnergyCase(torch.float64, [4])
    native, weights = case.native(), [one.detach() for one in case.parameters]
    x = case.x.clone().requires_grad_()
    expected = torch.autograd.grad(native.gradient(x, case.parameters).square().sum(), [x, *case.parameters])
    (alone,) = torch.autograd.grad(native.gradient(x, weights).square().sum(), x)
    assert_close(alone, expected[0], 1e-12)
    weights[-2].requires_grad_()
    (alone,) = torch.autograd.grad(native.gradient(case.x, weights).square().sum(), weights[-2])
    assert_close(alone, expected[-2], 1e-12)


def test_gradients_of_gradients_of_gradients_are_refused():
    case = EnergyCase(torch.float64, [4])
    x, w = (case.x.clone().requires_grad_() for _ in range(2))
    (twice,) = torch.autograd.grad((w * case.native().gradient(x, case.parameters)).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        twice.sum().backward()


def test_what_is_not_finite_stays_so():
    case = EnergyCase(torch.float64, [4, 5])
    case.x[2, 1] = torch.nan
    native = case.native()
    energy, gradient = native.energy(case.x, case.parameters), native.gradient(case.x, case.parameters)
    assert energy.isnan().tolist() == [True, False]
    assert gradient[:4].isnan().any()
    assert gradient[4:].isfinite().all()
    case = EnergyCase(torch.float64, [4, 5])
    x = case.x.requires_grad_()
    w = torch.zeros_like(x)
    w[1] = torch.nan
    (found,) = torch.autograd.grad(native.gradient(x, case.parameters), x, w)
    assert found[:4].isnan().any()
    assert not found[4:].any()


def test_overlapping_atoms_are_named():
    case = EnergyCase(torch.float64, [4, 5])
    case.x[7] = case.x[5]
    with pytest.raises(GraphError, match=r"atoms [57] and [57] are 0.0e[+]00 Å apart"):
        case.native().gradient(case.x, case.parameters)


def test_what_the_library_does_not_serve_is_left_to_others():
    case = EnergyCase(torch.float64, [4])
    shape, head, like = case.network.shape, case.head, case.features
    assert shape is not None
    assert potential_plan(shape, head, like) is not None
    for other in (None, shape._replace(vectors=0), shape._replace(hidden=8)):
        assert potential_plan(other, head, like) is None
    assert potential_plan(shape, MLP(16, 16, 2), like) is None
    assert potential_plan(shape, MLP(16, 16, 1, bias=False), like) is None
    assert potential_plan(shape, head, like.half()) is None
    with pytest.raises(ValueError, match=r"expected [(]N, 5[)] of torch.float64 and 10 attributes"):
        Energies(case.native().plan, case.begin, case.features[:, 1:], cutoff=CUTOFF, radial=RADIAL)
    with pytest.raises(ValueError, match=r"positions are [(]3, 3[)], expected [(]4, 3[)]"):
        case.native().energy(case.x[:3], case.parameters)
