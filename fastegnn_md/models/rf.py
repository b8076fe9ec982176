"""Radial field: positions moved along the differences to the neighbours by a function of the distance alone.

Köhler, Klein, Noé: Equivariant Flows: sampling configurations for multi-body systems with symmetric energies. 2019
(arXiv:1910.00753); with velocities as in Satorras, Hoogeboom, Welling, ICML 2021, Table 1 and Appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.mlp import MLP, CoordinateHead
from ..nn.virtual import safe_sqrt
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput


class RF(Architecture):
    """Radial field with velocities; it has no node features, ``h`` is returned as it was given.

    x_i ← x_i + (1/|N(i)|) Σ_j (x_i-x_j) tanh φ(|x_i-x_j|, a_ij) + φv(|v_i|) v_i

    Parameters
    ----------
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Width of φ and φv.
    layers : int
        Number of layers.

    Raises
    ------
    ValueError
        If a width or number is below 1.
    """

    def __init__(self, *, edge_features: int = 0, hidden: int = 64, layers: int = 4):
        super().__init__()
        at_least_one(hidden=hidden)
        self.edge_features: int = edge_features
        self.layers: nn.ModuleList = nn.ModuleList(RFLayer(edge_features, hidden) for _ in range(layers))

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        speed = safe_sqrt(v.square().sum(1, keepdim=True))
        for layer in self.layers:
            x = layer(x, v, speed, edges)
        return ModelOutput(x=x, h=h)


class RFLayer(nn.Module):
    """One layer; parameters as in :class:`RF`."""

    def __init__(self, edge_features: int, hidden: int):
        super().__init__()
        self.radial: CoordinateHead = CoordinateHead(1 + edge_features, hidden=hidden, tanh=True)  # φ
        self.velocity: MLP = MLP(1, hidden, 1)  # φv

    def forward(self, x: Tensor, v: Tensor, speed: Tensor, edges: Edges) -> Tensor:
        """Return the new positions (N, 3); speed (N, 1) is |v|."""

        def messages(
            receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor]:
            distance = safe_sqrt(difference.square().sum(1, keepdim=True))
            return (difference * self.radial(torch.cat([distance, attributes], dim=1)),)

        (pull,) = edges.sums(messages, x, [], [], [self.radial])
        return x + edges.averaged(pull) + self.velocity(speed) * v
