"""FastSchNet: SchNet's way of moving positions with ordered virtual nodes.

Zhang, Cen, Han, Zhang, Zhou, Huang: Improving Equivariant Graph Neural Networks on Large Geometric Graphs via Virtual
Nodes Learning. ICML 2024.
"""

from __future__ import annotations

from torch import nn

from ..nn.filters import FilterPull
from .fast import PullNetwork


class FastSchNet(PullNetwork):
    """FastEGNN in which the neighbours move an atom as :class:`~fastegnn_md.nn.filters.FilterPull` has it.

    x_i ← x_i + (1/|N(i)|) Σ_j (x_i-x_j) Linear(Gaussians of |x_i-x_j|, h_i, h_j) + (1/C) Σ_c (x_i-z_c) φxv(m_ic)

    Node features, virtual nodes and their features change as in FastEGNN; velocities are not used. This is the network
    of the published code, which computes an interaction block of SchNet in each layer as well and drops what it gives.

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
    """

    @staticmethod
    def make_pull(hidden: int, edge_features: int, gaussians: int, cutoff: float) -> nn.Module:
        """See :meth:`PullNetwork.make_pull`."""
        return FilterPull(hidden, gaussians, cutoff)
