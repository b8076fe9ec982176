"""FastTFN: a tensor field network with ordered virtual nodes.

Zhang, Cen, Han, Zhang, Zhou, Huang: Improving Equivariant Graph Neural Networks on Large Geometric Graphs via Virtual
Nodes Learning. ICML 2024.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.tensor_field import TensorFieldLayer
from .fast import PullNetwork


class FastTFN(PullNetwork):
    """FastEGNN in which one layer of a tensor field network moves an atom.

    x_i ← x_i + TFN(h, v)_i + (1/C) Σ_c (x_i-z_c) φxv(m_ic), TFN a
    :class:`~fastegnn_md.nn.tensor_field.TensorFieldLayer` from h_i and v_i to one vector.

    Node features, virtual nodes and their features change as in FastEGNN. Like TFN it is not equivariant under
    reflections. In the published code the scalars of TFN are the charges, the same in every layer. Needs the extra
    ``tfn`` (e3nn).

    Parameters
    ----------
    node_features, edge_features, hidden, virtual_nodes, edge_dropping, form, virtual_geometry
        As in :class:`~fastegnn_md.models.FastEGNN`.
    layers : int
        Number of layers.
    gaussians : int
        Number of Gaussians the distance is expanded in, at least 2.
    cutoff : float
        Centre of the last one, in the unit of positions.

    Raises
    ------
    ValueError
        As :class:`~fastegnn_md.models.fast.FastNetwork`.
    MissingDependencyError
        If e3nn is not installed.
    """

    handed = True

    @staticmethod
    def make_pull(hidden: int, edge_features: int, gaussians: int, cutoff: float) -> nn.Module:
        """See :meth:`PullNetwork.make_pull`."""
        return TensorFieldPull(hidden, edge_features, gaussians, cutoff)


class TensorFieldPull(nn.Module):
    """One tensor field layer from h (degree 0) and v (degree 1) to a vector; parameters as in :class:`FastTFN`."""

    def __init__(self, hidden: int, edge_features: int, gaussians: int, cutoff: float):
        super().__init__()
        self.field: TensorFieldLayer = TensorFieldLayer(
            {0: hidden, 1: 1},
            {1: 1},
            edge_features=edge_features,
            hidden=hidden,
            gaussians=gaussians,
            cutoff=cutoff,
            active=False,
        )

    def forward(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> Tensor:
        """Return the change of the positions, shape (N, 3)."""
        return self.field({0: h[:, :, None], 1: v[:, None]}, x, edges)[1][:, 0]
