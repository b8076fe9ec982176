"""Messages along the edges of the real graph, φ1 of FastEGNN (Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .mlp import Attention, activate


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
        self.sizes: list[int] = [hidden, hidden, edge_features]
        self.first: nn.Linear = nn.Linear(sum(self.sizes), hidden)
        self.second: nn.Linear = nn.Linear(hidden, hidden)
        self.attention: Attention | None = Attention(hidden) if attention else None

    def at_nodes(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What receivers and senders add to the first layer: its products with node features (N, hidden), once each."""
        receiver, sender, _ = self.first.weight.split(self.sizes, dim=1)
        return linear(h, receiver, self.first.bias), linear(h, sender)

    def column(self) -> Tensor:
        """Weight of the first layer for edge features, (edge_features, hidden)."""
        return self.first.weight[:, self.sizes[0] + self.sizes[1] :].T

    def forward(self, receiver: Tensor, sender: Tensor, edge_features: Tensor) -> Tensor:
        """Compute the messages of E edges.

        Parameters
        ----------
        receiver, sender : Tensor, shape (E, hidden)
            From :meth:`at_nodes`, gathered; ``receiver`` is overwritten where no gradient is recorded.
        edge_features : Tensor, shape (E, edge_features)

        Returns
        -------
        Tensor, shape (E, hidden)
        """
        column = self.column()
        if torch.is_grad_enabled() or receiver.dtype != column.dtype:
            pre = torch.addmm(receiver + sender, edge_features, column)
        else:  # three passes over memory less
            pre = receiver.add_(sender).addmm_(edge_features, column)
        message = activate(self.second(activate(pre)))
        return message if self.attention is None else self.attention(message)
