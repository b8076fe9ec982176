"""Continuous-filter convolutions of SchNet.

Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko, Müller: SchNet: A continuous-filter convolutional neural network for
modeling quantum interactions. NeurIPS 2017.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from .edges import Edges
from .mlp import COORDINATE_GAIN
from .virtual import safe_sqrt


class Gaussians(nn.Module):
    """Expansion of distances in Gaussians exp(-(d-μ_k)²/2δ²), their centres μ_k a step δ apart from 0 to ``cutoff``.

    Parameters
    ----------
    count : int
        Number of Gaussians, at least 2.
    cutoff : float
        Centre of the last one, in the unit of positions.

    Raises
    ------
    ValueError
        If there are fewer than 2, or the cutoff is not positive.
    """

    count: int
    cutoff: float

    def __init__(self, count: int, cutoff: float):
        super().__init__()
        if count < 2 or cutoff <= 0:
            raise ValueError(f"gaussians is {count} and cutoff {cutoff}; expected at least 2 and more than 0")
        self.count, self.cutoff = count, cutoff

    def forward(self, distance: Tensor) -> Tensor:
        """Map (E, 1) to (E, count)."""
        # Made here: a buffer converted to float64 would keep centres rounded to float32.
        centre = torch.linspace(0.0, self.cutoff, self.count, dtype=distance.dtype, device=distance.device)
        return torch.exp((distance - centre).square() * (-0.5 * ((self.count - 1) / self.cutoff) ** 2))


class FilterPull(nn.Module):
    """Mean over the neighbours of (x_i-x_j) Linear(Gaussians of |x_i-x_j|, h_i, h_j): how SchNet moves positions here.

    Parameters
    ----------
    hidden : int
        Width of node features.
    gaussians : int
        Number of Gaussians.
    cutoff : float
        Centre of the last Gaussian.
    """

    def __init__(self, hidden: int, gaussians: int, cutoff: float):
        super().__init__()
        self.expansion: Gaussians = Gaussians(gaussians, cutoff)
        self.sizes: list[int] = [gaussians, hidden, hidden]
        self.weights: nn.Linear = nn.Linear(sum(self.sizes), 1)
        nn.init.xavier_uniform_(self.weights.weight, gain=COORDINATE_GAIN)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, edges: Edges) -> Tensor:
        """Return the change of the positions, shape (N, 3); velocities v (N, 3) play no part."""
        _, receiver, sender = self.weights.weight.split(self.sizes, dim=1)

        def messages(
            at_receiver: list[Tensor], at_sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor]:
            distance = safe_sqrt(difference.square().sum(1, keepdim=True))
            column = self.weights.weight[:, : self.sizes[0]]
            return (difference * (linear(self.expansion(distance), column) + at_receiver[0] + at_sender[0]),)

        at_nodes = linear(h, receiver, self.weights.bias), linear(h, sender)
        (pull,) = edges.sums(messages, x, [at_nodes[0]], [at_nodes[1]], [self.weights])
        return edges.averaged(pull)


class Interaction(nn.Module):
    """Interaction block: h_i ← h_i + Linear(ssp(Linear(Σ_j W(|x_i-x_j|) ∘ Linear(h_j)))).

    The filter W is a perceptron of the Gaussians and of the attributes of the edge, times ½(1 + cos(π d / cutoff)).

    Parameters
    ----------
    hidden, filters : int
        Widths of node features and of the filter.
    gaussians : int
        Number of Gaussians.
    edge_features : int
        Width of the attributes; the paper has none.
    cutoff : float
        Distance where the filter ends.
    """

    def __init__(self, hidden: int, *, filters: int, gaussians: int, edge_features: int, cutoff: float):
        super().__init__()
        self.cutoff = cutoff
        self.expansion: Gaussians = Gaussians(gaussians, cutoff)
        self.filter: nn.Sequential = nn.Sequential(
            nn.Linear(gaussians + edge_features, filters), ShiftedSoftplus(), nn.Linear(filters, filters)
        )
        self.inward: nn.Linear = nn.Linear(hidden, filters, bias=False)
        self.outward: nn.Sequential = nn.Sequential(
            nn.Linear(filters, hidden), ShiftedSoftplus(), nn.Linear(hidden, hidden)
        )

    def forward(self, h: Tensor, x: Tensor, edges: Edges) -> Tensor:
        """Return the new node features, shape (N, hidden)."""

        def messages(
            receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor]:
            distance = safe_sqrt(difference.square().sum(1, keepdim=True))
            envelope = 0.5 * (1 + torch.cos(distance.clamp(max=self.cutoff) * (math.pi / self.cutoff)))
            weights = self.filter(torch.cat([self.expansion(distance), attributes], dim=1)) * envelope
            return (sender[0] * weights,)

        (received,) = edges.sums(messages, x, [], [self.inward(h)], [self.filter])
        return h + self.outward(received)


class ShiftedSoftplus(nn.Module):
    """ln(½ eˣ + ½), SchNet's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to each element."""
        return softplus(x) - math.log(2.0)
