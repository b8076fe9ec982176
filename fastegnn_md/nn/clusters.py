"""Clusters that the nodes of a system belong to by shares, as E-Pool of EGHN makes them.

Han, Huang, Xu, Rong: Equivariant Graph Hierarchy-Based Neural Networks. NeurIPS 2022, Section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..segments import Segments
from .edges import Edges

_LEAST_WEIGHT = 1e-5  # of a cluster; the published value


class Clusters:
    """P clusters in each system.

    Parameters
    ----------
    scores : Tensor, shape (N, P)
        Their softmax is the share s_ip of node i in cluster p.
    systems : Segments
        System of each node.

    Attributes
    ----------
    shares : Tensor, shape (N, P)
    segments : Segments
        System of each cluster; clusters are numbered system by system.
    """

    shares: Tensor

    def __init__(self, scores: Tensor, systems: Segments):
        self.shares, self._systems = scores.softmax(1), systems
        self.count: int = scores.shape[1]
        self._weight = systems.sum(self.shares).clamp(min=_LEAST_WEIGHT).view(-1, 1)
        index = torch.arange(systems.size, device=scores.device).repeat_interleave(self.count)
        self.segments: Segments = Segments(index, systems.size)

    def pool(self, values: Tensor) -> Tensor:
        """Means of node values (N, k) in each cluster, Σ_i s_ip value_i / Σ_i s_ip, shape (B P, k)."""
        return self._sum(values).flatten(0, 1) / self._weight

    def spread(self, values: Tensor) -> Tensor:
        """What each node has of the values (B P, k) of its clusters, Σ_p s_ip value_p, shape (N, k)."""
        of_system = self._systems.spread(values.view(-1, self.count, values.shape[1]))
        return torch.bmm(self.shares[:, None], of_system)[:, 0]

    def connections(self, edges: Edges) -> Tensor:
        """sᵀ A s for the adjacency matrix A of the nodes, its ones weighted by the envelope; shape (B, P, P)."""
        shares = self.shares.index_select(0, edges.index[1])
        for weight in edges.weight:
            shares = shares * weight
        return self._sum(edges.receivers.sum(shares))

    def edges(self, connections: Tensor, x: Tensor) -> Edges:
        """All pairs of clusters of a system, each with itself too, with their connections as attribute.

        Parameters
        ----------
        connections : Tensor, shape (B, P, P)
        x : Tensor, shape (B P, 3)
            Positions of the clusters.
        """
        systems, count = self._systems.size, self.count
        number = torch.arange(systems * count, device=x.device).view(systems, count)
        receiver = number[:, :, None].expand(-1, -1, count).reshape(-1)
        sender = number[:, None].expand(-1, count, -1).reshape(-1)
        index = torch.stack([receiver, sender])
        return Edges(index, connections.reshape(-1, 1), None, None, x, positions_move=True)

    def _sum(self, values: Tensor) -> Tensor:
        """Σ_i s_ip value_i, shape (B, P, k)."""
        outer = self.shares[:, :, None] * values[:, None]
        return self._systems.sum(outer.flatten(1)).view(-1, self.count, values.shape[1])


def connectivity_loss(connections: Tensor) -> Tensor:
    """‖A' - 1‖_F averaged over systems, A' the connections (B, P, P) with rows of unit length.

    It is small where most neighbours of a node are in its own cluster.
    """
    identity = torch.eye(connections.shape[1], dtype=connections.dtype, device=connections.device)
    return torch.linalg.matrix_norm(normalize(connections, dim=2) - identity).mean()
