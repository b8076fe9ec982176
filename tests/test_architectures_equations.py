"""Equations of the architectures written out with loops, and what they reduce to."""

from __future__ import annotations

import math

import pytest
import torch
from architecture_cases import CLOSE, inputs, make, orthogonal
from torch.nn.functional import silu, softplus

from fastegnn_md.models.vn_egnn import fibonacci_sphere
from fastegnn_md.nn.clusters import Clusters, connectivity_loss
from fastegnn_md.nn.edges import Edges
from fastegnn_md.segments import Segments


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


def spoke(block, h, x, z, s):
    m = message(block.edge, h, s, (x - z).norm()[None])
    return m, (x - z) * block.coordinate(m)


def test_vn_egnn():
    model, values = make("vn-egnn"), one_system()[0]
    edges = listed(values["edge_index"], values["edge_attr"])
    h, x, n = model.embedding(values["h"]), values["x"], 12
    radius = (x - x.mean(0)).norm(dim=1).max()
    poles = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]], dtype=torch.float64)  # a grid of two points
    z, s = x.mean(0) + radius * poles, model.virtual_features
    for layer in model.layers:
        new_h, new_x = [], []
        for i in range(n):
            around = [(j, a, x[i] - x[j]) for receiver, j, a in edges if receiver == i]
            heard = [message(layer.edge, h[i], h[j], (r @ r)[None], a) for j, a, r in around]
            pull = [r * layer.coordinate(m) for (_, _, r), m in zip(around, heard, strict=True)]
            new_h.append(h[i] + layer.node(torch.cat([h[i], sum(heard, torch.zeros_like(h[i]))])))
            new_x.append(x[i] + mean(pull, x[i]))
        h, x = new_h, new_x
        out = [[spoke(layer.to_virtual, h[i], x[i], z[c], s[c]) for i in range(n)] for c in range(2)]
        z = torch.stack([z[c] - mean([pull for _, pull in out[c]], z[c]) for c in range(2)])
        s = torch.stack(
            [s[c] + layer.to_virtual.feature(torch.cat([s[c], mean([m for m, _ in out[c]], s[c])])) for c in range(2)]
        )
        back = [[spoke(layer.to_atoms, h[i], x[i], z[c], s[c]) for c in range(2)] for i in range(n)]
        h = [h[i] + layer.to_atoms.feature(torch.cat([h[i], mean([m for m, _ in back[i]], h[i])])) for i in range(n)]
        x = [x[i] + mean([pull for _, pull in back[i]], x[i]) for i in range(n)]
        h, x = torch.stack(h), torch.stack(x)
    output = model(**values)
    for found, expected in ((output.x, x), (output.h, h), (output.z[0], z), (output.s[0], s)):
        torch.testing.assert_close(found, expected, **CLOSE)


def test_a_fibonacci_grid_is_spread_over_the_unit_sphere():
    points = fibonacci_sphere(50)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert float(points.mean(0).norm()) < 0.05
    distance = torch.cdist(points, points) + 10 * torch.eye(50)
    assert float(distance.min()) > 0.25
    assert fibonacci_sphere(1).tolist() == [[0.0, 1.0, 0.0]]


def test_vn_egnn_would_turn_if_its_virtual_nodes_were_turned(monkeypatch):
    """The only thing in it that does not turn is the grid they start on."""
    model, (values, _), turn = make("vn-egnn"), one_system(), orthogonal(False)
    expected = model(**values).x @ turn
    grid = fibonacci_sphere(2) @ turn
    monkeypatch.setattr("fastegnn_md.models.vn_egnn.fibonacci_sphere", lambda count: grid)
    torch.testing.assert_close(model(**{**values, "x": values["x"] @ turn}).x, expected, **CLOSE)


def test_scalars_reach_the_positions_of_gvp_through_gates_only():
    for case, same in (("gvp", False), ("gvp without gates", True)):
        model, values = make(case), inputs()
        other = model(**{**values, "edge_attr": values["edge_attr"] + 1.0})
        assert torch.allclose(other.x, model(**values).x, rtol=1e-12, atol=1e-12) == same


def gvp(layer, scalars, vectors):
    """Algorithm 1 of the paper; vectors are rows."""
    hidden = layer.inner.weight @ vectors
    norms = torch.stack([row.norm().clamp(min=1e-4) for row in hidden])
    scalars = layer.scalar(torch.cat([scalars, norms]))
    vectors = layer.outer.weight @ hidden
    if layer.gate is not None:
        vectors = torch.sigmoid(layer.gate(torch.sigmoid(scalars) if layer.active else scalars))[:, None] * vectors
    elif layer.active:
        vectors = torch.stack([row * torch.sigmoid(row.norm()) for row in vectors])
    return (torch.relu(scalars) if layer.active else scalars), vectors


