"""EGNN: messages of distances, positions moved along the differences to the neighbours.

Satorras, Hoogeboom, Welling: E(n) Equivariant Graph Neural Networks. ICML 2021. Equation numbers are the paper's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.real import carried, pulls
from ..nn.vectors import VectorChannels, initial_vectors, read_out
from ..segments import Segments
from .architecture import Architecture, at_least_one, check_form
from .output import ModelOutput

_LARGEST_PULL = 100.0  # of the published code


class EGNN(Architecture):
    """EGNN with velocities.

    m_ij = φe(h_i, h_j, |x_i-x_j|², a_ij)   (Eq. 3)

    x_i ← x_i + (1/|N(i)|) Σ_j (x_i-x_j) φx(m_ij) + φv(h_i) v_i⁰   (Eqs. 4 and 7)

    h_i ← h_i + φh(h_i, Σ_j m_ij)   (Eqs. 5 and 6, with the residual connection of the paper's Appendix C)

    With ``vector_channels=K`` positions stay where they are and K vectors per atom travel through the layers, as in
    :class:`~fastegnn_md.models.FastEGNN`, of which this is the part without virtual nodes.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Width of messages and of node features.
    layers : int
        Number of layers.
    form : {"paper", "published"}
        "published" is the baseline of the code of FastEGNN and EGHN: messages are averaged instead of summed, the mean
        pull is cut to ±100, φh stands without residual connection, φx has a bias and a larger start.
    attention, tanh, normalize : bool
        Gated messages (Eq. 8); coordinate coefficients bounded to (-1, 1); (x_i-x_j) divided by its detached length.
        For the form of the paper.
    vector_channels : int
        Number K of vector channels, 0 for the network of the paper.
    average_neighbours : float, optional
        Divide sums over neighbours by this constant instead of |N(i)|. With ``edge_weight`` in the call the map is then
        smooth when atoms cross the cutoff; required with vector channels.

    Raises
    ------
    ValueError
        If a width or number is below 1, the form is unknown, or options exclude each other.
    """

    edge_features: int
    vector_channels: int

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 64,
        layers: int = 4,
        form: Literal["paper", "published"] = "paper",
        attention: bool = False,
        tanh: bool = False,
        normalize: bool = False,
        vector_channels: int = 0,
        average_neighbours: float | None = None,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden)
        check_form(form)
        if form == "published" and (attention or tanh or normalize or vector_channels):
            raise ValueError("form 'published' has neither attention, tanh, normalize nor vector_channels")
        if vector_channels and (average_neighbours is None or tanh or normalize):
            raise ValueError("vector_channels needs average_neighbours and excludes tanh and normalize")
        self.edge_features, self.vector_channels = edge_features, vector_channels
        self.positions_move: bool = not vector_channels
        self.embedding: nn.Linear = nn.Linear(node_features, hidden)
        self.layers: nn.ModuleList = nn.ModuleList(
            EGNNLayer(
                edge_features=edge_features,
                hidden=hidden,
                published=form == "published",
                attention=attention,
                tanh=tanh,
                normalize=normalize,
                vector_channels=vector_channels,
                average_neighbours=average_neighbours,
            )
            for _ in range(layers)
        )
        self.readout: MLP | None = MLP(hidden, hidden, 2 * vector_channels) if vector_channels else None

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        h = self.embedding(h)
        if self.readout is None:
            self._refuse_vectors(vectors)
            for layer in self.layers:
                h, x = layer(h, x, v, edges)
            return ModelOutput(x=x, h=h)
        u = initial_vectors(v, vectors, self.vector_channels)
        for layer in self.layers:
            h, u = layer.vector_forward(h, u, edges)  # type: ignore[operator]
        x, v = read_out(self.readout(h), u, x, v)
        return ModelOutput(x=x, v=v, h=h)


class EGNNLayer(nn.Module):
    """One layer; parameters as in :class:`EGNN`."""

    published: bool
    normalize: bool
    average_neighbours: float | None

    def __init__(
        self,
        *,
        edge_features: int,
        hidden: int,
        published: bool,
        attention: bool,
        tanh: bool,
        normalize: bool,
        vector_channels: int,
        average_neighbours: float | None,
    ):
        super().__init__()
        self.published, self.normalize, self.average_neighbours = published, normalize, average_neighbours
        self.edge: EdgeMessage = EdgeMessage(hidden, 1 + edge_features + 3 * vector_channels, attention=attention)  # φe
        self.node: MLP = MLP(2 * hidden, hidden, hidden)  # φh
        self.vectors: VectorChannels | None = None
        if vector_channels:
            self.vectors = VectorChannels(hidden, vector_channels, virtual_geometry=False)
            return
        self.coordinate: MLP | CoordinateHead = (
            MLP(hidden, hidden, 1) if published else CoordinateHead(hidden, tanh=tanh)
        )  # φx
        self.velocity: MLP = MLP(hidden, hidden, 1)  # φv

    def forward(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Layer of the paper: returns h (N, H) and x (N, 3)."""
        received, pull = pulls(self.edge, self.coordinate, h, x, edges, normalize=self.normalize)
        pull = edges.averaged(pull, self.average_neighbours)
        if self.published:
            received = edges.averaged(received)
            pull = pull.clamp(-_LARGEST_PULL, _LARGEST_PULL)
        x = x + pull + self.velocity(h) * v
        update = self.node(torch.cat([h, received], dim=1))
        return update if self.published else h + update, x

    def vector_forward(self, h: Tensor, u: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Layer with vector channels: returns h (N, H) and u (N, K, 3)."""
        channels = self.vectors
        assert channels is not None  # set in __init__
        received, vectors = (
            edges.averaged(total, self.average_neighbours) for total in carried(self.edge, channels, h, u, edges)
        )
        u = channels(u, h, vectors)
        return h + self.node(torch.cat([h, received], dim=1)), u
