"""VN-EGNN: EGNN with virtual nodes that start on a sphere around the system.

Sestak, Schneckenreiter, Brandstetter, Hochreiter, Mayr, Klambauer: VN-EGNN: E(3)-Equivariant Graph Neural Networks with
Virtual Nodes Enhance Protein Binding Site Identification. 2024 (arXiv:2404.07194); as the baseline of the code of
FastEGNN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.real import pulls
from ..nn.virtual import safe_sqrt
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput


class VNEGNN(Architecture):
    """Messages in three steps per layer: atoms to atoms, atoms to virtual nodes, virtual nodes to atoms.

    The virtual nodes start on a Fibonacci grid on the sphere around the mean position, through the atom furthest from
    it. The directions of that grid are fixed, so the network moves with its input but **does not turn with it**: what
    it is called equivariant for holds only where the virtual nodes are turned, too. Velocities are not used.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Width of messages and of node and virtual features.
    layers : int
        Number of layers.
    virtual_nodes : int
        Number C of virtual nodes per system, at least 1.

    Raises
    ------
    ValueError
        If a width or number is below 1.
    """

    edge_features: int
    virtual_nodes: int

    isolated_only = True
    handed = True

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 64,
        layers: int = 4,
        virtual_nodes: int = 3,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, virtual_nodes=virtual_nodes)
        self.edge_features, self.virtual_nodes = edge_features, virtual_nodes
        self.embedding: nn.Linear = nn.Linear(node_features, hidden)
        self.virtual_features: nn.Parameter = nn.Parameter(torch.randn(virtual_nodes, hidden))
        self.layers: nn.ModuleList = nn.ModuleList(VNEGNNLayer(edge_features, hidden) for _ in range(layers))

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        h, z = self.embedding(h), self._on_a_sphere(x, systems)
        s = self.virtual_features.expand(systems.size, -1, -1)
        for layer in self.layers:
            h, x, z, s = layer(h, x, z, s, edges, systems)
        return ModelOutput(x=x, h=h, z=z, s=s)

    def _on_a_sphere(self, x: Tensor, systems: Segments) -> Tensor:
        centre = systems.mean(x)
        distance = safe_sqrt((x - systems.spread(centre)).square().sum(1))
        radius = distance.new_zeros(systems.size).scatter_reduce(0, systems.index, distance, "amax")
        return centre[:, None] + radius[:, None, None] * fibonacci_sphere(self.virtual_nodes).to(x)


class VNEGNNLayer(nn.Module):
    """One layer; parameters as in :class:`VNEGNN`."""

    to_virtual: _Spokes
    to_atoms: _Spokes

    def __init__(self, edge_features: int, hidden: int):
        super().__init__()
        self.edge: EdgeMessage = EdgeMessage(hidden, 1 + edge_features)
        self.coordinate: CoordinateHead = CoordinateHead(hidden)
        self.node: MLP = MLP(2 * hidden, hidden, hidden)
        self.to_virtual, self.to_atoms = _Spokes(hidden), _Spokes(hidden)

    def forward(
        self, h: Tensor, x: Tensor, z: Tensor, s: Tensor, edges: Edges, systems: Segments
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h (N, H), x (N, 3), z (B, C, 3) and s (B, C, H)."""
        received, pull = pulls(self.edge, self.coordinate, h, x, edges)
        h, x = h + self.node(torch.cat([h, received], dim=1)), x + edges.averaged(pull)
        message, pull = self.to_virtual(h, x, z, s, systems)
        mean = systems.mean(message.flatten(1)).view_as(s)
        z = z - systems.mean(pull.flatten(1)).view_as(z)
        s = s + self.to_virtual.feature(torch.cat([s, mean], dim=-1))
        message, pull = self.to_atoms(h, x, z, s, systems)
        h = h + self.to_atoms.feature(torch.cat([h, message.mean(1)], dim=-1))
        return h, x + pull.mean(1), z, s


class _Spokes(nn.Module):
    """Messages φ(h_i, s_c, |x_i-z_c|) (N, C, H) and the pulls (x_i-z_c) φx (N, C, 3) of one direction."""

    def __init__(self, hidden: int):
        super().__init__()
        self.edge: EdgeMessage = EdgeMessage(hidden, 1)
        self.coordinate: CoordinateHead = CoordinateHead(hidden)
        self.feature: MLP = MLP(2 * hidden, hidden, hidden)

    def forward(self, h: Tensor, x: Tensor, z: Tensor, s: Tensor, systems: Segments) -> tuple[Tensor, Tensor]:
        displacement = x[:, None] - systems.spread(z)
        nodes, channels, _ = displacement.shape
        distance = safe_sqrt(displacement.square().sum(-1))
        node, virtual = self.edge.at_nodes(h)[0], self.edge.at_nodes(s)[1]
        message = self.edge(
            node.repeat_interleave(channels, dim=0), systems.spread(virtual).flatten(0, 1), distance.view(-1, 1)
        ).view(nodes, channels, -1)
        return message, displacement * self.coordinate(message)


def fibonacci_sphere(count: int) -> Tensor:
    """Points (count, 3), float64, spread evenly over the unit sphere along a spiral from pole to pole."""
    number = torch.arange(count, dtype=torch.float64)
    y = 1.0 - 2.0 * number / max(1, count - 1)
    ring = (1.0 - y.square()).clamp(min=0.0).sqrt()
    angle = math.pi * (math.sqrt(5.0) - 1.0) * number
    return torch.stack([ring * angle.cos(), y, ring * angle.sin()], dim=1)
