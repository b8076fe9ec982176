"""Errors of the Triton kernels of whole layers against the plain formulas; as ``interpreted_kernel.py``."""

from __future__ import annotations

import json

import torch

from fastegnn_md.models import build_model
from fastegnn_md.nn import layers_on_gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# hidden width, channels, virtual nodes, layers, sizes of systems, whether virtual nodes have coordinates, form
CASES = [
    (64, 4, 3, 1, (19,), True, "paper"),
    (16, 2, 1, 3, (7, 18, 4), True, "published"),
    (32, 3, 2, 2, (24,), False, "paper"),
    (16, 4, 3, 1, (17, 17), False, "paper"),
]


@torch.no_grad()
def compared(hidden, channels, nodes, layers, sizes, geometry, form):
    generator = torch.Generator().manual_seed(hidden + nodes)
    atoms = sum(sizes)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(DEVICE)

    model = build_model(
        "fastegnn", node_features=3, edge_features=5, hidden=hidden, layers=layers, virtual_nodes=nodes, form=form,
        vector_channels=channels, virtual_geometry=geometry, average_neighbours=6.5,
    ).to(DEVICE)  # fmt: skip
    for parameter in model.parameters():
        parameter.copy_(parameter.shape[-1] ** -0.5 * random(*parameter.shape))
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    pairs = (batch[:, None] == batch[None]) & (torch.rand(atoms, atoms, generator=generator) < 0.15)
    index = pairs.nonzero().T.contiguous().to(DEVICE)
    edges = index.shape[1]
    inputs = {
        "h": random(atoms, 3), "x": random(atoms, 3), "v": random(atoms, 3), "edge_attr": random(edges, 5),
        "edge_vector": random(edges, 3), "edge_weight": random(edges).abs(),
    }  # fmt: skip
    rest = {"edge_index": index, "batch": batch.to(DEVICE), "systems": len(sizes)}
    kept = layers_on_gpu.serves
    layers_on_gpu.serves = layers_on_gpu.fits  # wherever tensors are
    try:
        found, again = (model(**inputs, **rest) for _ in range(2))
    finally:
        layers_on_gpu.serves = kept
    exact = model.double()(**{name: one.double() for name, one in inputs.items()}, **rest)
    errors = {}
    for name in ("x", "v", "h", "s", *(["z"] if geometry else [])):
        expected = getattr(exact, name)
        start = inputs[name].double() if name in ("x", "v") else 0.0
        scale = (expected - start).abs().max()
        errors[name] = float((getattr(found, name) - expected).abs().max() / scale)
    # Means over several systems are sums of torch, whose bits depend on chance on a GPU.
    return {"errors": errors, "the same call gives the same bits": len(sizes) > 1 or torch.equal(found.x, again.x)}


if __name__ == "__main__":
    rows = [compared(*case) for case in CASES]
    # As large systems have them: blocks of 64 atoms, and sums over them by torch.
    layers_on_gpu._FEW, layers_on_gpu._MANY_TILES = 0, 1
    print(json.dumps([*rows, compared(16, 4, 3, 2, (80,), True, "paper"), compared(*CASES[1])]))
