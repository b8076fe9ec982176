"""Every architecture with small widths, and inputs for it: systems of unequal size, one of a single node."""

from __future__ import annotations

import torch

from fastegnn_md.models import build_model, hyperparameters_of

SIZES = (7, 1, 12)
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

# Options beside the shared ones; more than one set where an architecture has forms.
CASES = {
    "linear": ("linear", {}),
    "mpnn": ("mpnn", {}),
    "schnet": ("schnet", {"cutoff": 3.0, "gaussians": 8, "filters": 16}),
    "rf": ("rf", {}),
    "egnn": ("egnn", {}),
    "egnn with all options": ("egnn", {"attention": True, "tanh": True, "normalize": True}),
    "egnn, published": ("egnn", {"form": "published"}),
    "egnn with vectors": ("egnn", {"vector_channels": 3, "average_neighbours": 5.0}),
    "eghn": ("eghn", {"clusters": 3}),
    "eghn, not normalised": ("eghn", {"clusters": 3, "normalize": False, "layers": 1, "pooling_layers": 1}),
    "eghn, published": ("eghn", {"clusters": 3, "form": "published", "decoder_layers": 2}),
    "gmn": ("gmn", {}),
    "gvp": ("gvp", {"vectors": 4, "gaussians": 5, "cutoff": 3.0}),
    "gvp without gates": ("gvp", {"vectors": 4, "gaussians": 5, "cutoff": 3.0, "vector_gate": False}),
    "se3-transformer": ("se3-transformer", {}),
    "se3-transformer of three degrees": ("se3-transformer", {"degrees": 3, "heads": 4, "layers": 3, "hidden": 8}),
    "tfn": ("tfn", {"gaussians": 5, "cutoff": 3.0}),
    "tfn of three degrees": ("tfn", {"degrees": 3, "gaussians": 5, "cutoff": 3.0, "layers": 3}),
    "vn-egnn": ("vn-egnn", {}),
    "fastegnn": ("fastegnn", {}),
    "fastegnn, global nodes": ("fastegnn", {"ordered": False}),
    "fastrf": ("fastrf", {}),
    "fastrf, published": ("fastrf", {"form": "published"}),
    "fastschnet": ("fastschnet", {"gaussians": 8, "cutoff": 3.0}),
    "fastschnet, published": ("fastschnet", {"gaussians": 8, "cutoff": 3.0, "form": "published"}),
    "fasttfn": ("fasttfn", {"gaussians": 8, "cutoff": 3.0}),
}


def needs_e3nn(name):
    """Whether an architecture, or a case or test named after it, is made of the parts of e3nn."""
    return "tfn" in name or "se3" in name


def make(case, seed=0, **further):
    name, options = CASES[case]
    shared = {"node_features": 2, "edge_features": 2, "hidden": 16, "layers": 2, "virtual_nodes": 2}
    known = hyperparameters_of(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251 - initialisers take no generator
        model = build_model(name, **{k: v for k, v in shared.items() if k in known} | options | further).double()
        for parameter in model.parameters():
            # What starts close to zero would hide what it multiplies.
            if parameter.dim() == 2 and float(parameter.detach().abs().mean()) < 0.05:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pairs = [(i, j) for i in range(n) for j in range(n) if i != j and batch[i] == batch[j]]
    edge_index = (
        torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T[:, torch.rand(len(pairs), generator=generator) < 0.6]
    )
    return {
        "h": draw(n, 2),
        "x": draw(n, 3),
        "v": draw(n, 3),
        "edge_index": edge_index,
        "edge_attr": draw(edge_index.shape[1], 2),
        "batch": batch,
    }


def orthogonal(reflect):
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q if (torch.linalg.det(q) < 0) == reflect else -q
