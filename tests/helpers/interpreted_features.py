"""Errors of the Triton kernel of edge inputs against the plain formulas; as ``interpreted_kernel.py``."""

from __future__ import annotations

import json

import torch

from fastegnn_md.graph import EdgeList, one_hot
from fastegnn_md.propagator.edge_inputs import by_kernel, edge_inputs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def compared(functions: int, dtype: torch.dtype, hops_dtype: torch.dtype) -> dict[str, float]:
    generator, cutoff = torch.Generator().manual_seed(functions), 3.5
    vector = (2.0 * torch.randn(700, 3, generator=generator)).to(DEVICE, dtype)
    vector[0] = torch.tensor([cutoff, 0.0, 0.0])  # as edges that weigh nothing have it
    vector[1] = torch.tensor([2e-3, 0.0, 0.0])
    hops = one_hot(torch.randint(4, (700,), generator=generator), 4).to(DEVICE, hops_dtype)
    edges = EdgeList(torch.zeros(2, 700, dtype=torch.int64), vector, vector.norm(dim=1, keepdim=True))
    found, expected = (
        by_kernel(edges, hops, cutoff, functions),
        edge_inputs(
            EdgeList(edges.edge_index, vector.double(), edges.distance.double()), hops, cutoff, functions, torch.float64
        ),
    )
    errors = {
        name: float((one.double() - expected[name]).abs().max() / expected[name].abs().max())
        for name, one in found.items()
    }
    return errors | {"at the cutoff": float(found["edge_weight"][0])}


if __name__ == "__main__":
    cases = [(12, torch.float64, torch.uint8), (5, torch.float32, torch.int64), (1, torch.float32, torch.int64)]
    print(json.dumps([compared(*case) for case in cases]))
