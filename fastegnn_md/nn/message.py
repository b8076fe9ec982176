"""Messages along the edges of the real graph, φ1 of FastEGNN (Eq. 3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

from .mlp import Attention, split_linear


class EdgeMessage(nn.Module):
    """m_ij = φ1(h_i, h_j, e_ij): two layers, each followed by SiLU; the first is factorised over nodes.

    Parameters
    ----------
    hidden : int
        Width of node features and of messages.
    edge_features : int
        Width of e_ij, invariants such as |x_i-x_j|² included.
    attention : bool
        Gate each message by a learned scalar.
    """

    def __init__(self, hidden: int, edge_features: int, *, attention: bool = False):
        super().__init__()
        self.sizes = [hidden, hidden, edge_features]
        self.first = nn.Linear(sum(self.sizes), hidden)
        self.second = nn.Linear(hidden, hidden)
        self.attention = Attention(hidden) if attention else None

    def forward(self, h: Tensor, edge_index: Tensor, edge_features: Tensor) -> Tensor:
        """Compute the messages.

        Parameters
        ----------
        h : Tensor, shape (N, hidden)
        edge_index : Tensor of int64, shape (2, E)
            Row 0 the receiver i, row 1 the sender j.
        edge_features : Tensor, shape (E, edge_features)

        Returns
        -------
        Tensor, shape (E, hidden)
        """
        receiver, sender, edge = split_linear(self.first, [h, h, edge_features], self.sizes)
        pre = (receiver + self.first.bias).index_select(0, edge_index[0])  # type: ignore[operator]
        pre = pre + sender.index_select(0, edge_index[1]) + edge  # type: ignore[union-attr,operator]
        message = silu(self.second(silu(pre)))
        return message if self.attention is None else self.attention(message)
