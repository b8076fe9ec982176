"""Geometric graphs to learn from: systems of one split of a data set, and batches of them as networks take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import vesin
from torch import Tensor

from ...graph import shortest_edges
from ..datasets.water3d import Water3D

# From positions (n, 3) and the number of nodes of each system to receivers and senders (2, E), systems in order.
EdgeRule = Callable[[Tensor, Tensor], Tensor]
# From the nodes of a split that the ends of edges are, (2, E), to attributes (E, K) beside the length.
EdgeAttributes = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some systems, joined.

    Attributes
    ----------
    h, x, v : Tensor, shape (n, F), (n, 3), (n, 3)
        Node features, positions, velocities.
    edge_index : Tensor of int64, shape (2, E)
        Row 0 the receiver, row 1 the sender.
    edge_attr : Tensor, shape (E, K)
        Length of the edge in the first columns.
    batch : Tensor of int64, shape (n,)
        System of each node.
    systems : int
    target : Tensor, shape (n, 3)
        Positions to predict.
    local_edge_index, local_edge_attr : Tensor, shape (2, E'), (E', K), optional
        Those of the edges that a network pools along.
    sticks, hinges : Tensor of int64, shape (S, 2), (S', 3), optional
        Nodes of the sticks and, joint first, of the hinges.
    """

    h: Tensor
    x: Tensor
    v: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    systems: int
    target: Tensor
    local_edge_index: Tensor | None = None
    local_edge_attr: Tensor | None = None
    sticks: Tensor | None = None
    hinges: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor | int]:
        """Keywords of a network."""
        names = ("h", "x", "v", "edge_index", "edge_attr", "batch", "systems")
        further = ("local_edge_index", "local_edge_attr", "sticks", "hinges")
        given = tuple(name for name in further if getattr(self, name) is not None)
        return {name: getattr(self, name) for name in names + given}


class GraphSet:
    """Systems of one split, held in memory.

    Parameters
    ----------
    x, v, target : array, shape (sum of N, 3)
        Positions, velocities, and positions to predict, of all systems one after the other.
    h : array, shape (sum of N, F)
        Node features. Column 0 is |v| in the published tables.
    counts : array of int, shape (systems,)
        Nodes N of each system.
    edges : callable
        Which nodes are joined; see :data:`EdgeRule`.
    dropped : float
        Edge dropping rate p: the longest share p of the edges of each system is left out.
    attributes : callable, optional
        Attributes of edges beside their length, given the nodes they join. The last one is not 0 for the edges along
        which networks pool.
    sticks, hinges : array of int, shape (S, 2), (S', 3), optional
        Nodes, among those of all systems, of the pairs at a constant distance, and of the triples of a joint and two
        ends at constant distances from it; in the order of the systems.
    """

    x: Tensor
    v: Tensor
    target: Tensor
    h: Tensor
    dropped: float
    sticks: Tensor
    hinges: Tensor
    edges: EdgeRule
    attributes: EdgeAttributes | None

    def __init__(
        self,
        x: np.ndarray,
        v: np.ndarray,
        target: np.ndarray,
        h: np.ndarray,
        counts: np.ndarray,
        edges: EdgeRule,
        *,
        dropped: float = 0.0,
        attributes: EdgeAttributes | None = None,
        sticks: np.ndarray | None = None,
        hinges: np.ndarray | None = None,
    ):
        self.x, self.v, self.target, self.h = (_float32(one) for one in (x, v, target, h))
        self.counts: Tensor = torch.from_numpy(np.asarray(counts, dtype=np.int64))
        self.offsets: Tensor = torch.cat([self.counts.new_zeros(1), self.counts.cumsum(0)])
        self.edges, self.dropped, self.attributes = edges, dropped, attributes
        self.sticks, self.hinges = _objects(sticks, 2), _objects(hinges, 3)

    def __len__(self) -> int:
        return len(self.counts)

    def batch(
        self,
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        local: bool = False,
        objects: bool = False,
    ) -> Batch:
        """Some systems by their numbers, in that order.

        Parameters
        ----------
        indices : sequence of int
        device : device
        local : bool
            With the edges along which networks pool.
        objects : bool
            With sticks and hinges.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        counts = self.counts[chosen]
        system = torch.repeat_interleave(counts)
        begin = counts.cumsum(0) - counts
        nodes = torch.arange(int(counts.sum())) + (self.offsets[chosen] - begin)[system]
        x, v, target, h = (one.to(device) for one in self._at(chosen, nodes))
        system, counts = system.to(device), counts.to(device)
        if self.dropped < 1.0:
            index = self.edges(x, counts)
            square = (x[index[0]] - x[index[1]]).square().sum(1, keepdim=True)
            if self.dropped:
                keep = shortest_edges(square[:, 0], system[index[0]], self.dropped)
                index, square = index[:, keep], square[keep]
        else:
            index, square = system.new_zeros(2, 0), x.new_zeros(0, 1)
        # The published data sets give the length twice; the shapes of their networks follow from that.
        attributes = square.sqrt().expand(-1, 2)
        if self.attributes is not None:
            more = self.attributes(nodes[index.cpu()]).to(x)
            attributes = torch.cat([attributes, more], dim=1)
        further: dict[str, Tensor] = {}
        if local:
            near = attributes[:, -1].nonzero()[:, 0]
            further |= {"local_edge_index": index[:, near], "local_edge_attr": attributes.index_select(0, near)}
        if objects:
            for name, members in (("sticks", self.sticks), ("hinges", self.hinges)):
                further[name] = self._of_systems(members, chosen, begin).to(device)
        return Batch(h, x, v, index, attributes, system, len(chosen), target, **further)

    def _of_systems(self, members: Tensor, chosen: Tensor, begin: Tensor) -> Tensor:
        """Those of the objects (S, K) that are in some systems, by the nodes of a batch in which these begin there."""
        of = torch.bucketize(members[:, 0].contiguous(), self.offsets[1:], right=True)
        first = torch.searchsorted(of, chosen)
        taken = torch.searchsorted(of, chosen, right=True) - first
        rows = torch.arange(int(taken.sum())) + (first - (taken.cumsum(0) - taken)).repeat_interleave(taken)
        return members[rows] + (begin - self.offsets[chosen]).repeat_interleave(taken)[:, None]

    def _at(self, chosen: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x, v, target and h of some systems, ``nodes`` being where theirs lie among all."""
        return self.x[nodes], self.v[nodes], self.target[nodes], self.h[nodes]


