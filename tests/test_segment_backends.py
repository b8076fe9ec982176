"""Networks, jumps, constraints and losses with the sums of both back-ends: the same numbers and the same gradients."""

from __future__ import annotations

import pytest
import torch
from architecture_cases import CASES, inputs, make, needs_e3nn

from fastegnn_md import Propagator, State
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.models import available_models
from fastegnn_md.nn import edge_sums
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.segments import segment_backend
from fastegnn_md.training.losses import virtual_node_mmd

pytestmark = pytest.mark.slow  # thorough: `make test` and CI run it

WITHOUT_SUMS = {"linear"}
BOUND = 1e-12  # of the largest component


@pytest.fixture(autouse=True)
def scatter(request, require, monkeypatch):
    """Calls of torch-scatter by name."""
    if needs_e3nn(request.node.name):
        require("e3nn")
    module, called = require("torch_scatter"), dict.fromkeys(("segment_csr", "gather_csr", "scatter_add"), 0)

    def counted(name):
        function = getattr(module, name)

        def call(*given, **options):
            called[name] += 1
            return function(*given, **options)

        return call

    for name in called:
        monkeypatch.setattr(module, name, counted(name))
    return called


def alike(one, other):
    scale = float(other.detach().abs().max()) if other.numel() else 0.0
    torch.testing.assert_close(one, other, rtol=0, atol=BOUND * max(scale, 1e-30))


def both(function, scatter):
    """What a function gives by each back-end; torch-scatter is called by one of them only."""
    with segment_backend("native"):
        native = function()
    assert not any(scatter.values())
    with segment_backend("torch_scatter"):
        other = function()
    assert any(scatter.values())
    return native, other


def with_gradients(model, values):
    """All outputs of a network, and the gradients of a random form of them."""
    leaves = [values[name].clone().requires_grad_() for name in ("h", "x", "v")]
    out = model(**{**values, **dict(zip(("h", "x", "v"), leaves, strict=True))})
    found = [one for one in (out.x, out.h, out.v, out.z, out.s, out.clusters, out.connectivity_loss) if one is not None]
    generator = torch.Generator().manual_seed(9)
    form = sum((torch.randn(one.shape, generator=generator, dtype=one.dtype) * one).sum() for one in found)
    gradients = torch.autograd.grad(form, [*leaves, *model.parameters()], allow_unused=True)
    with torch.no_grad():
        unwatched = model(**values)
    return [*found, unwatched.x, unwatched.h, *(one for one in gradients if one is not None)]


@pytest.mark.parametrize("pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_SUMS])
def test_networks_and_their_gradients(case, pieces, scatter, monkeypatch):
    model, values = make(case), inputs()
    assert bool((values["edge_index"][0].diff() >= 0).all())
    if pieces:
        monkeypatch.setattr(edge_sums, "PIECE", 7)
        monkeypatch.setattr(edge_sums, "KEPT", 0)
        monkeypatch.setattr("fastegnn_md.nn.edges._BLOCK", 37)
    native, other = both(lambda: with_gradients(model, values), scatter)
    assert scatter["segment_csr"] > 0
    assert scatter["scatter_add"] == 0
    for one, expected in zip(other, native, strict=True):
        alike(one, expected)


def test_every_architecture_is_tested_here():
    assert {name for name, _ in CASES.values()} == set(available_models())


@pytest.mark.parametrize("case", ["fastegnn", "schnet", "egnn with vectors"])
def test_edges_in_any_order(case, scatter):
    model, values = make(case), inputs()
    order = torch.randperm(values["edge_index"].shape[1], generator=torch.Generator().manual_seed(3))
    values |= {"edge_index": values["edge_index"][:, order], "edge_attr": values["edge_attr"][order]}
    native, other = both(lambda: with_gradients(model, values), scatter)
    assert scatter["scatter_add"] > 0
    for one, expected in zip(other, native, strict=True):
        alike(one, expected)


def test_gradients_follow_the_choice_of_the_forward_pass(scatter, without_library):
    model, values = make("fastegnn"), inputs()
    with segment_backend("torch_scatter"):
        out = model(**values)
    before = dict(scatter)
    with segment_backend("native"):
        out.x.sum().backward()
    assert scatter["gather_csr"] > before["gather_csr"]


def molecules():
    generator = torch.Generator().manual_seed(0)
    size, copies = 6, 3
    x, v, f = torch.randn(3, size * copies, 3, generator=generator, dtype=torch.float64)
    return State(
        positions=x,
        velocities=v,
        forces=f,
        numbers=torch.tensor([6, 1, 1, 1, 8, 1] * copies),
        masses=torch.tensor([12.0, 1.0, 1.0, 1.0, 16.0, 1.0] * copies, dtype=torch.float64),
        batch=torch.arange(copies).repeat_interleave(size),
    )


def test_a_jump(scatter, without_library):
    state = molecules()
    config = PropagatorConfig(hidden=16, layers=2, kind="force-start")
    later = state.replace(positions=state.positions + 0.01 * state.velocities)
    propagator = Propagator.build(config, 0.01, Domain.from_pairs(state, later, config)).double()
    native, other = both(lambda: propagator(state), scatter)
    alike(other.positions, native.positions)
    alike(other.velocities, native.velocities)


def test_constraints(scatter, monkeypatch):
    monkeypatch.setattr("fastegnn_md.nn.native.functions.library", lambda: None)  # it makes its own sums
    state = molecules()
    bonds = torch.tensor([[0, 1], [0, 2], [4, 5]])
    one = State(**{n: getattr(state, n)[:6] for n in ("positions", "velocities", "numbers", "masses")})
    moved = one.replace(positions=one.positions + 0.05 * one.velocities)
    lengths = (one.positions[bonds[:, 0]] - one.positions[bonds[:, 1]]).norm(dim=1)

    def project():
        held = Constraints(one.masses, bonds, lengths, torch.zeros(6, dtype=torch.bool)).project(one, moved)
        return held.positions, held.velocities

    for found, expected in zip(*both(project, scatter), strict=True):
        alike(found, expected)


def test_the_loss_of_virtual_nodes(scatter):
    state = molecules()
    virtual = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss():
        real = state.positions.clone().requires_grad_()
        value = virtual_node_mmd(
            real, state.batch, virtual, sigma=1.5, samples=4, generator=torch.Generator().manual_seed(2)
        )
        return value.detach(), *torch.autograd.grad(value, real)

    for found, expected in zip(*both(loss, scatter), strict=True):
        alike(found, expected)
