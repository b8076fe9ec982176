"""Equations of the architectures written out with loops, and what they reduce to."""

from __future__ import annotations

import math

import pytest
import torch
from architecture_cases import CLOSE, inputs, make
from torch.nn.functional import silu, softplus

from fastegnn_md.nn.clusters import Clusters, connectivity_loss
from fastegnn_md.nn.edges import Edges
from fastegnn_md.nn.scatter import Segments


def neighbours(values, i):
    """(j, attributes) of each edge that node i receives."""
    edges = zip(values["edge_index"].T.tolist(), values["edge_attr"], strict=True)
    return [(j, attributes) for (receiver, j), attributes in edges if receiver == i]


def mean(rows, like):
    return sum(rows, torch.zeros_like(like)) / max(1, len(rows))


def message(edge, *parts):
    return silu(edge.second(silu(edge.first(torch.cat(parts)))))


def test_egnn_of_the_paper():
    model, values = make("egnn"), inputs()
    h, x, v = model.embedding(values["h"]), values["x"], values["v"]
    for layer in model.layers:
        new_h, new_x = [], []
        for i in range(len(x)):
            around = [
                (x[i] - x[j], message(layer.edge, h[i], h[j], ((x[i] - x[j]) ** 2).sum()[None], attributes))
                for j, attributes in neighbours(values, i)
            ]
            pull = mean([difference * layer.coordinate(m) for difference, m in around], x[i])
            new_x.append(x[i] + pull + layer.velocity(h[i]) * v[i])
            total = sum((m for _, m in around), torch.zeros_like(h[i]))
            new_h.append(h[i] + layer.node(torch.cat([h[i], total])))
        h, x = torch.stack(new_h), torch.stack(new_x)
    output = model(**values)
    torch.testing.assert_close(output.x, x, **CLOSE)
    torch.testing.assert_close(output.h, h, **CLOSE)


def test_egnn_with_vectors_is_fastegnn_that_hears_nothing_of_its_virtual_nodes():
    plain, fast = (
        make("egnn with vectors"),
        make("fastegnn", 1, virtual_geometry=False, vector_channels=3, average_neighbours=5.0),
    )
    weights = {name: value for name, value in fast.state_dict().items() if name in plain.state_dict()}
    with torch.no_grad():
        for number, layer in enumerate(fast.layers):
            layer.node.first.weight[:, 32:] = 0.0
            weights[f"layers.{number}.node.first.weight"] = layer.node.first.weight[:, :32]
    plain.load_state_dict(weights)
    force = torch.randn(20, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, expected = plain(**inputs(), vectors=force), fast(**inputs(), vectors=force)
    for field in ("x", "v", "h"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), **CLOSE)


def test_schnet():
    model, values = make("schnet"), inputs()
    h, x = model.embedding(values["h"]), values["x"]

    def gaussians(distance):
        step = 3.0 / 7
        return torch.stack([torch.exp(-((distance - k * step) ** 2) / (2 * step**2)) for k in range(8)])

    def ssp(value):
        return softplus(value) - math.log(2)

    for pull, block in zip(model.pulls, model.interactions, strict=True):
        new_h, new_x = [], []
        for i in range(len(x)):
            moves, received = [], torch.zeros(16, dtype=torch.float64)
            for j, attributes in neighbours(values, i):
                distance = (x[i] - x[j]).norm()
                moves.append((x[i] - x[j]) * pull.weights(torch.cat([gaussians(distance), h[i], h[j]])))
                hidden = ssp(block.filter[0](torch.cat([gaussians(distance), attributes])))
                envelope = (1 + torch.cos(math.pi * distance / 3.0)) / 2 if distance < 3.0 else 0.0
                received = received + envelope * block.filter[2](hidden) * (block.inward.weight @ h[j])
            new_x.append(x[i] + mean(moves, x[i]))
            new_h.append(h[i] + block.outward[2](ssp(block.outward[0](received))))
        h, x = torch.stack(new_h), torch.stack(new_x)
    output = model(**values)
    torch.testing.assert_close(output.x, x, **CLOSE)
    torch.testing.assert_close(output.h, h, **CLOSE)


def test_mpnn():
    model, values = make("mpnn"), inputs()
    h = model.embedding(torch.cat([values["h"], values["x"], values["v"]], dim=1))
    for layer in model.layers:
        new_h = []
        for i in range(len(h)):
            received = [message(layer.edge, h[i], h[j], attributes) for j, attributes in neighbours(values, i)]
            new_h.append(h[i] + layer.node(torch.cat([h[i], mean(received, h[i])])))
        h = torch.stack(new_h)
    torch.testing.assert_close(model(**values).x, values["x"] + model.readout(h), **CLOSE)


def test_linear():
    model, values = make("linear"), inputs()
    with torch.no_grad():
        model.time.fill_(0.3)
    torch.testing.assert_close(model(**values).x, values["x"] + 0.3 * values["v"], **CLOSE)


def unit(matrix):
    return (matrix / matrix.norm()).flatten()


