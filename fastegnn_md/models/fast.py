"""What turns a backbone into its Fast version: ordered virtual nodes beside the real-real part of each layer.

Zhang, Cen, Han, Zhang, Zhou, Huang: Improving Equivariant Graph Neural Networks on Large Geometric Graphs via Virtual
Nodes Learning. ICML 2024. Equation numbers are those of the paper.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..graph import shortest_edges
from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.real import heard
from ..nn.virtual import VirtualMessage, VirtualNodes
from ..segments import Segments
from .architecture import Architecture, at_least_one, check_form
from .output import ModelOutput


class FastNetwork(Architecture):
    """Embedding, virtual nodes and edge dropping; a subclass sets ``layers``, of :class:`FastLayer`.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Width of messages and of node and virtual features.
    virtual_nodes : int
        Number C of virtual nodes per system, at least 1.
    edge_dropping : float
        Edge dropping rate p: the longest share p of the edges of each system is left out; p = 1 leaves the virtual
        nodes only.
    form : {"paper", "published"}
        Invariant between real and virtual nodes: |x_i-z_c|² (paper) or |x_i-z_c| (published code).
    virtual_geometry : bool
        Whether virtual nodes have coordinates. False for periodic systems.

    Raises
    ------
    ValueError
        If a width or number is below 1, the form is unknown, or the rate is not a share.
    """

    edge_dropping: float
    virtual_geometry: bool

    edge_features: int
    layers: nn.ModuleList

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int,
        hidden: int,
        virtual_nodes: int,
        edge_dropping: float,
        form: str,
        virtual_geometry: bool,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, virtual_nodes=virtual_nodes)
        check_form(form)
        if not 0.0 <= edge_dropping <= 1.0:
            raise ValueError(f"edge_dropping is {edge_dropping}; expected a share from 0 to 1")
        self.edge_features, self.edge_dropping, self.virtual_geometry = edge_features, edge_dropping, virtual_geometry
        self.embedding: nn.Linear = nn.Linear(node_features, hidden)
        self.virtual_features: nn.Parameter = nn.Parameter(torch.randn(virtual_nodes, hidden))

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        h, (z, s) = self.embedding(h), self._initial_virtual_nodes(x, systems)
        for layer in self.layers:
            h, x, z, s = layer(h, x, z, s, v, edges, systems)
        return ModelOutput(x=x, h=h, z=z, s=s)

    def _initial_virtual_nodes(self, x: Tensor, systems: Segments) -> tuple[Tensor | None, Tensor]:
        """Virtual nodes at the mean position (B, C, 3), and their features (B, C, hidden)."""
        s = self.virtual_features.expand(systems.size, -1, -1)
        if not self.virtual_geometry:
            return None, s
        return systems.mean(x)[:, None].expand(-1, self.virtual_features.shape[0], -1), s

    def _kept(self, x: Tensor, system: Tensor, edge_index: Tensor, edge_vector: Tensor | None) -> Tensor | None:
        """Indices of the edges that edge dropping leaves; None for all."""
        if not self.edge_dropping:
            return None
        vector = edge_vector
        if vector is None:
            vector = x.index_select(0, edge_index[0]) - x.index_select(0, edge_index[1])
        return shortest_edges(
            vector.detach().square().sum(1), system.index_select(0, edge_index[0]), self.edge_dropping
        )

    def _edges(
        self,
        x: Tensor,
        systems: Segments,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        edge_vector: Tensor | None,
        edge_weight: Tensor | None,
        name: str = "edge_attr",
    ) -> Edges:
        keep = self._kept(x, systems.index, edge_index, edge_vector)
        if keep is not None:
            edge_index = edge_index.index_select(1, keep)
            edge_attr, edge_vector, edge_weight = (
                None if one is None else one.index_select(0, keep) for one in (edge_attr, edge_vector, edge_weight)
            )
        return super()._edges(x, systems, edge_index, edge_attr, edge_vector, edge_weight, name)


class FastLayer(nn.Module):
    """One layer: the real-real part of a backbone, messages with the virtual nodes and what they change (Eqs. 4-9).

    A subclass writes :meth:`real` and makes these blocks.

    Attributes
    ----------
    virtual : VirtualNodes
        φ2, φZ and φS.
    coordinate_virtual : CoordinateHead or None
        φxv; None where virtual nodes have no coordinates.
    node : MLP or None
        φh; None for a backbone without node features.
    """

    virtual: VirtualNodes
    coordinate_virtual: CoordinateHead | None
    node: MLP | None

    def real(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """The backbone's part.

        Parameters
        ----------
        h : Tensor, shape (N, hidden)
        x, v : Tensor, shape (N, 3)
        edges : Edges

        Returns
        -------
        received : Tensor, shape (N, hidden)
            Mean of the messages of the neighbours, an input of φh.
        change : Tensor, shape (N, 3)
            What is added to the positions.
        """
        raise NotImplementedError

    def forward(
        self, h: Tensor, x: Tensor, z: Tensor | None, s: Tensor, v: Tensor, edges: Edges, systems: Segments
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return h (N, H), x (N, 3), z (B, C, 3) and s (B, C, H)."""
        received, change = self.real(h, x, v, edges)
        virtual = self.virtual.messages(h, x, z, s, systems)
        new_x = x + change
        if self.coordinate_virtual is not None and virtual.displacement is not None:
            new_x = new_x + (virtual.displacement * self.coordinate_virtual(virtual.value)).mean(1)
        h, z, s = self.features(h, received, virtual, z, s, systems)
        return h, new_x, z, s

    def features(
        self,
        h: Tensor,
        received: Tensor,
        virtual: VirtualMessage,
        z: Tensor | None,
        s: Tensor,
        systems: Segments,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Eqs. 7-9: new node features, virtual positions and virtual features."""
        if self.node is not None:
            heard = virtual.value.flatten(1) if self.virtual.ordered else virtual.value.mean(1)
            h = h + self.node(torch.cat([h, received, heard], dim=1))
        z, s = self.virtual.update(virtual, z, s, systems)
        return h, z, s


class PullNetwork(FastNetwork):
    """FastEGNN with another real-real part of the positions, a function of distances in Gaussians.

    A subclass writes :meth:`make_pull`; parameters beside these are those of :class:`FastNetwork`.

    Parameters
    ----------
    layers : int
        Number of layers.
    gaussians : int
        Number of Gaussians the distance is expanded in, at least 2.
    cutoff : float
        Centre of the last one, in the unit of positions.
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
        gaussians: int = 50,
        cutoff: float = 10.0,
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
            PullLayer(
                self.make_pull(hidden, edge_features, gaussians, cutoff),
                edge_features,
                hidden,
                virtual_nodes,
                squared=form == "paper",
                geometry=virtual_geometry,
            )
            for _ in range(layers)
        )

    @staticmethod
    def make_pull(hidden: int, edge_features: int, gaussians: int, cutoff: float) -> nn.Module:
        """Make what maps h (N, hidden), x and v (N, 3) and the edges of a layer to the change of x (N, 3)."""
        raise NotImplementedError


