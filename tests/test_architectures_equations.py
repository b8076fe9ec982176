"""Equations of the architectures written out with loops, and what they reduce to."""

from __future__ import annotations

import math

import torch
from architecture_cases import CLOSE, inputs, make
from torch.nn.functional import silu, softplus


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
