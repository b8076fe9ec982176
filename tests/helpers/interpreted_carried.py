"""Errors of the Triton kernel of vector channels against the plain formulas; as ``interpreted_kernel.py``."""

from __future__ import annotations

import json

import torch

from fastegnn_md.nn.edges import Edges
from fastegnn_md.nn.message import EdgeMessage
from fastegnn_md.nn.messages import gpu as gpu_kernel
from fastegnn_md.nn.real import carried
from fastegnn_md.nn.vectors import VectorChannels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NODES = 13
# hidden width, vector channels, attributes, whether edges have weights, edges
KINDS = [
    (64, 4, 16, True, 120),
    (32, 2, 3, False, 90),
    (16, 5, 0, True, 40),
    (64, 3, 30, True, 500),
    (16, 2, 1, True, 0),
]


@torch.no_grad()
def compared(hidden, channels, attributes, weighted, edges):
    generator = torch.Generator().manual_seed(hidden + attributes)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE)

    message = EdgeMessage(hidden, 1 + 3 * channels + attributes).to(DEVICE)
    vectors = VectorChannels(hidden, channels, virtual_geometry=True).to(DEVICE)
    for parameter in (*message.parameters(), *vectors.parameters()):
        parameter.copy_(parameter.shape[-1] ** -0.5 * random(*parameter.shape))
    receiver = torch.randint(NODES - 1, (edges,), generator=generator).sort().values  # the last node has no edges
    index = torch.stack([receiver, torch.randint(NODES, (edges,), generator=generator)]).to(DEVICE)
    h, u, x = random(NODES, hidden), random(NODES, channels, 3), random(NODES, 3)
    given = [random(edges, attributes), random(edges, 3), random(edges).abs() if weighted else None]
    graph = Edges(index, *given, x, positions_move=False)
    tensors = gpu_kernel.Carried(
        u, index[1], graph.rows, graph.vector, graph.attributes, graph.weight[0] if weighted else None
    )
    assert gpu_kernel.fits_carried(message, vectors, tensors)
    found, again = (gpu_kernel.carried(message, vectors, message.at_nodes(h), tensors) for _ in range(2))
    wide = [None if one is None else one.double() for one in given]
    exact = carried(
        message.double(),
        vectors.double(),
        h.double(),
        u.double(),
        Edges(index, *wide, x.double(), positions_move=False),
    )
    return {
        "error": max(
            float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
            for one, other in zip(found, exact, strict=True)
        ),
        "nothing without edges": all(not bool(one[-1].any()) for one in found),
        "the same call gives the same bits": all(map(torch.equal, found, again)),
    }


if __name__ == "__main__":
    print(json.dumps([compared(*kind) for kind in KINDS]))
