"""Messages that are matrices: networks of the scalar products of several vectors per node, as in GMN and EGHN.

Han, Huang, Xu, Rong: Equivariant Graph Hierarchy-Based Neural Networks. NeurIPS 2022, Section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .edges import Edges
from .message import EdgeMessage
from .mlp import COORDINATE_GAIN, MLP, activate


def products(a: Tensor, b: Tensor, *, unit: bool = True) -> Tensor:
    """Scalar products of the vectors a (M, K, 3) and b (M, L, 3), by default divided by their norm, shape (M, K L)."""
    found = torch.bmm(a, b.transpose(1, 2)).flatten(1)
    return normalize(found, dim=1) if unit else found


class EMMP(nn.Module):
    """Equivariant matrix message passing (Eqs. 3-6).

    H_ij = MLP(ẐᵀẐ, h_i, h_j, e_ij);   M_ij = Ẑ H_ij;   h_i ← MLP(h_i, Σ_j H_ij);   Z_i ← Z_i + Σ_j M_ij

    Ẑ = (Z_i - Z̄, Z_j - Z̄) holds the K vectors of both nodes, positions relative to the mean position of the system.

    Parameters
    ----------
    hidden : int
        Width of node features.
    channels : int
        Number K of vectors of a node.
    edge_features : int
        Width of e_ij.
    normalize : bool
        Divide ẐᵀẐ by ‖ẐᵀẐ‖_F.
    """

    channels: int
    normalize: bool

    def __init__(self, hidden: int, channels: int, edge_features: int, *, normalize: bool = True):
        super().__init__()
        self.channels, self.normalize = channels, normalize
        self.edge: EdgeMessage = EdgeMessage(hidden, (2 * channels) ** 2 + edge_features)
        self.matrix: nn.Linear = nn.Linear(hidden, 2 * channels * channels)
        # Sums over many neighbours: an untrained network starts near the identity, as with a coordinate head.
        nn.init.xavier_uniform_(self.matrix.weight, gain=COORDINATE_GAIN)
        nn.init.zeros_(self.matrix.bias)
        self.node: MLP = MLP(hidden + 2 * channels * channels, hidden, hidden)

    def forward(self, h: Tensor, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Return the new h (N, hidden) and Σ_j M_ij (N, K, 3), for vectors Z_i - Z̄ (N, K, 3)."""

        def messages(
            receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor, Tensor]:
            both = torch.cat([receiver[1], sender[1]], dim=1)
            invariants = torch.cat([products(both, both, unit=self.normalize), attributes], dim=1)
            message = self.edge(receiver[0], sender[0], invariants)
            matrix = self.matrix(message)
            return matrix, torch.bmm(matrix.view(-1, self.channels, 2 * self.channels), both)

        at_receiver, at_sender = self.edge.at_nodes(h)
        matrices, change = edges.sums(
            messages, vectors[:, 0], [at_receiver, vectors], [at_sender, vectors], [self.edge, self.matrix]
        )
        return self.node(torch.cat([h, matrices], dim=1)), change


class SenderMatrices(nn.Module):
    """The published layer of pooling networks: only scalar products between the nodes, only the sender's vectors.

    m_ij = MLP(Z_jᵀ Z_i / ‖·‖_F, h_i, h_j, e_ij);   Z_i ← Z_i + (1/|N(i)|) Σ_j Z_j MLP(m_ij);
    h_i ← h_i + MLP(h_i, Σ_j m_ij)

    Parameters
    ----------
    hidden, channels, edge_features : int
        As in :class:`EMMP`.
    """

    def __init__(self, hidden: int, channels: int, edge_features: int):
        super().__init__()
        self.channels = channels
        self.edge: EdgeMessage = EdgeMessage(hidden, channels**2 + edge_features)
        self.matrix: MLP = MLP(hidden, hidden, channels**2)
        self.node: MLP = MLP(2 * hidden, hidden, hidden)

    def forward(self, h: Tensor, vectors: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Return the new h (N, hidden) and the new vectors (N, K, 3)."""

        def messages(
            receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor, Tensor]:
            invariants = products(sender[1], receiver[1])
            message = self.edge(receiver[0], sender[0], torch.cat([invariants, attributes], dim=1))
            matrix = self.matrix(message).view(-1, self.channels, self.channels)
            return message, torch.bmm(matrix.transpose(1, 2), sender[1])

        at_receiver, at_sender = self.edge.at_nodes(h)
        received, carried = edges.sums(
            messages, vectors[:, 0], [at_receiver, vectors], [at_sender, vectors], [self.edge, self.matrix]
        )
        return h + self.node(torch.cat([h, received], dim=1)), vectors + edges.averaged(carried)


class NodeMatrix(nn.Module):
    """Vectors and new features from the vectors and features of a node: Z MLP(m) and MLP(m), m = MLP(ZᵀZ, h).

    Parameters
    ----------
    inputs : int
        Width of the features given.
    hidden : int
        Width of the features returned.
    channels : int
        Number K of vectors.
    outputs : int
        Number L of vectors returned.
    normalize : bool
        Divide ZᵀZ by ‖ZᵀZ‖_F.
    """

    channels: int
    outputs: int
    normalize: bool

    def __init__(self, inputs: int, hidden: int, channels: int, outputs: int = 1, *, normalize: bool = True):
        super().__init__()
        self.channels, self.outputs, self.normalize = channels, outputs, normalize
        self.inward: MLP = MLP(channels**2 + inputs, hidden, hidden)
        self.vector: MLP = MLP(hidden, hidden, channels * outputs)
        self.scalar: MLP = MLP(hidden, hidden, hidden)

    def forward(self, vectors: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, K, 3) and (N, inputs) to (N, L, 3) and (N, hidden)."""
        invariants = products(vectors, vectors, unit=self.normalize)
        message = activate(self.inward(torch.cat([invariants, scalars], dim=1)))
        weights = self.vector(message).view(-1, self.outputs, self.channels)
        return torch.bmm(weights, vectors), self.scalar(message)
