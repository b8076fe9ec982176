"""FastEGNN: an equivariant graph network with a small set of ordered virtual nodes.

Zhang, Cen, Han, Zhang, Zhou, Huang: Improving Equivariant Graph Neural Networks on Large Geometric Graphs via Virtual
Nodes Learning. ICML 2024. Equation numbers are those of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ..nn import layers_on_gpu
from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.native.network import Shape
from ..nn.real import carried, pulls
from ..nn.vectors import VectorChannels, initial_vectors, read_out
from ..nn.virtual import VirtualNodes
from ..segments import Segments
from .by_library import by_library
from .fast import FastLayer, FastNetwork, heard_width
from .output import ModelOutput


class FastEGNN(FastNetwork):
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
    ordered : bool
        False for the paper's ablation with global nodes: virtual nodes are a set, whose messages φh gets the mean of,
        and φ2 sees of M only M_cc, that node's own distance from the mean position.
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

    Raises
    ------
    ValueError
        If a value is out of range or options exclude each other.
    """

    vector_channels: int
    positions_move: bool

    gravity: tuple[float, ...] | None
    shape: Shape | None  # of a network that the C++ library knows

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
        ordered: bool = True,
        attention: bool = False,
        tanh: bool = False,
        normalize: bool = False,
        gravity: Sequence[float] | None = None,
        vector_channels: int = 0,
        virtual_geometry: bool = True,
        average_neighbours: float | None = None,
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
        if vector_channels and (average_neighbours is None or tanh or normalize or gravity is not None):
            raise ValueError("vector_channels needs average_neighbours and excludes tanh, normalize and gravity")
        self.vector_channels, self.positions_move = vector_channels, not vector_channels
        # Numbers, not a buffer: converting a model to float64 must not keep a value rounded to float32.
        self.gravity = None if gravity is None else tuple(float(component) for component in gravity)
        self.layers: nn.ModuleList = nn.ModuleList(
            FastEGNNLayer(
                edge_features=edge_features,
                hidden=hidden,
                virtual_nodes=virtual_nodes,
                squared=form == "paper",
                ordered=ordered,
                attention=attention,
                tanh=tanh,
                normalize=normalize,
                gravity=self.gravity,
                vector_channels=vector_channels,
                virtual_geometry=virtual_geometry,
                average_neighbours=average_neighbours,
            )
            for _ in range(layers)
        )
        self.readout: MLP | None = MLP(hidden, hidden, 2 * vector_channels) if vector_channels else None
        self.shape: Shape | None = None
        if ordered and not (attention or tanh or normalize or gravity is not None):
            self.shape = Shape(
                features=node_features,
                hidden=hidden,
                layers=layers,
                virtuals=virtual_nodes,
                vectors=vector_channels,
                attributes=edge_features,
                geometry=virtual_geometry,
                squared=form == "paper",
                neighbours=average_neighbours or 0.0,
            )

    def forward(self, **inputs: Any) -> ModelOutput:
        """Run the network, by the C++ library where it can; see :meth:`Architecture.forward`."""
        found = None if self.shape is None else by_library(self, self.shape, super().forward, **inputs)
        return super().forward(**inputs) if found is None else found

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network by torch; see :meth:`Architecture.predict`."""
        if self.readout is None:
            return super().predict(h, x, v, vectors, edges, systems)
        h, (z, s) = self.embedding(h), self._initial_virtual_nodes(x, systems)
        u = initial_vectors(v, vectors, self.vector_channels)
        given, blocks = layers_on_gpu.Moved(h, u, z, s), [layer.blocks() for layer in self.layers]  # type: ignore[operator]
        if layers_on_gpu.serves(blocks, given, edges):
            h, u, z, s = layers_on_gpu.run(blocks, given, x, edges, systems)
            x, v = read_out(self.readout(h), u, x, v)
            return ModelOutput(x=x, v=v, h=h, z=z, s=s)
        for layer in self.layers:
            h, u, z, s = layer.vector_forward(h, u, x, z, s, edges, systems)  # type: ignore[operator]
        x, v = read_out(self.readout(h), u, x, v)
        return ModelOutput(x=x, v=v, h=h, z=z, s=s)


class FastEGNNLayer(FastLayer):
    """One layer, Eqs. 3-9; parameters as in :class:`FastEGNN`."""

    normalize: bool
    average_neighbours: float | None

    def __init__(
        self,
        *,
        edge_features: int,
        hidden: int,
        virtual_nodes: int,
        squared: bool,
        ordered: bool,
        attention: bool,
        tanh: bool,
        normalize: bool,
        gravity: tuple[float, ...] | None,
        vector_channels: int,
        virtual_geometry: bool,
        average_neighbours: float | None,
    ):
        super().__init__()
        self.normalize, self.average_neighbours, self._direction = normalize, average_neighbours, gravity
        self.edge: EdgeMessage = EdgeMessage(hidden, 1 + edge_features + 3 * vector_channels, attention=attention)  # φ1
        self.virtual: VirtualNodes = VirtualNodes(
            hidden,
            virtual_nodes,
            squared=squared,
            geometry=virtual_geometry,
            ordered=ordered,
            attention=attention,
            tanh=tanh,
        )  # φ2, φZ, φS
        self.node: MLP = MLP(heard_width(hidden, virtual_nodes, ordered=ordered), hidden, hidden)  # φh
        self.vectors: VectorChannels | None = None
        if vector_channels:
            self.vectors = VectorChannels(hidden, vector_channels, virtual_geometry=virtual_geometry)
            return
        self.coordinate: CoordinateHead = CoordinateHead(hidden, tanh=tanh)  # φx
        self.coordinate_virtual: CoordinateHead | None = (
            CoordinateHead(hidden, tanh=tanh) if virtual_geometry else None
        )  # φxv
        self.velocity: MLP = MLP(hidden, hidden, 1)  # φv
        self.gravity: MLP | None = None if gravity is None else MLP(hidden, hidden, 1)  # φg

    def real(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Eq. 3 and the terms of Eq. 6 without virtual nodes; see :meth:`FastLayer.real`."""
        sums = pulls(self.edge, self.coordinate, h, x, edges, normalize=self.normalize)
        received, pull = (edges.averaged(total, self.average_neighbours) for total in sums)
        change = pull + self.velocity(h) * v
        if self.gravity is not None:
            change = change + self.gravity(h) * x.new_tensor(self._direction)
        return received, change

    def blocks(self) -> layers_on_gpu.Blocks:
        """What a layer with vector channels is made of."""
        assert self.vectors is not None and self.node is not None and self.average_neighbours is not None
        return layers_on_gpu.Blocks(self.edge, self.vectors, self.virtual, self.node, self.average_neighbours)

    def vector_forward(
        self, h: Tensor, u: Tensor, x: Tensor, z: Tensor | None, s: Tensor, edges: Edges, systems: Segments
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Layer with vector channels: returns h (N, H), u (N, K, 3), z and s."""
        channels = self.vectors
        assert channels is not None  # set in __init__
        sums = carried(self.edge, channels, h, u, edges)
        received, vectors = (edges.averaged(total, self.average_neighbours) for total in sums)
        virtual = self.virtual.messages(h, x, z, s, systems)
        u = channels(u, h, vectors, virtual)
        h, z, s = self.features(h, received, virtual, z, s, systems)
        return h, u, z, s
