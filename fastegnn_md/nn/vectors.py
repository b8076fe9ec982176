"""Equivariant vector channels: what a position predictor needs to become a propagator of positions and velocities.

Messages see, besides distances, the two-body invariants of the vectors of both atoms (u_i·r̂, u_j·r̂, u_i·u_j for each
channel u); without them no message can tell whether a bond is stretching or closing. Vectors are updated along r̂ and
along the vectors of the neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mlp import MLP
from .scatter import segment_sum
from .virtual import VirtualMessage

# Standard deviation of the last layers of the vector heads: small, so that an untrained propagator starts close to its
# linear predictor.
_EDGE_STD, _NODE_STD = 0.05, 0.02


class VectorChannels(nn.Module):
    """Update of K vector channels per atom from messages of edges and of virtual nodes.

    u_ik ← u_ik + (1/n) Σ_j [r̂_ij φ_k(m_ij) + u_jk φ'_k(m_ij)] + (1/C) Σ_c (x_i-z_c) φ''_k(m_ic) + Σ_l A_kl(h_i) u_il

    Parameters
    ----------
    hidden : int
        Width of messages.
    channels : int
        Number K of vector channels.
    virtual_geometry : bool
        Whether virtual nodes have coordinates, and so a term of their own.
    """

    def __init__(self, hidden: int, channels: int, *, virtual_geometry: bool):
        super().__init__()
        self.channels = channels
        self.edge = _head(nn.Linear(hidden, 2 * channels), _EDGE_STD)
        self.virtual = _head(nn.Linear(hidden, channels), _NODE_STD) if virtual_geometry else None
        self.mix = MLP(hidden, hidden, channels * channels)
        _head(self.mix.second, _NODE_STD)

    @staticmethod
    def invariants(vectors: Tensor, edge_index: Tensor, direction: Tensor) -> Tensor:
        """Two-body invariants of all channels.

        Parameters
        ----------
        vectors : Tensor, shape (N, K, 3)
        edge_index : Tensor of int64, shape (2, E)
        direction : Tensor, shape (E, 3)
            Unit vectors r̂_ij from sender to receiver.

        Returns
        -------
        Tensor, shape (E, 3 K)
            u_i·r̂, u_j·r̂ and u_i·u_j.
        """
        receiver = vectors.index_select(0, edge_index[0])
        sender = vectors.index_select(0, edge_index[1])
        along = direction[:, :, None]
        return torch.cat(
            [
                torch.bmm(receiver, along).squeeze(-1),
                torch.bmm(sender, along).squeeze(-1),
                (receiver * sender).sum(-1),
            ],
            dim=1,
        )

    def forward(
        self,
        vectors: Tensor,
        h: Tensor,
        message: Tensor,
        virtual: VirtualMessage,
        edge_index: Tensor,
        direction: Tensor,
        neighbours: float,
    ) -> Tensor:
        """Return the updated vectors, shape (N, K, 3).

        Parameters
        ----------
        vectors : Tensor, shape (N, K, 3)
        h : Tensor, shape (N, hidden)
        message : Tensor, shape (E, hidden)
            Edge messages, already weighted by the cutoff envelope.
        virtual : VirtualMessage
        edge_index : Tensor of int64, shape (2, E)
        direction : Tensor, shape (E, 3)
        neighbours : float
            Constant n that sums over neighbours are divided by.
        """
        n, k = vectors.shape[0], self.channels
        along, across = self.edge(message).split(k, dim=1)
        sender = vectors.index_select(0, edge_index[1])
        carried = along[:, :, None] * direction[:, None] + across[:, :, None] * sender
        update = segment_sum(carried.view(-1, 3 * k), edge_index[0], n).view(n, k, 3) / neighbours
        if self.virtual is not None and virtual.displacement is not None:
            weights = self.virtual(virtual.value) / virtual.value.shape[1]
            update = update + torch.bmm(weights.transpose(1, 2), virtual.displacement)
        return vectors + update + torch.bmm(self.mix(h).view(n, k, k), vectors)


def _head(layer: nn.Linear, std: float) -> nn.Linear:
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
