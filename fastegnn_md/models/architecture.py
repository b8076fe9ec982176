"""What all architectures share: the keywords they are called with."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.scatter import Segments
from .output import ModelOutput


class Architecture(nn.Module):
    """A network from node features, positions and velocities to new positions.

    A subclass sets ``edge_features`` and writes :meth:`predict`. Inputs are never modified.

    Attributes
    ----------
    edge_features : int or None
        Width of ``edge_attr``; None for a network that takes no notice of edges.
    positions_move : bool
        Whether layers see the positions that layers before them have moved.
    isolated_only : bool
        Whether positions matter beside edge vectors, by themselves or by their mean, even without virtual geometry.
    handed : bool
        Whether the network tells a mirror image from its original: it is not equivariant under reflections.
    """

    edge_features: int | None = None
    positions_move: bool = True
    isolated_only: ClassVar[bool] = False
    handed: ClassVar[bool] = False

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
            Further input vectors (forces), for models with vector channels.
        edge_vector : Tensor, shape (E, 3), optional
            x_i - x_j of each edge by minimum image; the difference of ``x`` by default.
        edge_weight : Tensor, shape (E,), optional
            Cutoff envelope that multiplies every message.

        Returns
        -------
        ModelOutput

        Raises
        ------
        ValueError
            If ``edge_attr`` has another width than the model, or ``vectors`` are given to a model that takes none.
        """
        graphs = systems_of(x, batch, systems)
        edges = self._edges(x, graphs, edge_index, edge_attr, edge_vector, edge_weight)
        return self.predict(h, x, v, vectors, edges, graphs)

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network on inputs that :meth:`forward` has checked.

        Parameters
        ----------
        h, x, v, vectors : Tensor
            As in :meth:`forward`.
        edges : Edges
            The real graph.
        systems : Segments
            System of each node.
        """
        raise NotImplementedError

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
        if edge_attr is None or self.edge_features is None:
            edge_attr = x.new_zeros(edge_index.shape[1], 0)
        if edge_attr.shape[1] != (self.edge_features or 0):
            raise ValueError(f"{name} has {edge_attr.shape[1]} columns; this model has {self.edge_features}")
        return Edges(edge_index, edge_attr, edge_vector, edge_weight, x, positions_move=self.positions_move)

    def _refuse_vectors(self, vectors: Tensor | None) -> None:
        if vectors is not None:
            raise ValueError(f"{type(self).__name__} takes no vectors beside v here; give vectors=None")


def at_least_one(**sizes: int) -> None:
    """Refuse widths and numbers below 1.

    Raises
    ------
    ValueError
        With the name and the value of the first that is.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")


def check_form(form: str) -> None:
    """Refuse a form other than ``"paper"`` and ``"published"``."""
    if form not in ("paper", "published"):
        raise ValueError(f"form is {form!r}; expected 'paper' or 'published'")


def systems_of(x: Tensor, batch: Tensor | None, systems: int | None) -> Segments:
    """System of each node, from what :meth:`Architecture.forward` was given."""
    if batch is None:
        return Segments(x.new_zeros(x.shape[0], dtype=torch.int64), 1)
    return Segments(batch, int(batch[-1]) + 1 if systems is None else systems)
