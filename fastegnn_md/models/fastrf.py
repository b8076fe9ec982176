"""FastRF: the radial field with ordered virtual nodes.

Zhang, Cen, Han, Zhang, Zhou, Huang: Improving Equivariant Graph Neural Networks on Large Geometric Graphs via Virtual
Nodes Learning. ICML 2024.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.real import pulls
from ..nn.virtual import VirtualNodes, safe_sqrt
from .fast import FastLayer, FastNetwork


class FastRF(FastNetwork):
    """Node and virtual features stay what they are at the start; only positions move, those of virtual nodes too.

    x_i ← x_i + (1/|N(i)|) Σ_j (x_i-x_j) φx(m_ij) + (1/C) Σ_c (x_i-z_c) φxv(m_ic) + φv(|v_i|) v_i

    As in the published code the messages m_ij see h_i and h_j, which those of :class:`~fastegnn_md.models.RF` do not.

    Parameters
    ----------
    node_features, edge_features, hidden, virtual_nodes, edge_dropping, form, virtual_geometry
        As in :class:`~fastegnn_md.models.FastEGNN`. Without virtual geometry virtual nodes change nothing.
    layers : int
        Number of layers.

    Raises
    ------
    ValueError
        As :class:`~fastegnn_md.models.fast.FastNetwork`.
    """

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 64,
        layers: int = 4,
        virtual_nodes: int = 3,
        edge_dropping: float = 0.0,
        form: Literal["paper", "published"] = "paper",
        virtual_geometry: bool = True,
    ):
        super().__init__(
            node_features=node_features,
            edge_features=edge_features,
            hidden=hidden,
            virtual_nodes=virtual_nodes,
            edge_dropping=edge_dropping,
            form=form,
            virtual_geometry=virtual_geometry,
        )
        self.layers: nn.ModuleList = nn.ModuleList(
            FastRFLayer(edge_features, hidden, virtual_nodes, squared=form == "paper", geometry=virtual_geometry)
            for _ in range(layers)
        )


class FastRFLayer(FastLayer):
    """One layer; parameters as in :class:`FastRF`."""

    def __init__(self, edge_features: int, hidden: int, virtual_nodes: int, *, squared: bool, geometry: bool):
        super().__init__()
        self.edge: EdgeMessage = EdgeMessage(hidden, 1 + edge_features)
        self.virtual: VirtualNodes = VirtualNodes(
            hidden, virtual_nodes, squared=squared, geometry=geometry, features=False
        )
        self.node: None = None
        self.coordinate: CoordinateHead = CoordinateHead(hidden)
        self.coordinate_virtual: CoordinateHead | None = CoordinateHead(hidden) if geometry else None
        self.velocity: MLP = MLP(1, hidden, 1)

    def real(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """See :meth:`FastLayer.real`."""
        received, pull = (edges.averaged(total) for total in pulls(self.edge, self.coordinate, h, x, edges))
        return received, pull + self.velocity(safe_sqrt(v.square().sum(1, keepdim=True))) * v
