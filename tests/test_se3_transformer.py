"""SE(3)-Transformer: its equations by loops over Clebsch-Gordan coefficients, its attention, and a row of a table."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from architecture_cases import CLOSE, inputs, make

from fastegnn_md.nn.attention import shares
from fastegnn_md.papers.datasets.nbody import ChargedSystemsRecipe, charged_systems
from fastegnn_md.papers.tables.data import mcomplex_graphs
from fastegnn_md.papers.tables.rows import Row, Settings
from fastegnn_md.papers.tables.run import chosen_rows
from fastegnn_md.papers.tables.train import RowTraining
from fastegnn_md.segments import Segments


@pytest.fixture(autouse=True)
def _e3nn(require):
    require("e3nn")


def array(tensor):
    return tensor.detach().numpy()


def radial(network, x):
    """Dense, layer normalisation, ReLU, twice; dense."""
    for place, layer in enumerate(network):
        if place % 3 == 0:
            x = array(layer.weight) @ x + array(layer.bias)
        elif place % 3 == 1:
            x = (x - x.mean()) / np.sqrt(x.var() + layer.eps) * array(layer.weight) + array(layer.bias)
        else:
            x = np.maximum(x, 0.0)
    return x


def kernel(module, features, r, attributes):
    """Σ_k W^lk(r) f^k of one edge for each degree l, coefficient by coefficient."""
    from e3nn import o3

    weights = radial(module.radial, np.concatenate([[np.linalg.norm(r)], attributes]))
    found = {}
    for target, count in module.outputs.items():
        paths = [(k, j) for k in features for j in range(abs(k - target), k + target + 1)]
        fan_in = sum(len(features[k]) for k, _ in paths)
        matrix, weights = weights[: count * fan_in].reshape(count, fan_in), weights[count * fan_in :]
        found[target], column = np.zeros((count, 2 * target + 1)), 0
        for k, j in paths:
            harmonics = o3.spherical_harmonics(j, torch.from_numpy(r), normalize=True, normalization="component")
            coefficients = o3.wigner_3j(k, j, target, dtype=torch.float64)
            for a, m, b in coefficients.nonzero().tolist():
                product = features[k][:, a] * float(harmonics[m]) * float(coefficients[a, m, b])
                block = matrix[:, column : column + len(features[k])]
                found[target][:, b] += block @ product * math.sqrt((2 * target + 1) / fan_in)
            column += len(features[k])
    return found


def by_heads(features, heads):
    """Degrees joined, for each head its channels."""
    return [
        np.concatenate([part.reshape(heads, -1, part.shape[1])[head].flatten() for part in features.values()])
        for head in range(heads)
    ]


def one_layer(layer, nodes, x, edges):
    new = []
    for i, own in enumerate(nodes):
        query = by_heads({k: array(layer.queries[str(k)].weight) @ f for k, f in own.items()}, layer.heads)
        around = [(j, attributes) for receiver, j, attributes in edges if receiver == i]
        keys = [by_heads(kernel(layer.keys, nodes[j], x[i] - x[j], a), layer.heads) for j, a in around]
        values = [kernel(layer.values, nodes[j], x[i] - x[j], a) for j, a in around]
        mixed = {}
        for target in layer.values.outputs:
            heard = np.zeros((layer.values.outputs[target], 2 * target + 1))
            for head in range(layer.heads if around else 0):
                scores = np.array([key[head] @ query[head] / math.sqrt(len(query[head])) for key in keys])
                alpha = np.exp(scores) / np.exp(scores).sum()
                size = len(heard) // layer.heads
                mine = slice(head * size, (head + 1) * size)
                heard[mine] = sum(share * value[target][mine] for share, value in zip(alpha, values, strict=True))
            both = np.concatenate([own[target], heard]) if target in own else heard
            mix = layer.mix[str(target)]
            result = array(mix.weight) @ both
            if target == 0:
                result += array(mix.bias)[:, None]
            if layer.bias is not None:
                size = result if target == 0 else np.linalg.norm(result, axis=1, keepdims=True)
                inside = size if target == 0 else size + array(layer.bias[str(target)])[:, None]
                result = inside / (1 + np.exp(-inside)) * (1.0 if target == 0 else result)
            mixed[target] = result
        new.append(mixed)
    return new


@pytest.mark.parametrize("case", ["se3-transformer", "se3-transformer of three degrees"])
def test_se3_transformer_is_its_equations(case):
    model, values = make(case), inputs(sizes=(4, 1))
    with torch.no_grad():
        for layer in model.layers:
            for bias in () if layer.bias is None else layer.bias.values():
                bias.copy_(torch.linspace(-0.5, 0.5, len(bias)))  # zero at the start, which would hide a sign
    x = values["x"].numpy()
    edges = [(i, j, a) for (i, j), a in zip(values["edge_index"].T.tolist(), values["edge_attr"].numpy(), strict=True)]
    assert len(edges) > 4
    scalars = array(model.scalars(values["h"]))
    vectors = array(model.vectors.weight) * values["v"].numpy()[:, None]
    nodes = [{0: scalars[i][:, None], 1: vectors[i]} for i in range(5)]
    for layer in model.layers:
        nodes = one_layer(layer, nodes, x, edges)
    output = model(**values)
    torch.testing.assert_close(output.x, torch.from_numpy(x + np.stack([one[1][0] for one in nodes])), **CLOSE)
    torch.testing.assert_close(output.h, torch.from_numpy(np.stack([one[0][:, 0] for one in nodes])), **CLOSE)


def test_shares_are_a_softmax_over_the_edges_of_each_receiver():
    scores = torch.tensor([[700.0, 0.0], [701.0, 1.0], [-800.0, 3.0], [5.0, 5.0]], dtype=torch.float64)
    receivers = Segments(torch.tensor([2, 2, 0, 2]), 4)
    weight = torch.tensor([1.0, 1.0, 0.3, 0.0], dtype=torch.float64)[:, None]
    first = torch.softmax(scores[:2], dim=0)  # an edge of weight zero takes no part
    torch.testing.assert_close(
        shares(scores, receivers, weight), torch.cat([first, torch.ones(1, 2), torch.zeros(1, 2)])
    )
    every = shares(scores, receivers, None)
    torch.testing.assert_close(every[[0, 1, 3]], torch.softmax(scores[[0, 1, 3]], dim=0))
    assert torch.equal(shares(scores, receivers, torch.zeros(4, 1)), torch.zeros_like(scores))


@pytest.mark.parametrize("case", ["se3-transformer", "se3-transformer of three degrees"])
def test_a_neighbour_leaves_without_a_jump_even_if_it_is_the_only_one(case):
    model, values = make(case), inputs(sizes=(2,))
    values["edge_index"], values["edge_attr"] = torch.tensor([[0], [1]]), torch.ones(1, 2, dtype=torch.float64)
    alone = model(**values, edge_weight=torch.zeros(1, dtype=torch.float64)).x
    steps = [
        float((model(**values, edge_weight=torch.full((1,), w, dtype=torch.float64)).x - alone).detach().norm())
        for w in (1.0, 1e-3, 1e-6)
    ]
    assert steps[0] > 1e-4
    assert steps[1] < 1e-2 * steps[0]
    assert steps[2] < 1e-5 * steps[0]


def test_a_row_of_the_transformer_trains(tmp_path):
    recipe = ChargedSystemsRecipe.mcomplex(2, 3, 1, systems=(8, 3, 3))
    recipe = ChargedSystemsRecipe(recipe.compositions, recipe.systems, frames=(0, 2))
    data = {split: mcomplex_graphs(one) for split, one in charged_systems(recipe, progress=False).items()}
    settings = Settings(epochs=30, batch_size=4, learning_rate=1e-2)
    row = Row("small", "", "se3-transformer", {"hidden": 4, "layers": 2, "heads": 2}, settings=settings)
    training = RowTraining(row, data, tmp_path / "row", progress=False)
    before = training.mean_squared_error("train")
    training.run(1e9)
    assert training.mean_squared_error("train") < 0.7 * before


def test_rows_are_found_by_the_name_of_the_network():
    names = [row.name for row in chosen_rows("eghn", "* se3-transformer")[1]]
    assert len(names) == 10
    assert "single (3, 3) se3-transformer" in names
