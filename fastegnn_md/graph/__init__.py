"""Neighbour lists and the invariant features of their edges."""

from .features import BondDistance, bessel_basis, cutoff_envelope, one_hot, shortest_edges
from .fixed import FixedEdges, FixedNeighbours
from .neighbours import EdgeList, NeighbourSearch, minimum_image, neighbour_list

__all__ = [
    "BondDistance",
    "EdgeList",
    "FixedEdges",
    "FixedNeighbours",
    "NeighbourSearch",
    "bessel_basis",
    "cutoff_envelope",
    "minimum_image",
    "neighbour_list",
    "one_hot",
    "shortest_edges",
]
