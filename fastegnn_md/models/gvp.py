"""GVP-GNN: geometric vector perceptrons on scalar and vector channels of nodes and edges.

Jing, Eismann, Suriana, Townshend, Dror: Learning from Protein Structure with Geometric Vector Perceptrons. ICLR 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ..nn.edges import Edges
from ..nn.filters import Gaussians
from ..nn.virtual import safe_sqrt
from ..segments import Segments
from .architecture import Architecture, at_least_one
from .output import ModelOutput

_LEAST_NORM = 1e-8  # of squared norms, as in the published code
_EDGE_SCALARS, _EDGE_VECTORS = 32, 1  # of embedded edges; the published widths, one vector being the direction

Pair = tuple[Tensor, Tensor]  # scalars (M, s) and vectors (M, v, 3)
Widths = tuple[int, int]


class GVP(Architecture):
    """GVP-GNN whose output is a displacement: x_i + the first vector channel of node i after the last layer.

    Nodes start with h_i as scalars and v_i as vector, edges with Gaussians of |x_i-x_j| and a_ij as scalars and the
    direction of x_i-x_j as vector. Messages pass three perceptrons and are averaged (Eqs. 4 and 5 of the paper); two
    more act on each node.

    The baseline of the code of FastEGNN takes the positions themselves as a vector of the nodes and its output as the
    new positions, so it does not move with its input. It also normalises its input, and with it the speeds, and has
    dropout, which would draw from the global generator.

    Parameters
    ----------
    node_features : int
        Width of ``h``.
    edge_features : int
        Width of ``edge_attr``.
    hidden : int
        Number of scalar channels of nodes (published: 100).
    vectors : int
        Number of vector channels of nodes.
    vector_gate : bool
        Whether scalar channels gate vectors. Without, as in the paper and the published baseline, nothing that is
        learned of scalars (elements, distances, attributes) reaches the vectors, and so the positions.
    layers : int
        Number of layers.
    gaussians : int
        Number of Gaussians the distance is expanded in, at least 2.
    cutoff : float
        Centre of the last one, in the unit of positions.

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
        vectors: int = 16,
        vector_gate: bool = True,
        layers: int = 4,
        gaussians: int = 16,
        cutoff: float = 10.0,
    ):
        super().__init__()
        at_least_one(node_features=node_features, hidden=hidden, vectors=vectors)
        self.edge_features: int = edge_features
        self.expansion: Gaussians = Gaussians(gaussians, cutoff)
        width, edge = (hidden, vectors), (gaussians + edge_features, 1)
        self.node_embedding: Perceptron = Perceptron((node_features, 1), width, gate=vector_gate, active=False)
        self.edge_embedding: Perceptron = Perceptron(
            edge, (_EDGE_SCALARS, _EDGE_VECTORS), gate=vector_gate, active=False
        )
        self.layers: nn.ModuleList = nn.ModuleList(GVPLayer(width, vector_gate) for _ in range(layers))
        self.norm: PairNorm = PairNorm(hidden)
        self.readout: Perceptron = Perceptron(width, width, gate=vector_gate)

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the network; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        nodes = self.node_embedding((h, v[:, None]))
        for layer in self.layers:
            nodes = layer(nodes, x, edges, self.expansion, self.edge_embedding)
        scalars, channels = self.readout(self.norm(nodes))
        return ModelOutput(x=x + channels[:, 0], h=scalars)


