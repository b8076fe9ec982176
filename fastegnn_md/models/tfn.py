"""Tensor field network that predicts positions.

Thomas, Smidt, Kearnes, Yang, Li, Kohlhoff, Riley: Tensor field networks: Rotation- and translation-equivariant neural
networks for 3D point clouds. 2018 (arXiv:1802.08219).
"""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.tensor_field import TensorFieldLayer
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput


class TFN(Architecture):
    """Layers of :class:`~fastegnn_md.nn.tensor_field.TensorFieldLayer`; x_i + the vector that the last one gives.

    Features of degree 0 start as a linear map of h_i, those of degree 1 as multiples of v_i. The network turns and
    moves with its input; it is not equivariant under reflections. Needs the extra ``tfn`` (e3nn).

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``, an input of the radial networks.
    hidden : int
        Number of channels of each degree, and width of the radial networks.
    layers : int
        Number of layers.
    degrees : int
        Number of degrees, from 0 on; 2 (scalars and vectors) in the papers' tables.
    gaussians : int
        Number of Gaussians the distance is expanded in, at least 2.
    cutoff : float
        Centre of the last one, in the unit of positions.

    Raises
    ------
    ValueError
        If a width or number is below 1, there are fewer than 2 degrees, or the Gaussians are out of range.
    MissingDependencyError
        If e3nn is not installed.
    """

    handed = True

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 32,
        layers: int = 4,
        degrees: int = 2,
        gaussians: int = 16,
        cutoff: float = 10.0,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, layers=layers)
        if degrees < 2:
            raise ValueError(f"degrees is {degrees}; expected at least 2, for scalars and vectors")
        self.edge_features: int = edge_features
        self.scalars: nn.Linear = nn.Linear(node_features, hidden)
        self.vectors: nn.Linear = nn.Linear(1, hidden, bias=False)
        inner = dict.fromkeys(range(degrees), hidden)
        widths = [{0: hidden, 1: hidden}, *[inner] * (layers - 1), {0: hidden, 1: 1}]
        self.layers: nn.ModuleList = nn.ModuleList(
            TensorFieldLayer(
                widths[k],
                widths[k + 1],
                edge_features=edge_features,
                hidden=hidden,
                gaussians=gaussians,
                cutoff=cutoff,
                active=k + 1 < layers,
            )
            for k in range(layers)
        )

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        features = {0: self.scalars(h)[:, :, None], 1: self.vectors(v[:, :, None]).transpose(1, 2)}
        for layer in self.layers:
            features = layer(features, x, edges)
        return ModelOutput(x=x + features[1][:, 0], h=features[0][:, :, 0])
