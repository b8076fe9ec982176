"""Errors of the Triton kernel against the plain formulas, as JSON: on a GPU, or by Triton's interpreter on the CPU.

The interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported for the first time, so this is a program of
its own. It knows no bfloat16.
"""

from __future__ import annotations

import itertools
import json

import torch

from fastegnn_md.nn.messages import gpu as gpu_kernel
from fastegnn_md.nn.messages import sums as message_sums
from fastegnn_md.nn.messages.inputs import MessageInputs
from fastegnn_md.segments import Segments

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NODES = 20
# hidden width, width of the head (0: a linear one), gate, weights, edge features, outputs
KINDS = [
    (64, 64, False, False, 2, 1),
    (32, 0, False, True, 25, 8),
    (16, 32, True, True, 0, 3),
    (128, 128, True, False, 1, 1),
]


def case(hidden, width, gated, weighted, features, outputs, edges=150, dtype=torch.float32):
    generator = torch.Generator().manual_seed(hidden + features)

    def random(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).to(DEVICE, dtype)

    receiver = torch.randint(NODES - 1, (edges,), generator=generator).sort().values  # the last node has no edges
    index = torch.stack([receiver, torch.randint(NODES, (edges,), generator=generator)]).to(DEVICE)
    scale = hidden**-0.5
    return MessageInputs(
        random(NODES, hidden),
        random(NODES, hidden),
        random(edges, features),
        random(edges, 1) if weighted else None,
        random(features, hidden),
        random(hidden, hidden, scale=scale),
        random(hidden),
        random(hidden, 1, scale=scale) if gated else None,
        random(1) if gated else None,
        random(hidden, width, scale=scale) if width else None,
        random(width) if width else None,
        random(width or hidden, outputs, scale=scale),
    ), index


def compared(kind, dtype):
    inputs, index = case(*kind, dtype=dtype)
    exact = MessageInputs(*(None if one is None else one.double() for one in inputs))
    before = torch.randn(NODES, kind[0], device=DEVICE)
    sums, again = before.clone(), before.clone()
    found, repeated = gpu_kernel.forward(inputs, index, sums), gpu_kernel.forward(inputs, index, again)
    expected = message_sums._plain(exact, index, Segments(index[0], NODES))
    pairs = ((sums - before, expected[0]), (found, expected[1]))
    return {
        "dtype": str(dtype),
        "error": max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs),
        "a node without edges keeps what it had": torch.equal(sums[-1], before[-1]),
        "the same call gives the same bits": torch.equal(found, repeated) and torch.equal(sums, again),
    }


if __name__ == "__main__":
    dtypes = (torch.float32, torch.float16, *([torch.bfloat16] if DEVICE == "cuda" else []))
    rows = [
        compared(kind, dtype)
        for kind, dtype in itertools.product(KINDS, dtypes)
        if DEVICE == "cpu" or gpu_kernel.fits(case(*kind, dtype=dtype)[0])
    ]
    inputs, index = case(16, 16, False, False, 2, 1, edges=0)
    sums = torch.ones(NODES, 16, device=DEVICE)
    outputs = gpu_kernel.forward(inputs, index, sums)
    print(json.dumps({"rows": rows, "no edges": outputs.shape == (0, 1) and bool((sums == 1).all())}))
