"""FastEGNN: an equivariant graph network with a small set of ordered virtual nodes.

Zhang, Cen, Han, Zhang, Zhou, Huang: Improving Equivariant Graph Neural Networks on Large Geometric Graphs via Virtual
Nodes Learning. ICML 2024. Equation numbers are those of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..graph import shortest_edges
from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.real import carried, pulls
from ..nn.scatter import Segments
from ..nn.vectors import VectorChannels
from ..nn.virtual import VirtualMessage, VirtualNodes
from .output import ModelOutput


class FastEGNN(nn.Module):
    """Map node features, positions and velocities to new positions (and, with vector channels, new velocities).

    Without vector channels this is the network of the paper: positions move from layer to layer by

    x_i ← x_i + (1/|N(i)|) Σ_j (x_i-x_j) φx(m_ij) + (1/C) Σ_c (x_i-z_c) φxv(m_ic) + φv(h_i) v_i⁰   (Eq. 6)

    With ``vector_channels=K`` positions stay where they are and K vectors per atom, the first of which starts as v,
    travel through the layers instead (:class:`~fastegnn_md.nn.vectors.VectorChannels`); two learned combinations of
    them are added to x and v at the end.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Width of messages and of node and virtual features.
    layers : int
        Number of layers.
    virtual_nodes : int
        Number C of virtual nodes per system, at least 1.
    edge_dropping : float
        Edge dropping rate p: the longest share p of the edges of each system is left out; p = 1 leaves the virtual
        nodes only.
    form : {"paper", "published"}
        Invariant between real and virtual nodes: |x_i-z_c|² (paper) or |x_i-z_c| (published code).
    attention, tanh, normalize : bool
        Options of the published code: gated messages; coordinate coefficients bounded to (-1, 1); (x_i-x_j) divided by
        its detached length.
    gravity : sequence of three floats, optional
        A constant vector g; each layer adds φg(h_i) g to the positions.
    vector_channels : int
        Number K of vector channels, 0 for the network of the paper.
    virtual_geometry : bool
        Whether virtual nodes have coordinates. False for periodic systems.
    average_neighbours : float, optional
        Divide sums over neighbours by this constant instead of |N(i)|. With ``edge_weight`` in the call the map is then
        smooth when atoms cross the cutoff; required with vector channels.
    """

    gravity: tuple[float, ...] | None

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
        attention: bool = False,
        tanh: bool = False,
        normalize: bool = False,
        gravity: Sequence[float] | None = None,
        vector_channels: int = 0,
        virtual_geometry: bool = True,
        average_neighbours: float | None = None,
    ):
        super().__init__()
        for name, value in (("node_features", node_features), ("hidden", hidden), ("virtual_nodes", virtual_nodes)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        if form not in ("paper", "published"):
            raise ValueError(f"form is {form!r}; expected 'paper' or 'published'")
        if not 0.0 <= edge_dropping <= 1.0:
            raise ValueError(f"edge_dropping is {edge_dropping}; expected a share from 0 to 1")
        if vector_channels and (average_neighbours is None or tanh or normalize or gravity is not None):
            raise ValueError("vector_channels needs average_neighbours and excludes tanh, normalize and gravity")
        self.edge_features, self.vector_channels, self.virtual_geometry = (
            edge_features,
            vector_channels,
            virtual_geometry,
        )
        self.edge_dropping = edge_dropping
        self.embedding = nn.Linear(node_features, hidden)
        self.virtual_features = nn.Parameter(torch.randn(virtual_nodes, hidden))
        self.layers = nn.ModuleList(
            FastEGNNLayer(
                edge_features=edge_features,
                hidden=hidden,
                virtual_nodes=virtual_nodes,
                squared=form == "paper",
                attention=attention,
                tanh=tanh,
                normalize=normalize,
                gravity=gravity is not None,
                vector_channels=vector_channels,
                virtual_geometry=virtual_geometry,
                average_neighbours=average_neighbours,
            )
            for _ in range(layers)
        )
        self.readout = MLP(hidden, hidden, 2 * vector_channels) if vector_channels else None
        # Numbers, not a buffer: converting a model to float64 must not keep a value rounded to float32.
        self.gravity = None if gravity is None else tuple(float(component) for component in gravity)

    def forward(
        self,
        *,
        h: Tensor,
        x: Tensor,
        v: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        systems: int | None = None,
        vectors: Tensor | None = None,
        edge_vector: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> ModelOutput:
        """Run the network. Inputs are never modified.

        Parameters
        ----------
        h : Tensor, shape (N, node_features)
            Invariant node features.
        x : Tensor, shape (N, 3)
            Positions.
        v : Tensor, shape (N, 3)
            Velocities.
        edge_index : Tensor of int64, shape (2, E)
            Row 0 the receiver i, row 1 the sender j.
        edge_attr : Tensor, shape (E, edge_features), optional
            Invariant edge attributes.
        batch : Tensor of int64, shape (N,), optional
            System of each node, not decreasing; one system by default.
        systems : int, optional
            Number of systems; without it a GPU is asked, and waited for.
        vectors : Tensor, shape (N, K', 3), optional
            Further input vectors (forces), at most ``vector_channels - 1``.
        edge_vector : Tensor, shape (E, 3), optional
            x_i - x_j of each edge by minimum image; the difference of ``x`` by default.
        edge_weight : Tensor, shape (E,), optional
            Cutoff envelope that multiplies every message.

        Returns
        -------
        ModelOutput
        """
        if batch is None:
            batch = x.new_zeros(x.shape[0], dtype=torch.int64)
        edge_attr = x.new_zeros(edge_index.shape[1], 0) if edge_attr is None else edge_attr
        if edge_attr.shape[1] != self.edge_features:
            raise ValueError(f"edge_attr has {edge_attr.shape[1]} columns; this model has {self.edge_features}")
        graphs = Segments(batch, int(batch[-1]) + 1 if systems is None else systems)
        if self.edge_dropping:
            edge_index, edge_attr, edge_vector, edge_weight = self._without_long_edges(
                x, batch, edge_index, edge_attr, edge_vector, edge_weight
            )
        h = self.embedding(h)
        s = self.virtual_features.expand(graphs.size, -1, -1)
        z = None
        if self.virtual_geometry:
            z = graphs.mean(x)[:, None].expand(-1, self.virtual_features.shape[0], -1)
        edges = Edges(edge_index, edge_attr, edge_vector, edge_weight, x, positions_move=self.readout is None)
        if self.readout is None:
            gravity = None if self.gravity is None else x.new_tensor(self.gravity)
            for layer in self.layers:
                h, x, z, s = layer(h, x, z, s, v, edges, graphs, gravity)
            return ModelOutput(x=x, h=h, z=z, s=s)
        u = self._initial_vectors(v, vectors)
        for layer in self.layers:
            h, u, z, s = layer.vector_forward(h, u, x, z, s, edges, graphs)  # type: ignore[operator]
        change = torch.bmm(self.readout(h).view(-1, 2, self.vector_channels), u)
        return ModelOutput(x=x + change[:, 0], v=v + change[:, 1], z=z, h=h, s=s)

    def _without_long_edges(
        self,
        x: Tensor,
        batch: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
        edge_vector: Tensor | None,
        edge_weight: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        vector = edge_vector
        if vector is None:
            vector = x.index_select(0, edge_index[0]) - x.index_select(0, edge_index[1])
        system = batch.index_select(0, edge_index[0])
        keep = shortest_edges(vector.detach().square().sum(1), system, self.edge_dropping)
        return (
            edge_index.index_select(1, keep),
            edge_attr.index_select(0, keep),
            None if edge_vector is None else edge_vector.index_select(0, keep),
            None if edge_weight is None else edge_weight.index_select(0, keep),
        )

    def _initial_vectors(self, v: Tensor, vectors: Tensor | None) -> Tensor:
        given = v[:, None] if vectors is None else torch.cat([v[:, None], vectors], dim=1)
        empty = self.vector_channels - given.shape[1]
        if empty < 0:
            raise ValueError(f"{given.shape[1]} input vectors do not fit into {self.vector_channels} vector channels")
        return torch.cat([given, v.new_zeros(v.shape[0], empty, 3)], dim=1)


class FastEGNNLayer(nn.Module):
    """One layer, Eqs. 3-9; parameters as in :class:`FastEGNN`."""

    def __init__(
        self,
        *,
        edge_features: int,
        hidden: int,
        virtual_nodes: int,
        squared: bool,
        attention: bool,
        tanh: bool,
        normalize: bool,
        gravity: bool,
        vector_channels: int,
        virtual_geometry: bool,
        average_neighbours: float | None,
    ):
        super().__init__()
        self.normalize, self.average_neighbours = normalize, average_neighbours
        self.edge = EdgeMessage(hidden, 1 + edge_features + 3 * vector_channels, attention=attention)  # φ1
        self.virtual = VirtualNodes(
            hidden, virtual_nodes, squared=squared, geometry=virtual_geometry, attention=attention, tanh=tanh
        )  # φ2, φZ, φS
        self.node = MLP((2 + virtual_nodes) * hidden, hidden, hidden)  # φh
        self.vectors: VectorChannels | None = None
        if vector_channels:
            self.vectors = VectorChannels(hidden, vector_channels, virtual_geometry=virtual_geometry)
            return
        self.coordinate = CoordinateHead(hidden, tanh=tanh)  # φx
        self.coordinate_virtual = CoordinateHead(hidden, tanh=tanh) if virtual_geometry else None  # φxv
        self.velocity = MLP(hidden, hidden, 1)  # φv
        self.gravity = MLP(hidden, hidden, 1) if gravity else None  # φg

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        z: Tensor | None,
        s: Tensor,
        v: Tensor,
        edges: Edges,
        systems: Segments,
        gravity: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Layer of the paper: returns h (N, H), x (N, 3), z (B, C, 3) and s (B, C, H)."""
        received, pull = (
            edges.averaged(total, self.average_neighbours)
            for total in pulls(self.edge, self.coordinate, h, x, edges, normalize=self.normalize)
        )
        virtual = self.virtual.messages(h, x, z, s, systems)
        new_x = x + pull
        if self.coordinate_virtual is not None and virtual.displacement is not None:
            new_x = new_x + (virtual.displacement * self.coordinate_virtual(virtual.value)).mean(1)
        new_x = new_x + self.velocity(h) * v
        if self.gravity is not None and gravity is not None:
            new_x = new_x + self.gravity(h) * gravity
        h, z, s = self._features(h, received, virtual, z, s, systems)
        return h, new_x, z, s

    def vector_forward(
        self, h: Tensor, u: Tensor, x: Tensor, z: Tensor | None, s: Tensor, edges: Edges, systems: Segments
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Layer with vector channels: returns h (N, H), u (N, K, 3), z and s."""
        channels = self.vectors
        assert channels is not None  # set in __init__

        received, vectors = (
            edges.averaged(total, self.average_neighbours) for total in carried(self.edge, channels, h, u, edges)
        )
        virtual = self.virtual.messages(h, x, z, s, systems)
        u = channels(u, h, vectors, virtual)
        h, z, s = self._features(h, received, virtual, z, s, systems)
        return h, u, z, s

    def _features(
        self,
        h: Tensor,
        received: Tensor,
        virtual: VirtualMessage,
        z: Tensor | None,
        s: Tensor,
        systems: Segments,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Eqs. 7-9: new node features, virtual positions and virtual features."""
        new_h = h + self.node(torch.cat([h, received, virtual.value.flatten(1)], dim=1))
        z, s = self.virtual.update(virtual, z, s, systems)
        return new_h, z, s
