"""Equivariant vector channels: what a position predictor needs to become a propagator of positions and velocities.

Messages see, besides distances, the two-body invariants of the vectors of both atoms (u_i·r̂, u_j·r̂, u_i·u_j for each
channel u); without them no message can tell whether a bond is stretching or closing. Vectors are updated along r̂ and
along the vectors of the neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .mlp import MLP
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
        # Without bias: a message that the cutoff envelope has brought to zero must carry nothing.
        self.edge: nn.Linear = _head(nn.Linear(hidden, 2 * channels, bias=False), _EDGE_STD)
        self.virtual: nn.Linear | None = _head(nn.Linear(hidden, channels), _NODE_STD) if virtual_geometry else None
        self.mix: MLP = MLP(hidden, hidden, channels * channels)
        _head(self.mix.second, _NODE_STD)

    @staticmethod
    def invariants(receiver: Tensor, sender: Tensor, direction: Tensor) -> Tensor:
        """Two-body invariants of all channels.

        Parameters
        ----------
        receiver, sender : Tensor, shape (E, K, 3)
            Vectors of the two atoms of each edge.
        direction : Tensor, shape (E, 3)
            Unit vectors r̂_ij from sender to receiver.

        Returns
        -------
        Tensor, shape (E, 3 K)
            u_i·r̂, u_j·r̂ and u_i·u_j.
        """
        along = direction[:, None]
        return torch.cat([(receiver * along).sum(-1), (sender * along).sum(-1), (receiver * sender).sum(-1)], dim=1)

    def carried(self, outputs: Tensor, sender: Tensor, direction: Tensor) -> Tensor:
        """Vectors (E, K, 3) that messages carry to their receivers, from the outputs (E, 2 K) of :attr:`edge`."""
        along, across = outputs.unsqueeze(-1).split(self.channels, dim=1)
        return torch.addcmul(along * direction[:, None], across, sender)

    def forward(self, vectors: Tensor, h: Tensor, received: Tensor, virtual: VirtualMessage | None = None) -> Tensor:
        """Return the updated vectors, shape (N, K, 3).

        Parameters
        ----------
        vectors : Tensor, shape (N, K, 3)
        h : Tensor, shape (N, hidden)
        received : Tensor, shape (N, K, 3)
            Sum of :meth:`carried` over the neighbours, divided by n.
        virtual : VirtualMessage, optional
            None where there are no virtual nodes.
        """
        n, k = vectors.shape[0], self.channels
        update = torch.baddbmm(received, self.mix(h).view(n, k, k), vectors)
        if self.virtual is not None and virtual is not None and virtual.displacement is not None:
            weights = self.virtual(virtual.value) / virtual.value.shape[1]
            update = torch.baddbmm(update, weights.transpose(1, 2), virtual.displacement)
        return vectors + update


def initial_vectors(v: Tensor, vectors: Tensor | None, channels: int) -> Tensor:
    """Vector channels before the first layer, shape (N, channels, 3): v, the other vectors given, and zeros.

    Raises
    ------
    ValueError
        If there are more vectors than channels.
    """
    given = v[:, None] if vectors is None else torch.cat([v[:, None], vectors], dim=1)
    empty = channels - given.shape[1]
    if empty < 0:
        raise ValueError(f"{given.shape[1]} input vectors do not fit into {channels} vector channels")
    return torch.cat([given, v.new_zeros(v.shape[0], empty, 3)], dim=1)


def read_out(weights: Tensor, u: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and velocities (N, 3) changed by two combinations, weights (N, 2 K), of the channels u (N, K, 3)."""
    change = torch.bmm(weights.view(len(u), 2, -1), u)
    return x + change[:, 0], v + change[:, 1]


def _head(layer: nn.Linear, std: float) -> nn.Linear:
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