def gvp_norm(layer, scalars, vectors):
    return layer.scalars(scalars), vectors / vectors.square().sum(1).mean().sqrt()


@pytest.mark.parametrize("case", ["gvp", "gvp without gates"])
def test_gvp(case):
    model, values = make(case), inputs()
    x, nodes = values["x"], []
    for h, v in zip(values["h"], values["v"], strict=True):
        nodes.append(gvp(model.node_embedding, h, v[None]))
    for layer in model.layers:
        new = []
        for i, (s, vectors) in enumerate(nodes):
            found = []
            for j, attributes in neighbours(values, i):
                r = x[i] - x[j]
                expanded = torch.stack([torch.exp(-((r.norm() - k * 0.75) ** 2) / (2 * 0.75**2)) for k in range(5)])
                e, direction = gvp(model.edge_embedding, torch.cat([expanded, attributes]), (r / r.norm())[None])
                pair = torch.cat([nodes[j][0], e, s]), torch.cat([nodes[j][1], direction, vectors])
                for one in layer.message:
                    pair = gvp(one, *pair)
                found.append(pair)
            s, vectors = s + mean([m for m, _ in found], s), vectors + mean([m for _, m in found], vectors)
            s, vectors = pair = gvp_norm(layer.norms[0], s, vectors)
            for one in layer.node:
                pair = gvp(one, *pair)
            new.append(gvp_norm(layer.norms[1], s + pair[0], vectors + pair[1]))
        nodes = new
    ends = [gvp(model.readout, *gvp_norm(model.norm, *pair)) for pair in nodes]
    output = model(**values)
    torch.testing.assert_close(output.x, x + torch.stack([vectors[0] for _, vectors in ends]), **CLOSE)
    torch.testing.assert_close(output.h, torch.stack([s for s, _ in ends]), **CLOSE)


def test_a_tensor_field_layer_by_products_of_vectors(require):
    """For degrees 0 and 1 each path is a product that vector algebra knows."""
    require("e3nn")
    model, values = make("tfn"), inputs()
    layer, x = model.layers[0], values["x"]
    scalars = model.scalars(values["h"])
    vectors = values["v"][:, None] * model.vectors.weight[None]
    output = layer(
        {0: scalars[:, :, None], 1: vectors},
        x,
        Edges(values["edge_index"], values["edge_attr"], None, None, x, positions_move=True),
    )
    new_scalars, new_vectors = [], []
    for i in range(len(x)):
        to_scalars, to_vectors = [], []
        for j, attributes in neighbours(values, i):
            r = x[i] - x[j]
            expanded = torch.stack([torch.exp(-((r.norm() - k * 0.75) ** 2) / (2 * 0.75**2)) for k in range(5)])
            weights = layer.radial(torch.cat([expanded, attributes])).split(16)
            of = dict(zip(layer.paths, weights, strict=True))
            n, s, u = r / r.norm(), scalars[j], vectors[j]
            along = u @ n
            to_scalars.append(torch.cat([of[0, 0, 0] * s, of[1, 1, 0] * along]))
            parts = [
                of[0, 1, 1][:, None] * s[:, None] * n * 3**0.5,
                of[1, 0, 1][:, None] * u,
                of[1, 1, 1][:, None] * torch.linalg.cross(u, n.expand_as(u)) * 1.5**0.5,
                of[1, 2, 1][:, None] * (3 * along[:, None] * n - u) / 2**0.5,
            ]
            to_vectors.append(torch.cat(parts))
        heard = mean(to_scalars, torch.zeros(32, dtype=torch.float64))
        carried = mean(to_vectors, torch.zeros(64, 3, dtype=torch.float64))
        new_scalars.append(silu(layer.mix["0"](torch.cat([scalars[i], heard]))))
        mixed = layer.mix["1"].weight @ torch.cat([vectors[i], carried])
        new_vectors.append(silu(mixed.norm(dim=1) + layer.bias["1"])[:, None] * mixed)
    torch.testing.assert_close(output[0][:, :, 0], torch.stack(new_scalars), **CLOSE)
    torch.testing.assert_close(output[1], torch.stack(new_vectors), **CLOSE)


def test_linear():
    model, values = make("linear"), inputs()
    with torch.no_grad():
        model.time.fill_(0.3)
    torch.testing.assert_close(model(**values).x, values["x"] + 0.3 * values["v"], **CLOSE)


def products(layer, vectors):
    """Scalar products of the columns of a matrix, as a network takes them."""
    matrix = vectors.T @ vectors
    return (matrix / matrix.norm() if layer.normalize else matrix).flatten()