def emmp(layer, h, z, edges):
    """Eqs. 3-6 of EGHN for one system; z holds a 3 x 2 matrix per node, edges (i, j, attributes)."""
    middle = torch.stack([sum(one[:, 0] for one in z) / len(z), torch.zeros(3, dtype=torch.float64)], dim=1)
    new_h, new_z = [], []
    for i in range(len(z)):
        matrices, change = torch.zeros(8, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
        for receiver, j, attributes in edges:
            if receiver == i:
                both = torch.cat([z[i] - middle, z[j] - middle], dim=1)  # 3 x 4
                matrix = layer.matrix(message(layer.edge, h[i], h[j], unit(both.T @ both), attributes))
                matrices, change = matrices + matrix, change + both @ matrix.view(2, 4).T
        new_h.append(layer.node(torch.cat([h[i], matrices])))
        new_z.append(z[i] + change)
    return new_h, new_z


def one_system():
    """The largest system of the inputs, and local edges: every second one."""
    values = inputs()
    inside = values["edge_index"][0] >= 8
    values = {"h": values["h"][8:], "x": values["x"][8:], "v": values["v"][8:]} | {
        "edge_index": values["edge_index"][:, inside] - 8,
        "edge_attr": values["edge_attr"][inside],
    }
    local = {"local_edge_index": values["edge_index"][:, ::2], "local_edge_attr": values["edge_attr"][::2] ** 2}
    return values, local


def listed(index, attributes):
    return [(i, j, e) for (i, j), e in zip(index.T.tolist(), attributes, strict=True)]


def test_eghn_of_the_paper():
    model = make("eghn")
    values, local = one_system()
    n, h = 12, list(model.embedding(values["h"]))
    z = [torch.stack([x, v], dim=1) for x, v in zip(values["x"], values["v"], strict=True)]
    edges = listed(values["edge_index"], values["edge_attr"])
    local_edges = listed(local["local_edge_index"], local["local_edge_attr"])
    for layer in model.low:
        h, z = emmp(layer, h, z, edges)
    scored, moved = h, z
    for layer in model.pool:
        scored, moved = emmp(layer, scored, moved, local_edges)
    s = torch.stack([model.score(one).softmax(0) for one in scored])
    adjacency, local_adjacency = torch.zeros(2, n, n, dtype=torch.float64)
    for i, j, _ in edges:
        adjacency[i, j] = 1.0
    for i, j, _ in local_edges:
        local_adjacency[i, j] = 1.0
    high_z = [sum(s[i, p] * z[i] for i in range(n)) / s[:, p].sum() for p in range(3)]
    high_h = [sum(s[i, p] * h[i] for i in range(n)) / s[:, p].sum() for p in range(3)]
    strength = s.T @ adjacency @ s
    pairs = [(p, q, strength[p, q][None]) for p in range(3) for q in range(3)]
    for layer in model.high:
        high_h, high_z = emmp(layer, high_h, high_z, pairs)
    middle = torch.stack([values["x"].mean(0), torch.zeros(3, dtype=torch.float64)], dim=1)
    up, new_x, new_h = model.up[0], [], []
    for i in range(n):
        agg_z, agg_h = (sum(s[i, p] * high[p] for p in range(3)) for high in (high_z, high_h))
        both = torch.cat([z[i] - middle, agg_z - middle], dim=1)
        hidden = silu(up.inward(torch.cat([unit(both.T @ both), h[i], agg_h])))
        new_x.append((agg_z + both @ up.vector(hidden).view(2, 4).T)[:, 0])
        new_h.append(up.scalar(hidden))
    output = model(**values, **local)
    torch.testing.assert_close(output.x, torch.stack(new_x), **CLOSE)
    torch.testing.assert_close(output.h, torch.stack(new_h), **CLOSE)
    torch.testing.assert_close(output.clusters, s, **CLOSE)
    rows = s.T @ local_adjacency @ s
    rows = rows / rows.norm(dim=1, keepdim=True)
    expected = (rows - torch.eye(3, dtype=torch.float64)).square().sum().sqrt()
    torch.testing.assert_close(output.connectivity_loss, expected, **CLOSE)


def test_clusters_without_edges_between_them_have_no_connectivity_loss():
    index = torch.tensor([[0, 1, 2, 3, 2, 4], [1, 0, 3, 2, 4, 2]])
    scores = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 3, dtype=torch.float64)
    x = torch.zeros(5, 3, dtype=torch.float64)
    edges = Edges(index, torch.zeros(6, 0), None, None, x, positions_move=True)
    systems = Segments(torch.zeros(5, dtype=torch.int64), 1)
    apart = [connectivity_loss(Clusters(factor * scores, systems).connections(edges)) for factor in (1.0, 100.0)]
    assert float(apart[1]) < 1e-12
    assert float(apart[0]) > 0.5
    clusters = Clusters(100.0 * scores, systems)
    torch.testing.assert_close(clusters.connections(edges)[0], torch.diag(torch.tensor([2.0, 4.0])).double())


def test_eghn_pools_along_the_edges_of_the_graph_unless_others_are_given():
    model = make("eghn, published")
    values, local = one_system()
    same = {"local_edge_index": values["edge_index"], "local_edge_attr": values["edge_attr"]}
    torch.testing.assert_close(model(**values).x, model(**values, **same).x, **CLOSE)
    assert not torch.allclose(model(**values).clusters, model(**values, **local).clusters)
    with pytest.raises(ValueError, match="local_edge_attr has 0 columns; this model has 2"):
        model(**values, local_edge_index=values["edge_index"])