class FluidGraphs(GraphSet):
    """Starts of Water-3D, read from the file when a batch asks for them.

    Parameters
    ----------
    fluid : Water3D
    edges : callable
    dropped : float
        As in :class:`GraphSet`. Node features are the speed and the particle type over the largest of them.
    """

    def __init__(self, fluid: Water3D, edges: EdgeRule, *, dropped: float = 0.0):
        nothing = np.zeros((0, 3))
        super().__init__(nothing, nothing, nothing, nothing, fluid.counts, edges, dropped=dropped)
        self.fluid = fluid

    def _at(self, chosen: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        starts = [self.fluid[int(index)] for index in chosen]
        x, v, target = (np.concatenate([start[part] for start in starts]) for part in range(3))
        kind = np.concatenate([one.particle_type / max(1.0, one.particle_type.max()) for one in starts])
        return _float32(x), _float32(v), _float32(target), _float32(with_speed(v, kind))


def with_speed(v: np.ndarray, invariant: np.ndarray) -> np.ndarray:
    """Node features of the published tables: |v| and one invariant (charge, type), shape (n, 2)."""
    return np.stack([np.linalg.norm(v, axis=1), invariant], axis=1)


def _float32(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _objects(members: np.ndarray | None, corners: int) -> Tensor:
    return torch.zeros(0, corners, dtype=torch.int64) if members is None else torch.from_numpy(np.int64(members))


def complete_graphs(x: Tensor, counts: Tensor) -> Tensor:
    """All ordered pairs of different nodes of each system."""
    begin = counts.cumsum(0) - counts
    nodes = torch.repeat_interleave(counts)  # system of each node
    partners = counts[nodes]
    receiver = torch.arange(len(nodes), device=x.device).repeat_interleave(partners)
    rank = torch.arange(len(receiver), device=x.device)
    rank = rank - (partners.cumsum(0) - partners).repeat_interleave(partners)
    sender = begin[nodes[receiver]] + rank
    different = receiver != sender
    return torch.stack([receiver[different], sender[different]])


def radius_graphs(radius: float) -> EdgeRule:
    """The rule that joins all pairs of a system closer than a radius, both ways, in the unit of the positions."""

    def edges(x: Tensor, counts: Tensor) -> Tensor:
        finder = vesin.NeighborList(cutoff=radius, full_list=True, sorted=True)
        found, begin = [], 0
        for count in counts.tolist():
            points = x[begin : begin + count].double().cpu().numpy()
            i, j = finder.compute(points=points, box=np.zeros((3, 3)), periodic=False, quantities="ij")
            found.append(np.stack([i, j]).astype(np.int64) + begin)
            begin += count
        return torch.from_numpy(np.concatenate(found, axis=1)).to(x.device)

    return edges


def given_edges(index: np.ndarray) -> EdgeRule:
    """The rule that joins the same nodes (2, E) in every system."""
    fixed = torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64))

    def edges(x: Tensor, counts: Tensor) -> Tensor:
        begin = counts.cumsum(0) - counts
        return (fixed.to(x.device)[:, None] + begin[None, :, None]).flatten(1)

    return edges
