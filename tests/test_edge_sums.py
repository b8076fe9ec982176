"""Sums over edges in pieces, computed again in the backward pass, against the same sums written plainly."""

from __future__ import annotations

import pytest
import torch

from fastegnn_md.models import build_model
from fastegnn_md.nn import edge_sums
from fastegnn_md.segments import Segments

NODES, EDGES = 9, 50


def graph(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(NODES - 1, (2, EDGES), generator=generator)  # the last node has no edges
    return index[:, index[0].argsort(stable=True)]


@pytest.fixture
def pieces(monkeypatch):
    """Pieces of seven edges, all of them computed again."""
    monkeypatch.setattr(edge_sums, "PIECE", 7)
    monkeypatch.setattr(edge_sums, "KEPT", 0)


def case(seed: int):
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(3, 4).double()
    shapes = ((NODES, 3), (NODES, 3), (NODES, 2), (EDGES, 3))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def values(receiver, sender, edge):
        product = layer((receiver[0] * sender[0] + edge[0]).tanh())
        return product, (product[:, :1] * sender[1])[:, :, None]

    return layer, inputs, values


def summed(index, layer, inputs, values):
    a, b, c, d = inputs
    return edge_sums.sum_over_edges(values, Segments(index[0], NODES), index[1], [a], [b, c], [d], [layer])


@pytest.mark.parametrize("seed", range(3))
def test_sums_and_gradients_equal_plain_ones(pieces, seed):
    index, (layer, inputs, values) = graph(seed), case(seed)
    a, b, c, d = inputs
    gathered = values([a[index[0]]], [b[index[1]], c[index[1]]], [d])
    plain = [torch.zeros(NODES, *one.shape[1:], dtype=one.dtype).index_add(0, index[0], one) for one in gathered]
    sums = summed(index, layer, inputs, values)
    with torch.no_grad():
        unwatched = summed(index, layer, inputs, values)
    weights = [torch.randn_like(one) for one in plain]
    leaves = [*inputs, *layer.parameters()]
    expected = torch.autograd.grad(sum((w * one).sum() for w, one in zip(weights, plain, strict=True)), leaves)
    found = torch.autograd.grad(sum((w * one).sum() for w, one in zip(weights, sums, strict=True)), leaves)
    for one, other in zip((*sums, *unwatched, *found), (*plain, *plain, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_gradients_are_those_of_finite_differences(pieces):
    index, (layer, inputs, values) = graph(4), case(4)
    assert torch.autograd.gradcheck(lambda *given: summed(index, layer, given, values), inputs)


def test_only_what_is_asked_for_gets_a_gradient(pieces):
    index, (layer, inputs, values) = graph(5), case(5)
    inputs = [one.detach() for one in inputs]
    inputs[2].requires_grad_()
    layer.bias.requires_grad_(False)
    sum(one.sum() for one in summed(index, layer, inputs, values)).backward()
    assert inputs[0].grad is None
    assert inputs[2].grad is not None
    assert layer.bias.grad is None
    assert layer.weight.grad is not None


def test_a_value_may_depend_on_nothing_that_wants_a_gradient(pieces):
    index, (layer, inputs, values) = graph(5), case(5)
    layer.requires_grad_(False)
    inputs = [one.detach() for one in inputs]
    inputs[2].requires_grad_()  # the second value's own
    first, second = summed(index, layer, inputs, values)
    (gradient,) = torch.autograd.grad(second.sum() + first.sum(), inputs[2])
    product = layer((inputs[0][index[0]] * inputs[1][index[1]] + inputs[3]).tanh())[:, :1]
    expected = torch.zeros(NODES, 2, dtype=torch.float64).index_add(0, index[1], product.expand(-1, 2))
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-12)


def test_no_edges_give_zeros_of_the_right_shape(pieces):
    _, (layer, inputs, values) = graph(6), case(6)
    inputs[3] = inputs[3][:0]
    for watched in (True, False):
        with torch.set_grad_enabled(watched):
            sums = summed(torch.zeros(2, 0, dtype=torch.int64), layer, inputs, values)
        assert [tuple(one.shape) for one in sums] == [(NODES, 4), (NODES, 2, 1)]
        assert not any(one.any() for one in sums)


@pytest.mark.parametrize("options", [{}, {"attention": True, "normalize": True}, {"vector_channels": 3}])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_a_network_in_pieces_equals_the_same_network_at_once(monkeypatch, options, dtype, bound):
    generator = torch.Generator().manual_seed(7)
    average = 5.0 if "vector_channels" in options else None
    sizes = {"node_features": 2, "edge_features": 2, "hidden": 16, "virtual_nodes": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - initialisers take no generator
        model = build_model("fastegnn", **sizes, average_neighbours=average, **options).to(dtype)
    index = graph(8)
    # Divided by a length of zero, an atom's difference to itself would drown single precision.
    index = index[:, index[0] != index[1]]
    edges = index.shape[1]
    given = {
        "h": torch.randn(NODES, 2, generator=generator, dtype=dtype),
        "x": torch.randn(NODES, 3, generator=generator, dtype=dtype, requires_grad=True),
        "v": torch.randn(NODES, 3, generator=generator, dtype=dtype),
        "edge_attr": torch.randn(edges, 2, generator=generator, dtype=dtype),
        "edge_weight": torch.rand(edges, generator=generator, dtype=dtype),
    }
    results = []
    for piece, kept in ((edges, edges), (7, 0)):
        monkeypatch.setattr(edge_sums, "PIECE", piece)
        monkeypatch.setattr(edge_sums, "KEPT", kept)
        out = model(edge_index=index, **given)
        loss = out.x.square().sum() + out.z.square().sum() + (0 if out.v is None else out.v.square().sum())
        gradients = torch.autograd.grad(loss, [given["x"], *model.parameters()], allow_unused=True)
        results.append([out.x, *(one for one in gradients if one is not None)])
    for plain, in_pieces in zip(*results, strict=True):
        scale = float(plain.detach().abs().max())
        torch.testing.assert_close(in_pieces, plain, rtol=0, atol=bound * max(scale, 1e-30))
