"""EGHN: an equivariant network of the nodes and of clusters that they are pooled into.

Han, Huang, Xu, Rong: Equivariant Graph Hierarchy-Based Neural Networks. NeurIPS 2022.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..nn.clusters import Clusters, connectivity_loss
from ..nn.edges import Edges
from ..nn.matrices import EMMP, NodeMatrix, SenderMatrices
from ..segments import Segments
from .architecture import Architecture, at_least_one, check_form, systems_of
from .egnn import EGNN
from .output import ModelOutput


class EGHN(Architecture):
    """Messages among the nodes, E-Pool into clusters, messages among the clusters, E-UpPool back to the nodes.

    Form "paper" (Section 3), with the vectors Z_i = (x_i, v_i) of each node:

    1. layers of :class:`~fastegnn_md.nn.matrices.EMMP` on the nodes and their edges (Eqs. 3-6);
    2. E-Pool: s_i = softmax MLP(h'_i), h' from further layers of EMMP on the local edges; a cluster p gets the means
       Σ_i s_ip Z_i / Σ_i s_ip and Σ_i s_ip h_i / Σ_i s_ip, and edges of strength A_high = sᵀ A s;
    3. layers of EMMP on the clusters, all pairs, with A_high as attribute;
    4. E-UpPool: Z_agg = Σ_p s_ip Z_p, h_agg = Σ_p s_ip h_p; Z_i ← Z_agg + Ẑ_i MLP(Ẑ_iᵀ Ẑ_i, h_i, h_agg),
       Ẑ_i = (Z_i - Z̄, Z_agg - Z̄).

    Form "published", the network of the authors' code: an EGNN in the place of 1 and 3; E-Pool sees
    (x_i - x̄, Δx_i, v_i), Δx_i what the EGNN moved, and pools the x_i, v_i and h_i that E-Pool was given; E-UpPool is a
    chain of networks of the vectors (Σ_p s_ip ΔX_p, x_i - Σ_p s_ip X_p, v_i - Σ_p s_ip V_p, Δx_i).

    Both need the mean position of each system: they are for isolated systems.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr`` and ``local_edge_attr``.
    hidden : int
        Width of messages and of node features.
    layers : int
        Layers of each block, of the nodes and of the clusters.
    clusters : int
        Number P of clusters per system.
    pooling_layers : int
        Layers of the network that scores clusters.
    decoder_layers : int
        Networks in the chain of E-UpPool; the paper's form has 1.
    form : {"paper", "published"}
        See above.
    normalize : bool
        Divide the scalar products of the paper's form by their norm, as the published code does in E-Pool and E-UpPool.
        False is Eq. 3 to the letter; scalar products grow with the square of what the layers before have moved then.

    Raises
    ------
    ValueError
        If a width or number is below 1, the form is unknown, or the paper's form is given several decoder layers.
    """

    edge_features: int
    published: bool

    isolated_only = True

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 64,
        layers: int = 3,
        clusters: int = 5,
        pooling_layers: int = 3,
        decoder_layers: int = 1,
        form: Literal["paper", "published"] = "paper",
        normalize: bool = True,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, clusters=clusters, decoder_layers=decoder_layers)
        check_form(form)
        if form == "paper" and decoder_layers != 1:
            raise ValueError(f"decoder_layers is {decoder_layers}; form 'paper' has 1, more go with form 'published'")
        if form == "published" and not normalize:
            raise ValueError("normalize=False is for form 'paper'; the published networks are normalised")
        self.edge_features, self.published = edge_features, form == "published"
        self.embedding: nn.Linear = nn.Linear(node_features, hidden)
        self.score: nn.Sequential = nn.Sequential(
            nn.Linear(hidden, 8 * hidden), nn.Tanh(), nn.Linear(8 * hidden, clusters)
        )
        self.low: nn.Module
        self.high: nn.Module
        self.pool: nn.ModuleList
        self.up: nn.ModuleList
        if self.published:
            low, high = (
                EGNN(node_features=hidden, edge_features=width, hidden=hidden, layers=layers, form=form)
                for width in (edge_features, 1)
            )
            self.low, self.high = low, high
            self.pool = nn.ModuleList(SenderMatrices(hidden, 3, edge_features) for _ in range(pooling_layers))
            self.up = nn.ModuleList(
                NodeMatrix(2 * hidden if k == 0 else hidden, hidden, 4 + k) for k in range(decoder_layers)
            )
            return

        def layers_of(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(EMMP(hidden, 2, width, normalize=normalize) for _ in range(count))

        self.low, self.high = layers_of(edge_features, layers), layers_of(1, layers)
        self.pool = layers_of(edge_features, pooling_layers)
        self.up = nn.ModuleList([NodeMatrix(2 * hidden, hidden, 4, outputs=2, normalize=normalize)])

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
        local_edge_index: Tensor | None = None,
        local_edge_attr: Tensor | None = None,
    ) -> ModelOutput:
        """Run the network; the inputs that are not named here are those of :meth:`Architecture.forward`.

        Parameters
        ----------
        local_edge_index : Tensor of int64, shape (2, E'), optional
            Edges of E-Pool and of the connectivity loss (bonds, say); ``edge_index`` by default.
        local_edge_attr : Tensor, shape (E', edge_features), optional
            Their attributes.

        Returns
        -------
        ModelOutput
            With ``clusters`` and ``connectivity_loss``.
        """
        self._refuse_vectors(vectors)
        of = systems_of(x, batch, systems)
        edges = self._edges(x, of, edge_index, edge_attr, edge_vector, edge_weight)
        local = edges
        if local_edge_index is not None:
            local = self._edges(x, of, local_edge_index, local_edge_attr, None, None, "local_edge_attr")
        run = self._as_published if self.published else self._as_in_the_paper
        return run(self.embedding(h), x, v, edges, local, of)

    def _as_in_the_paper(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, local: Edges, systems: Segments
    ) -> ModelOutput:
        origin = systems.spread(systems.mean(x))
        low = torch.stack([x - origin, v], dim=1)  # Z_i - Z̄
        h, low = _passed(self.low, h, low, edges, systems)
        scored, _ = _passed(self.pool, h, low, local, systems)
        clusters = Clusters(self.score(scored), systems)
        high = clusters.pool(low.flatten(1)).view(-1, 2, 3)
        connections = clusters.edges(clusters.connections(edges), high[:, 0])
        high_h, high = _passed(self.high, clusters.pool(h), high, connections, clusters.segments)
        spread = clusters.spread(high.flatten(1)).view(-1, 2, 3)  # Z_agg
        change, h = self.up[0](torch.cat([low, spread], dim=1), torch.cat([h, clusters.spread(high_h)], dim=1))
        x = origin + (spread + change)[:, 0]
        loss = connectivity_loss(clusters.connections(local))
        return ModelOutput(x=x, h=h, clusters=clusters.shares, connectivity_loss=loss)

    def _as_published(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, local: Edges, systems: Segments
    ) -> ModelOutput:
        assert isinstance(self.low, EGNN) and isinstance(self.high, EGNN)  # set in __init__
        moved = self.low.predict(h, x, v, None, edges, systems)
        h, push = moved.h, moved.x - x
        origin = systems.spread(systems.mean(x))
        scored, vectors = h, torch.stack([x - origin, push, v], dim=1)
        for layer in self.pool:
            scored, vectors = layer(scored, vectors, local)
        clusters = Clusters(self.score(scored), systems)
        high_x, high_v = clusters.pool(x - origin), clusters.pool(v)
        connections = clusters.edges(clusters.connections(edges), high_x)
        high = self.high.predict(clusters.pool(h), high_x, high_v, None, connections, clusters.segments)
        parts = [high.x - high_x, high_x, high_v, high.x]
        high_push, middle, drift, end = (clusters.spread(part) for part in parts)
        channels = torch.stack([high_push, x - origin - middle, v - drift, push], dim=1)
        scalars = torch.cat([h, clusters.spread(high.h)], dim=1)
        for layer in self.up:
            vector, scalars = layer(channels, scalars)
            channels = torch.cat([channels, vector], dim=1)
        loss = connectivity_loss(clusters.connections(local))
        return ModelOutput(
            x=origin + end + channels[:, -1], h=scalars, clusters=clusters.shares, connectivity_loss=loss
        )


def _passed(layers: nn.Module, h: Tensor, vectors: Tensor, edges: Edges, systems: Segments) -> tuple[Tensor, Tensor]:
    """Node features and vectors (N, K, 3), relative to the mean position that the layers were given, after them."""
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        # Z̄ is the mean of this layer's positions; vectors beside positions need none.
        centre = systems.spread(systems.mean(vectors[:, 0]))
        centred = torch.cat([(vectors[:, 0] - centre)[:, None], vectors[:, 1:]], dim=1)
        h, change = layer(h, centred, edges)
        vectors = vectors + change
    return h, vectors
