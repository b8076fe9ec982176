"""A learned energy by the C++ library against the same by torch: values, gradients, and derivatives of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from fastegnn_md.errors import GraphError
from fastegnn_md.graph import BondDistance, bessel_basis, cutoff_envelope
from fastegnn_md.models.fastegnn import FastEGNN
from fastegnn_md.nn.mlp import MLP
from fastegnn_md.nn.native.library import library
from fastegnn_md.nn.native.potential import Energies, potential_plan
from fastegnn_md.segments import Segments

CUTOFF, RADIAL, FEATURES, UNIT = 3.0, 6, 5, 0.7
SIZES = [1, 7, 2, 12, 5]
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


class Case:
    """Weights that matter, and systems of several sizes."""

    def __init__(self, dtype: torch.dtype, sizes: list[int] = SIZES, *, bonds: bool = False, **options):
        options = {
            "hidden": 16,
            "layers": 3,
            "vector_channels": 3,
            "average_neighbours": 5.0,
            "virtual_nodes": 2,
        } | options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)  # noqa: TID251 - initialisers take no generator
            self.network = FastEGNN(node_features=FEATURES, edge_features=RADIAL + 4, **options).to(dtype)
            self.head = MLP(options["hidden"], options["hidden"], 1).to(dtype)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for one in self.parameters:
                one += 0.2 * torch.randn(one.shape, generator=generator)
        self.begin = torch.tensor([0, *sizes]).cumsum(0)
        self.of = Segments(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), len(sizes))
        nodes = int(self.begin[-1])
        self.features = torch.randn(nodes, FEATURES, generator=generator).to(dtype)
        # A walk with steps of about 1 Å in each system, which keeps atoms apart.
        self.x = torch.cat([_walk(size, generator) for size in sizes]) + 7.0
        self.bonds: Tensor | None = None
        if bonds:
            first = torch.tensor([k for k in range(nodes - 1) if self.of.index[k] == self.of.index[k + 1]])
            self.bonds = torch.stack([first, first + 1], dim=1)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.head.parameters()]

    def native(self, **more) -> Energies:
        plan = potential_plan(self.network.shape, self.head, self.features)
        assert plan is not None
        partners = None if self.bonds is None else BondDistance(self.bonds, len(self.x)).partners()
        return Energies(
            plan, self.begin, self.features, cutoff=CUTOFF, radial=RADIAL, unit=UNIT, partners=partners, **more
        )

    def pairs(self, x: Tensor) -> Tensor:
        apart = torch.cdist(x, x) + 1e9 * (self.of.index[:, None] != self.of.index[None, :])
        return (apart.fill_diagonal_(1e9) < CUTOFF).nonzero().T.contiguous()

    def by_torch(self, x: Tensor) -> Tensor:
        dtype, index = self.features.dtype, self.pairs(x.detach())
        vector = x[index[0]] - x[index[1]]
        distance = vector.norm(dim=1, keepdim=True)
        hops = torch.zeros(len(distance), 4, dtype=dtype)
        if self.bonds is not None:
            hops = BondDistance(self.bonds, len(x))(index).to(dtype)
        centred = (x - self.of.spread(self.of.mean(x))) / CUTOFF
        found = self.network(
            h=self.features,
            x=centred.to(dtype),
            v=torch.zeros_like(centred, dtype=dtype),
            edge_index=index,
            edge_attr=torch.cat([bessel_basis(distance, CUTOFF, RADIAL).to(dtype), hops], dim=1),
            batch=self.of.index,
            systems=self.of.size,
            edge_vector=(vector / CUTOFF).to(dtype),
            edge_weight=cutoff_envelope(distance, CUTOFF)[:, 0].to(dtype),
        )
        return UNIT * self.of.sum(self.head(found.h).double())[:, 0]


def _walk(size: int, generator: torch.Generator) -> Tensor:
    while True:
        step = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        x = (step / step.norm(dim=1, keepdim=True)).cumsum(0)
        if size == 1 or float(torch.pdist(x).min()) > 0.7:
            return x


def assert_close(found: Tensor, expected: Tensor, bound: float) -> None:
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=bound * float(expected.detach().abs().max() + 1e-9)
    )


def gradients(energies: Callable[[Tensor], Tensor], case: Case, seeds: Tensor) -> tuple[Tensor, ...]:
    x = case.x.clone().requires_grad_()
    return torch.autograd.grad((seeds * energies(x)).sum(), [x, *case.parameters], allow_unused=True)


FORMS = [
    pytest.param({}, id="plain"),
    pytest.param({"bonds": True}, id="bonds"),
    pytest.param({"form": "published", "vector_channels": 4, "layers": 1}, id="distances, one layer"),
    pytest.param({"sizes": [9] * 25, "layers": 2}, id="many systems"),
    pytest.param({"sizes": [20, 25], "layers": 2}, id="larger systems"),
]


def same(found: Sequence[Tensor], expected: Sequence[Tensor | None], bound: float) -> None:
    """What is read out of vectors has no part in an energy: torch says None, the library zero."""
    for one, other in zip(found, expected, strict=True):
        assert_close(one, torch.zeros_like(one) if other is None else other, bound)


@TYPES
@pytest.mark.parametrize("options", FORMS)
def test_energies_and_gradients_are_those_of_torch(options, dtype):
    case = Case(dtype, **options)
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
    case, reference = Case(dtype, **options), Case(torch.float64, **options)
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
    case = Case(torch.float64)
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
    case = Case(dtype, [6, 15])
    index = torch.cat([case.pairs(case.x), torch.tensor([[6], [20]])], dim=1)  # beyond the cutoff nothing matters
    index = index[:, index[0].argsort(stable=True)]
    listed, searched = case.native(edge_index=index), case.native()
    seeds = torch.tensor([1.0, -2.0], dtype=torch.float64)
    same(*(gradients(lambda x, of=of: of.energy(x, case.parameters), case, seeds) for of in (listed, searched)), 1e-5)
    x = case.x.clone().requires_grad_()
    second = (torch.autograd.grad(of.gradient(x, case.parameters).square().sum(), x)[0] for of in (listed, searched))
    assert_close(next(second), next(second), SECOND[dtype])


def test_only_what_is_asked_for_has_a_gradient():
    case = Case(torch.float64, [4])
    native, weights = case.native(), [one.detach() for one in case.parameters]
    x = case.x.clone().requires_grad_()
    expected = torch.autograd.grad(native.gradient(x, case.parameters).square().sum(), [x, *case.parameters])
    (alone,) = torch.autograd.grad(native.gradient(x, weights).square().sum(), x)
    assert_close(alone, expected[0], 1e-12)
    weights[-2].requires_grad_()
    (alone,) = torch.autograd.grad(native.gradient(case.x, weights).square().sum(), weights[-2])
    assert_close(alone, expected[-2], 1e-12)


def test_gradients_of_gradients_of_gradients_are_refused():
    case = Case(torch.float64, [4])
    x, w = (case.x.clone().requires_grad_() for _ in range(2))
    (twice,) = torch.autograd.grad((w * case.native().gradient(x, case.parameters)).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        twice.sum().backward()


def test_what_is_not_finite_stays_so():
    case = Case(torch.float64, [4, 5])
    case.x[2, 1] = torch.nan
    native = case.native()
    energy, gradient = native.energy(case.x, case.parameters), native.gradient(case.x, case.parameters)
    assert energy.isnan().tolist() == [True, False]
    assert gradient[:4].isnan().any()
    assert gradient[4:].isfinite().all()
    case = Case(torch.float64, [4, 5])
    x = case.x.requires_grad_()
    w = torch.zeros_like(x)
    w[1] = torch.nan
    (found,) = torch.autograd.grad(native.gradient(x, case.parameters), x, w)
    assert found[:4].isnan().any()
    assert not found[4:].any()


def test_overlapping_atoms_are_named():
    case = Case(torch.float64, [4, 5])
    case.x[7] = case.x[5]
    with pytest.raises(GraphError, match=r"atoms [57] and [57] are 0.0e[+]00 Å apart"):
        case.native().gradient(case.x, case.parameters)


def test_what_the_library_does_not_serve_is_left_to_others():
    case = Case(torch.float64, [4])
    shape, head, like = case.network.shape, case.head, case.features
    assert shape is not None
    assert potential_plan(shape, head, like) is not None
    for other in (None, shape._replace(vectors=0), shape._replace(geometry=False), shape._replace(hidden=8)):
        assert potential_plan(other, head, like) is None
    assert potential_plan(shape, MLP(16, 16, 2), like) is None
    assert potential_plan(shape, MLP(16, 16, 1, bias=False), like) is None
    assert potential_plan(shape, head, like.half()) is None
    with pytest.raises(ValueError, match=r"expected [(]N, 5[)] of torch.float64 and 10 attributes"):
        Energies(case.native().plan, case.begin, case.features[:, 1:], cutoff=CUTOFF, radial=RADIAL)
    with pytest.raises(ValueError, match=r"positions are [(]3, 3[)], expected [(]4, 3[)]"):
        case.native().energy(case.x[:3], case.parameters)
