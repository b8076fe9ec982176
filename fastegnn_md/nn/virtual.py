"""The block of ordered virtual nodes that turns an equivariant network into its Fast version (FastEGNN, Eqs. 4-9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..segments import Segments
from .mlp import MLP, Attention, CoordinateHead, activate, split_linear


class VirtualMessage(NamedTuple):
    """Messages between real and virtual nodes and the displacements they travel along."""

    value: Tensor  # (N, C, hidden)
    displacement: Tensor | None  # (N, C, 3), x_i - z_c, None without geometry


class VirtualNodes(nn.Module):
    """Messages m_ic = φ2(h_i, s_c, d_ic, M_c) and the updates of z and s they drive.

    Parameters
    ----------
    hidden : int
        Width of node features, messages and virtual features.
    channels : int
        Number C of virtual nodes.
    squared : bool
        Use |x_i-z_c|² (the paper, Eq. 5) or the plain distance (the published code) as invariant d_ic.
    geometry : bool
        Whether virtual nodes have coordinates. Without (periodic systems, where a mean of positions means nothing)
        they carry invariant features only: m_ic = φ2(h_i, s_c).
    ordered : bool
        False for global nodes, a set without order: of M, message m_ic sees M_cc only.
    features : bool
        Whether virtual features change (φS).
    attention, tanh : bool
        Options of the published code.
    """

    channels: int
    squared: bool
    ordered: bool

    def __init__(
        self,
        hidden: int,
        channels: int,
        *,
        squared: bool = True,
        geometry: bool = True,
        ordered: bool = True,
        features: bool = True,
        attention: bool = False,
        tanh: bool = False,
    ):
        super().__init__()
        self.channels, self.squared, self.ordered = channels, squared, ordered
        self.sizes: list[int] = [hidden, hidden, 1, channels if ordered else 1] if geometry else [hidden, hidden]
        self.first: nn.Linear = nn.Linear(sum(self.sizes), hidden)
        self.second: nn.Linear = nn.Linear(hidden, hidden)
        self.attention: Attention | None = Attention(hidden) if attention else None
        self.coordinate: CoordinateHead | None = CoordinateHead(hidden, tanh=tanh) if geometry else None  # φZ
        self.feature: MLP | None = MLP(2 * hidden, hidden, hidden) if features else None  # φS

    def messages(self, h: Tensor, x: Tensor, z: Tensor | None, s: Tensor, systems: Segments) -> VirtualMessage:
        """Messages of every atom with every virtual node of its system.

        Parameters
        ----------
        h : Tensor, shape (N, hidden)
        x : Tensor, shape (N, 3), Å
        z : Tensor, shape (B, C, 3), Å, or None without geometry
        s : Tensor, shape (B, C, hidden)
        systems : Segments
            System of each atom.
        """
        if z is None:
            node, virtual = split_linear(self.first, [h, s], self.sizes)
            pre = node[:, None] + systems.spread(virtual + self.first.bias)  # type: ignore[operator,index]
            return VirtualMessage(self._finish(pre), None)
        centred = z - systems.mean(x)[:, None]
        mixing = centred.square().sum(2, keepdim=True)  # the diagonal of M, (B, C, 1)
        if self.ordered:
            mixing = torch.bmm(centred, centred.transpose(1, 2))  # M, (B, C, C), symmetric
        displacement = x[:, None] - systems.spread(z)
        distance = displacement.square().sum(-1, keepdim=True)
        if not self.squared:
            distance = safe_sqrt(distance)
        node, virtual, _, mixed = split_linear(self.first, [h, s, None, mixing], self.sizes)
        per_system = virtual + mixed + self.first.bias  # type: ignore[operator]
        column = self.first.weight[:, 2 * h.shape[1]]
        pre = torch.addcmul(node[:, None] + systems.spread(per_system), distance, column)  # type: ignore[index]
        return VirtualMessage(self._finish(pre), displacement)

    def _finish(self, pre: Tensor) -> Tensor:
        message = activate(self.second(activate(pre)))
        return message if self.attention is None else self.attention(message)

    def update(
        self, message: VirtualMessage, z: Tensor | None, s: Tensor, systems: Segments
    ) -> tuple[Tensor | None, Tensor]:
        """Move virtual nodes and renew their features (Eqs. 8-9); shapes as in :meth:`messages`."""
        if z is not None and self.coordinate is not None and message.displacement is not None:
            pull = -message.displacement * self.coordinate(message.value)
            z = z + systems.mean(pull.flatten(1)).view_as(z)
        if self.feature is None:
            return z, s
        mean = systems.mean(message.value.flatten(1)).view_as(s)
        return z, s + self.feature(torch.cat([s, mean], dim=-1))


def safe_sqrt(square: Tensor) -> Tensor:
    """Square root whose gradient at zero is zero instead of infinite (an atom may sit on its virtual node)."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), 0.0)
