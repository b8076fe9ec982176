"""GMN: forces between all particles, moved as isolated particles, sticks and hinges that keep their lengths.

Huang, Han, Rong, Xu, Sun, Huang: Equivariant Graph Mechanics Networks with Constraints. ICLR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..nn.matrices import products
from ..nn.message import EdgeMessage
from ..nn.mlp import MLP, CoordinateHead
from ..nn.real import pulls
from ..nn.rigid import Hinge, Stick, check_objects
from ..segments import Segments
from .architecture import Architecture, at_least_one, systems_of
from .output import ModelOutput

_NO_OBJECTS = "sticks and hinges are not kept in periodic systems: give no edge_vector, or neither sticks nor hinges"


class GMN(Architecture):
    """Graph mechanics network: every object has generalised coordinates q, which forces on its particles accelerate.

    m_ij = φ1(h_i, h_j, |x_i-x_j|², a_ij);   f_i = (1/|N(i)|) Σ_j (x_i-x_j) φx(m_ij)

    q̇ ← ψ(h) q̇ + q̈;   q ← q moved by q̇;   (x_i, v_i) from q and q̇;   h_i ← h_i + φh(h_i, Σ_j m_ij)

    - *Isolated particle:* q = x_i, q̈ = f_i.
    - *Stick* of two particles: q holds its middle and its direction. The middle has the acceleration ½ Σ_i φ(f_i), the
      angular acceleration is r × (f_1 - f_2) / 2|r|², r half the stick.
    - *Hinge* of a joint 0 and two ends: q holds the joint and the directions of the arms r_k = x_k - x_0. The joint has
      the acceleration a = ⅓ Σ_i φ(f_i, x_i - x_0, v_i - v_0), the arms have r_k × (f_k - a) / |r_k|².

    φ(Z) = Z MLP(ZᵀZ / ‖ZᵀZ‖). ψ is one network for velocities and another one for angular velocities. Its h is h_i for
    a particle and for the arm that ends there, and the sum of MLP(h_i) over all particles of an object for the velocity
    of an object and the angular velocity of a stick. The published code differs in this: pulls are cut to ±100, and the
    joint of a hinge is left out of that sum.

    Whatever the weights are, sticks and arms keep their lengths. Without sticks and hinges all particles are isolated.

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

    Raises
    ------
    ValueError
        If a width or number is below 1.
    """

    def __init__(self, *, node_features: int, edge_features: int = 0, hidden: int = 64, layers: int = 4):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, layers=layers)
        self.edge_features: int = edge_features
        self.embedding: nn.Linear = nn.Linear(node_features, hidden)
        self.layers: nn.ModuleList = nn.ModuleList(GMNLayer(edge_features, hidden) for _ in range(layers))

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
        sticks: Tensor | None = None,
        hinges: Tensor | None = None,
    ) -> ModelOutput:
        """Run the network; the inputs that are not named here are those of :meth:`Architecture.forward`.

        Parameters
        ----------
        sticks : Tensor of int64, shape (S, 2), optional
            The two particles of each stick; none by default.
        hinges : Tensor of int64, shape (S, 3), optional
            Joint and ends of each hinge; none by default.

        Returns
        -------
        ModelOutput

        Raises
        ------
        ValueError
            As :meth:`Architecture.forward`; if sticks or hinges have another shape or type, share a particle, or are
            given together with ``edge_vector``: they have no images.
        """
        self._refuse_vectors(vectors)
        check_objects(sticks, hinges)
        if edge_vector is not None and (sticks is not None or hinges is not None):
            raise ValueError(_NO_OBJECTS)
        edges = self._edges(x, systems_of(x, batch, systems), edge_index, edge_attr, edge_vector, edge_weight)
        return self._run(h, x, v, edges, sticks, hinges)

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network on isolated particles; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        return self._run(h, x, v, edges, None, None)

    def _run(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, sticks: Tensor | None, hinges: Tensor | None
    ) -> ModelOutput:
        h = self.embedding(h)
        for layer in self.layers:
            h, x, v = layer(h, x, v, edges, sticks, hinges)
        return ModelOutput(x=x, h=h)


class GMNLayer(nn.Module):
    """One layer; parameters as in :class:`GMN`."""

    def __init__(self, edge_features: int, hidden: int):
        super().__init__()
        self.edge: EdgeMessage = EdgeMessage(hidden, 1 + edge_features)  # φ1
        self.coordinate: CoordinateHead = CoordinateHead(hidden)  # φx
        self.node: MLP = MLP(2 * hidden, hidden, hidden)  # φh
        self.velocity: MLP = MLP(hidden, hidden, 1)  # ψ
        self.spin: MLP = MLP(hidden, hidden, 1)  # ψ of angular velocities
        self.body: MLP = MLP(hidden, hidden, hidden)  # to the features of an object
        self.stick: MLP = MLP(1, hidden, 1)  # φ of sticks
        self.hinge: MLP = MLP(9, hidden, 3)  # φ of hinges

    def forward(
        self, h: Tensor, x: Tensor, v: Tensor, edges: Edges, sticks: Tensor | None, hinges: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return h (N, H), x (N, 3) and v (N, 3); sticks (S, 2) and hinges (S, 3) as in :meth:`GMN.forward`."""
        received, pull = pulls(self.edge, self.coordinate, h, x, edges)
        force = edges.averaged(pull)
        new_v = self.velocity(h) * v + force
        new_x = x + new_v
        for nodes, move in ((sticks, self.move_sticks), (hinges, self.move_hinges)):
            if nodes is not None:
                moved_x, moved_v = move(*(one[nodes] for one in (h, x, v, force)))
                new_x = new_x.index_copy(0, nodes.flatten(), moved_x.flatten(0, 1))
                new_v = new_v.index_copy(0, nodes.flatten(), moved_v.flatten(0, 1))
        return h + self.node(torch.cat([h, received], dim=1)), new_x, new_v

    def move_sticks(self, h: Tensor, x: Tensor, v: Tensor, force: Tensor) -> tuple[Tensor, Tensor]:
        """New positions and velocities (S, 2, 3) of sticks, from features (S, 2, H), x, v and forces (S, 2, 3)."""
        stick, whole = Stick.assembled(x, v), self.body(h).sum(1)
        acceleration = _combined(self.stick, force.flatten(0, 1)[:, None]).view_as(force).mean(1)
        velocity = self.velocity(whole) * stick.velocity + acceleration
        spin = self.spin(whole) * stick.spin + stick.accelerations(force)
        return stick.moved(velocity, spin).particles()

    def move_hinges(self, h: Tensor, x: Tensor, v: Tensor, force: Tensor) -> tuple[Tensor, Tensor]:
        """New positions and velocities (S, 3, 3) of hinges, from features (S, 3, H), x, v and forces (S, 3, 3)."""
        hinge, whole = Hinge.assembled(x, v), self.body(h).sum(1)
        seen = torch.stack([force, x - x[:, :1], v - v[:, :1]], dim=2)
        acceleration = _combined(self.hinge, seen.flatten(0, 1)).view_as(force).mean(1)
        velocity = self.velocity(whole) * hinge.velocity + acceleration
        spins = self.spin(h[:, 1:]) * hinge.spins + hinge.accelerations(force, acceleration)
        return hinge.moved(velocity, spins).particles()


def _combined(network: MLP, vectors: Tensor) -> Tensor:
    """The vector Z MLP(ZᵀZ / ‖ZᵀZ‖), shape (M, 3), of vectors Z (M, K, 3)."""
    return (network(products(vectors, vectors))[:, :, None] * vectors).sum(1)
