"""SE(3)-Transformer that predicts positions.

Fuchs, Worrall, Fischer, Welling: SE(3)-Transformers: 3D Roto-Translation Equivariant Attention Networks. NeurIPS 2020.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.attention import EdgeGeometry, EquivariantAttention
from ..nn.edges import Edges
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput


class SE3Transformer(Architecture):
    """Layers of :class:`~fastegnn_md.nn.attention.EquivariantAttention`; x_i + the vector that the last one gives.

    Features of degree 0 start as a linear map of h_i, those of degree 1 as multiples of v_i, as in TFN. The network
    turns and moves with its input; it is not equivariant under reflections. Needs the extra ``tfn`` (e3nn).

    Beside the published code: one radial network for all degrees of a layer in place of one for each pair, the
    nonlinearity of TFN, and attributes of edges beside their length.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``, an input of the radial networks.
    hidden : int
        Number of channels of each degree, in features, keys, queries and values.
    layers : int
        Number of layers.
    degrees : int
        Number of degrees, from 0 on, at least 2; the N-body experiment of the paper has 4, with 4 channels.
    heads : int
        Number of heads; a divisor of ``hidden``.

    Raises
    ------
    ValueError
        If a width or number is below 1, there are fewer than 2 degrees, or heads do not divide the channels.
    MissingDependencyError
        If e3nn is not installed.
    """

    handed = True
    positions_move = False

    def __init__(
        self,
        *,
        node_features: int,
        edge_features: int = 0,
        hidden: int = 16,
        layers: int = 4,
        degrees: int = 2,
        heads: int = 1,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, layers=layers, heads=heads)
        if degrees < 2:
            raise ValueError(f"degrees is {degrees}; expected at least 2, for scalars and vectors")
        if hidden % heads:
            raise ValueError(f"heads is {heads}; expected a divisor of hidden={hidden}")
        self.edge_features: int = edge_features
        self.scalars: nn.Linear = nn.Linear(node_features, hidden)
        self.vectors: nn.Linear = nn.Linear(1, hidden, bias=False)
        inner = dict.fromkeys(range(degrees), hidden)
        widths = [{0: hidden, 1: hidden}, *[inner] * (layers - 1), {0: hidden, 1: 1}]
        self.highest: int = max(max(widths[k]) + max(widths[k + 1]) for k in range(layers))
        self.layers: nn.ModuleList = nn.ModuleList(
            EquivariantAttention(
                widths[k],
                widths[k + 1],
                edge_features=edge_features,
                hidden=hidden,
                heads=heads,
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
        geometry = EdgeGeometry(edges, self.highest)
        for layer in self.layers:
            features = layer(features, geometry, edges)
        return ModelOutput(x=x + features[1][:, 0], h=features[0][:, :, 0])