class Perceptron(nn.Module):
    """One geometric vector perceptron (Algorithm 1 of the paper).

    V_h = W_h V;  s' = σ(s_m), s_m = W_m [|V_h|, s] + b;  V' = σ⁺(|W_μ V_h|) ∘ W_μ V_h;  σ is ReLU, σ⁺ the logistic
    function.

    With vector gates (Jing, Eismann, Soni, Dror, arXiv:2106.03843): V' = σ⁺(W_g σ⁺(s_m) + b_g) ∘ W_μ V_h.

    Parameters
    ----------
    inputs, outputs : tuple of int
        Numbers of scalar and of vector channels.
    gate : bool
        Whether there are vector gates.
    active : bool
        Whether σ and the σ⁺ inside act; without, and without gates, the map is linear in V.
    """

    def __init__(self, inputs: Widths, outputs: Widths, *, gate: bool, active: bool = True):
        super().__init__()
        between = max(inputs[1], outputs[1])
        self.active = active
        self.inner: nn.Linear = nn.Linear(inputs[1], between, bias=False)  # W_h
        self.outer: nn.Linear = nn.Linear(between, outputs[1], bias=False)  # W_μ
        self.scalar: nn.Linear = nn.Linear(inputs[0] + between, outputs[0])  # W_m
        self.gate: nn.Linear | None = nn.Linear(outputs[0], outputs[1]) if gate else None  # W_g

    def forward(self, pair: Pair) -> Pair:
        """Map scalars (M, s) and vectors (M, v, 3)."""
        scalars, vectors = pair
        hidden = self.inner(vectors.transpose(1, 2))
        scalars = self.scalar(torch.cat([scalars, _norm(hidden, 1)], dim=1))
        vectors = self.outer(hidden).transpose(1, 2)
        if self.gate is not None:
            vectors = vectors * self.gate(scalars.sigmoid() if self.active else scalars).sigmoid()[:, :, None]
        elif self.active:
            vectors = vectors * _norm(vectors, 2).sigmoid()[:, :, None]
        return (relu(scalars) if self.active else scalars), vectors


class GVPLayer(nn.Module):
    """Messages and the perceptrons of the nodes, each with a residual connection and normalisation."""

    def __init__(self, width: Widths, gate: bool):
        super().__init__()
        both = (2 * width[0] + _EDGE_SCALARS, 2 * width[1] + _EDGE_VECTORS)
        wide = (4 * width[0], 2 * width[1])
        self.message: nn.Sequential = nn.Sequential(
            Perceptron(both, width, gate=gate),
            Perceptron(width, width, gate=gate),
            Perceptron(width, width, gate=gate, active=False),
        )
        self.norms: nn.ModuleList = nn.ModuleList(PairNorm(width[0]) for _ in range(2))
        self.node: nn.Sequential = nn.Sequential(
            Perceptron(width, wide, gate=gate), Perceptron(wide, width, gate=gate, active=False)
        )

    def forward(self, nodes: Pair, x: Tensor, edges: Edges, expansion: Gaussians, embedding: Perceptron) -> Pair:
        """Return the new channels of the nodes."""

        def messages(receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor) -> Pair:
            distance = safe_sqrt(difference.square().sum(1, keepdim=True))
            direction = (difference / distance.clamp(min=1e-12))[:, None]
            scalars, vectors = embedding((torch.cat([expansion(distance), attributes], dim=1), direction))
            found: Pair = self.message(
                (
                    torch.cat([sender[0], scalars, receiver[0]], dim=1),
                    torch.cat([sender[1], vectors, receiver[1]], dim=1),
                )
            )
            return found

        modules = [self.message, embedding]
        received = [edges.averaged(total) for total in edges.sums(messages, x, nodes, nodes, modules)]
        nodes = self.norms[0]((nodes[0] + received[0], nodes[1] + received[1]))
        scalars, vectors = self.node(nodes)
        updated: Pair = self.norms[1]((nodes[0] + scalars, nodes[1] + vectors))
        return updated


class PairNorm(nn.Module):
    """Layer normalisation: scalars as usual, vectors divided by the root of their mean squared norm."""

    def __init__(self, scalars: int):
        super().__init__()
        self.scalars: nn.LayerNorm = nn.LayerNorm(scalars)

    def forward(self, pair: Pair) -> Pair:
        """Normalise scalars (M, s) and vectors (M, v, 3)."""
        scalars, vectors = pair
        square = vectors.square().sum(2).clamp(min=_LEAST_NORM).mean(1)
        return self.scalars(scalars), vectors / square.sqrt()[:, None, None]


def _norm(vectors: Tensor, dim: int) -> Tensor:
    return vectors.square().sum(dim).clamp(min=_LEAST_NORM).sqrt()