class PullLayer(FastLayer):
    """FastEGNN's messages and features around a backbone that moves positions only.

    Parameters
    ----------
    pull : nn.Module
        From :meth:`PullNetwork.make_pull`.
    edge_features, hidden, virtual_nodes : int
        As in :class:`FastNetwork`.
    squared, geometry : bool
        As in :class:`~fastegnn_md.nn.virtual.VirtualNodes`.
    """

    def __init__(
        self, pull: nn.Module, edge_features: int, hidden: int, virtual_nodes: int, *, squared: bool, geometry: bool
    ):
        super().__init__()
        self.pull = pull
        self.edge: EdgeMessage = EdgeMessage(hidden, 1 + edge_features)  # φ1
        self.virtual: VirtualNodes = VirtualNodes(hidden, virtual_nodes, squared=squared, geometry=geometry)
        self.node: MLP = MLP(heard_width(hidden, virtual_nodes), hidden, hidden)  # φh
        self.coordinate_virtual: CoordinateHead | None = CoordinateHead(hidden) if geometry else None  # φxv

    def real(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """See :meth:`FastLayer.real`."""
        return edges.averaged(heard(self.edge, h, x, edges)), self.pull(h, x, v, edges)


def heard_width(hidden: int, virtual_nodes: int, *, ordered: bool = True) -> int:
    """Width of φh's input: h, the mean message of neighbours, and the messages of virtual nodes."""
    return (2 + (virtual_nodes if ordered else 1)) * hidden
