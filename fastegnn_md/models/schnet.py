"""SchNet, made to predict positions.

Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko, Müller: SchNet: A continuous-filter convolutional neural network for
modeling quantum interactions. NeurIPS 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.filters import FilterPull, Interaction
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput


class SchNet(Architecture):
    """SchNet's interaction blocks, each after a move of the positions along the differences to the neighbours.

    SchNet predicts energies. For tables of predicted positions the authors of FastEGNN let each layer move positions
    first, by the mean over the neighbours of (x_i-x_j) times a linear function of Gaussians, h_i and h_j; so does this
    network. Velocities are not used, as there. Distances are those of the positions that a layer finds, where the
    published baseline keeps those of the start.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``, an input of the filters beside the distance; the paper has none.
    hidden : int
        Width of node features.
    layers : int
        Number of interaction blocks.
    filters : int
        Width of the filters.
    gaussians : int
        Number of Gaussians the distance is expanded in, at least 2.
    cutoff : float
        Distance where the filters end, in the unit of positions.

    Raises
    ------
    ValueError
        If a width or number is below 1, or the Gaussians or the cutoff are out of range.
    """

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 64,
        layers: int = 4,
        filters: int = 128,
        gaussians: int = 50,
        cutoff: float = 10.0,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, filters=filters)
        self.edge_features: int = edge_features
        self.embedding: nn.Linear = nn.Linear(node_features, hidden)
        self.pulls: nn.ModuleList = nn.ModuleList(FilterPull(hidden, gaussians, cutoff) for _ in range(layers))
        self.interactions: nn.ModuleList = nn.ModuleList(
            Interaction(hidden, filters=filters, gaussians=gaussians, edge_features=edge_features, cutoff=cutoff)
            for _ in range(layers)
        )

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        h = self.embedding(h)
        for pull, interaction in zip(self.pulls, self.interactions, strict=True):
            h, x = interaction(h, x, edges), x + pull(h, x, v, edges)
        return ModelOutput(x=x, h=h)
