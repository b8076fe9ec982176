"""Learned energies with weights that matter, of systems of several sizes, and what torch says of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastegnn_md.graph import BondDistance, bessel_basis, cutoff_envelope
from fastegnn_md.models.fastegnn import FastEGNN
from fastegnn_md.nn.mlp import MLP
from fastegnn_md.nn.native.potential import Energies, potential_plan
from fastegnn_md.segments import Segments

CUTOFF, RADIAL, FEATURES, UNIT = 3.0, 6, 5, 0.7
SIZES = [1, 7, 2, 12, 5]


class EnergyCase:
    """Weights that matter, and systems of several sizes."""

    def __init__(self, dtype: torch.dtype, sizes: list[int] = SIZES, *, bonds: bool = False, **options):
        options = {
            "hidden": 16,
            "layers": 3,
            "vector_channels": 3,
            "average_neighbours": 5.0,
            "virtual_nodes": 2,
        } | options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)  # noqa: TID251 - initialisers take no generator
            self.network = FastEGNN(node_features=FEATURES, edge_features=RADIAL + 4, **options).to(dtype)
            self.head = MLP(options["hidden"], options["hidden"], 1).to(dtype)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for one in self.parameters:
                one += 0.2 * torch.randn(one.shape, generator=generator)
        self.begin = torch.tensor([0, *sizes]).cumsum(0)
        self.of = Segments(torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), len(sizes))
        nodes = int(self.begin[-1])
        self.features = torch.randn(nodes, FEATURES, generator=generator).to(dtype)
        self.x = torch.cat([(_walk if size < 100 else _grid)(size, generator) for size in sizes]) + 7.0
        self.bonds: Tensor | None = None
        if bonds:
            first = torch.tensor([k for k in range(nodes - 1) if self.of.index[k] == self.of.index[k + 1]])
            self.bonds = torch.stack([first, first + 1], dim=1)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.head.parameters()]

    @property
    def partners(self) -> dict[str, Tensor] | None:
        return None if self.bonds is None else BondDistance(self.bonds, len(self.x)).partners()

    def native(self, **more) -> Energies:
        plan = potential_plan(self.network.shape, self.head, self.features)
        assert plan is not None
        return Energies(
            plan, self.begin, self.features, cutoff=CUTOFF, radial=RADIAL, unit=UNIT, partners=self.partners, **more
        )

    def pairs(self, x: Tensor) -> Tensor:
        apart = torch.cdist(x, x) + 1e9 * (self.of.index[:, None] != self.of.index[None, :])
        return (apart.fill_diagonal_(1e9) < CUTOFF).nonzero().T.contiguous()

    def by_torch(self, x: Tensor) -> Tensor:
        dtype, index = self.features.dtype, self.pairs(x.detach())
        vector = x[index[0]] - x[index[1]]
        distance = vector.norm(dim=1, keepdim=True)
        hops = torch.zeros(len(distance), 4, dtype=dtype)
        if self.bonds is not None:
            hops = BondDistance(self.bonds, len(x))(index).to(dtype)
        centred = (x - self.of.spread(self.of.mean(x))) / CUTOFF
        found = self.network(
            h=self.features,
            x=centred.to(dtype),
            v=torch.zeros_like(centred, dtype=dtype),
            edge_index=index,
            edge_attr=torch.cat([bessel_basis(distance, CUTOFF, RADIAL).to(dtype), hops], dim=1),
            batch=self.of.index,
            systems=self.of.size,
            edge_vector=(vector / CUTOFF).to(dtype),
            edge_weight=cutoff_envelope(distance, CUTOFF)[:, 0].to(dtype),
        )
        return UNIT * self.of.sum(self.head(found.h).double())[:, 0]


def _walk(size: int, generator: torch.Generator) -> Tensor:
    """Steps of 1 Å that keep atoms apart."""
    while True:
        step = torch.randn(size, 3, generator=generator, dtype=torch.float64)
        x = (step / step.norm(dim=1, keepdim=True)).cumsum(0)
        if size == 1 or float(torch.pdist(x).min()) > 0.7:
            return x


def _grid(size: int, generator: torch.Generator) -> Tensor:
    side = torch.arange(round(size ** (1 / 3)) + 1, dtype=torch.float64)
    return torch.cartesian_prod(side, side, side)[:size] + 0.2 * torch.rand(size, 3, generator=generator).double()
