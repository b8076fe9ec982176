"""Message passing without equivariance, the line "GNN" or "MPNN" of the papers' tables.

Gilmer, Schoenholz, Riley, Vinyals, Dahl: Neural Message Passing for Quantum Chemistry. ICML 2017; as the baseline of
Satorras, Hoogeboom, Welling, ICML 2021, Table 1 and Appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput


class MPNN(Architecture):
    """Messages of features into which positions and velocities were embedded as plain numbers.

    h_i ← Linear(h_i, x_i, v_i);   m_ij = φe(h_i, h_j, a_ij);   h_i ← h_i + φh(h_i, (1/|N(i)|) Σ_j m_ij);
    x_i ← x_i + φd(h_i)

    It turns neither with its input nor moves with it. The baseline of the code of FastEGNN predicts the new position
    itself instead of a displacement, has no node features beside x and v, and no activation after φe's second layer.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Width of messages and of node features.
    layers : int
        Number of layers.

    Raises
    ------
    ValueError
        If a width or number is below 1.
    """

    isolated_only = True
    handed = True

    def __init__(self, *, node_features: int, edge_features: int = 0, hidden: int = 64, layers: int = 4):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden)
        self.edge_features: int = edge_features
        self.embedding: nn.Linear = nn.Linear(node_features + 6, hidden)
        self.layers: nn.ModuleList = nn.ModuleList(MPNNLayer(edge_features, hidden) for _ in range(layers))
        self.readout: MLP = MLP(hidden, hidden, 3)  # φd

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        h = self.embedding(torch.cat([h, x, v], dim=1))
        for layer in self.layers:
            h = layer(h, x, edges)
        return ModelOutput(x=x + self.readout(h), h=h)


class MPNNLayer(nn.Module):
    """One layer; parameters as in :class:`MPNN`."""

    def __init__(self, edge_features: int, hidden: int):
        super().__init__()
        self.edge: EdgeMessage = EdgeMessage(hidden, edge_features)  # φe
        self.node: MLP = MLP(2 * hidden, hidden, hidden)  # φh

    def forward(self, h: Tensor, x: Tensor, edges: Edges) -> Tensor:
        """Return the new node features (N, hidden)."""

        def messages(
            receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor]:
            return (self.edge(receiver[0], sender[0], attributes),)

        at_receiver, at_sender = self.edge.at_nodes(h)
        (received,) = edges.sums(messages, x, [at_receiver], [at_sender], [self.edge])
        return h + self.node(torch.cat([h, edges.averaged(received)], dim=1))