def emmp(layer, h, z, edges):
    """Eqs. 3-6 of EGHN for one system; z holds a 3 x 2 matrix per node, edges (i, j, attributes)."""
    middle = torch.stack([sum(one[:, 0] for one in z) / len(z), torch.zeros(3, dtype=torch.float64)], dim=1)
    new_h, new_z = [], []
    for i in range(len(z)):
        matrices, change = torch.zeros(8, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
        for receiver, j, attributes in edges:
            if receiver == i:
                both = torch.cat([z[i] - middle, z[j] - middle], dim=1)  # 3 x 4
                matrix = layer.matrix(message(layer.edge, h[i], h[j], products(layer, both), attributes))
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


@pytest.mark.parametrize("case", ["eghn", "eghn, not normalised"])
def test_eghn_of_the_paper(case):
    model = make(case)
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
        hidden = silu(up.inward(torch.cat([products(up, both), h[i], agg_h])))
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


def test_global_nodes_have_no_order_and_virtual_nodes_have():
    for case, same in (("fastegnn, global nodes", True), ("fastegnn", False)):
        model, values = make(case, virtual_nodes=3), inputs()
        plain = model(**values)
        with torch.no_grad():
            model.virtual_features.copy_(model.virtual_features[[2, 0, 1]])
        other = model(**values)
        assert torch.allclose(other.x, plain.x, rtol=1e-12, atol=1e-12) == same
        assert torch.allclose(other.z, plain.z[:, [2, 0, 1]], rtol=1e-12, atol=1e-12) == same


@pytest.mark.parametrize("case", ["fastrf", "fastschnet", "fasttfn", "fastegnn"])
def test_all_edges_dropped_are_no_edges(case, require):
    if case == "fasttfn":
        require("e3nn")
    dropping, plain, values = make(case, edge_dropping=1.0), make(case), inputs()
    none = {**values, "edge_index": values["edge_index"][:, :0], "edge_attr": values["edge_attr"][:0]}
    torch.testing.assert_close(dropping(**values).x, plain(**none).x, **CLOSE)
    assert not torch.allclose(plain(**values).x, plain(**none).x)


@pytest.mark.parametrize("case", ["fastrf", "fastschnet"])
def test_fast_networks_by_loops_over_one_layer(case):
    """Form "paper"; the published form is compared with the published code."""
    model, (values, _) = make(case, layers=1), one_system()
    (layer,) = model.layers
    edges = listed(values["edge_index"], values["edge_attr"])
    h, x, v, n = model.embedding(values["h"]), values["x"], values["v"], 12
    z, s = x.mean(0), model.virtual_features  # M is zero at the start
    new_x, new_h, pulled, heard = [], [], [[], []], [[], []]
    for i in range(n):
        around = [(j, a, x[i] - x[j]) for receiver, j, a in edges if receiver == i]
        received = [message(layer.edge, h[i], h[j], (r @ r)[None], a) for j, a, r in around]
        if case == "fastrf":
            pull = [r * layer.coordinate(m) for (_, _, r), m in zip(around, received, strict=True)]
            moved = layer.velocity(v[i].norm()[None]) * v[i]
        else:
            centres = torch.linspace(0, 3, 8, dtype=torch.float64)
            spread = [torch.exp(-((r.norm() - centres) ** 2) / (2 * (3 / 7) ** 2)) for _, _, r in around]
            pull = [
                r * layer.pull.weights(torch.cat([g, h[i], h[j]])) for (j, _, r), g in zip(around, spread, strict=True)
            ]
            moved = torch.zeros(3, dtype=torch.float64)
        virtual = [
            message(layer.virtual, h[i], s[c], ((x[i] - z) @ (x[i] - z))[None], torch.zeros(2, dtype=torch.float64))
            for c in range(2)
        ]
        drawn = mean([(x[i] - z) * layer.coordinate_virtual(m) for m in virtual], x[i])
        new_x.append(x[i] + mean(pull, x[i]) + moved + drawn)
        new_h.append(h[i])
        if case == "fastschnet":
            new_h[-1] = h[i] + layer.node(torch.cat([h[i], mean(received, h[i]), *virtual]))
        for c in range(2):
            pulled[c].append((z - x[i]) * layer.virtual.coordinate(virtual[c]))
            heard[c].append(virtual[c])
    output = model(**values)
    torch.testing.assert_close(output.x, torch.stack(new_x), **CLOSE)
    torch.testing.assert_close(output.h, torch.stack(new_h), **CLOSE)
    torch.testing.assert_close(output.z[0], torch.stack([z + mean(one, z) for one in pulled]), **CLOSE)
    if case == "fastschnet":
        s = [s[c] + layer.virtual.feature(torch.cat([s[c], mean(heard[c], s[c])])) for c in range(2)]
        s = torch.stack(s)
    torch.testing.assert_close(output.s[0], s, **CLOSE)
