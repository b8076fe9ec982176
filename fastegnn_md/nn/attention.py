"""Attention of SE(3)-Transformers: features of several degrees, weighed by how well keys of edges fit queries of nodes.

Fuchs, Worrall, Fischer, Welling: SE(3)-Transformers: 3D Roto-Translation Equivariant Attention Networks. NeurIPS 2020.
Needs the extra ``tfn`` (e3nn), whose convention for harmonics is used: those of degree 1 are x, y, z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._extras import naming_extras
from ..segments import Segments
from .edge_sums import sum_over_edges
from .edges import Edges
from .tensor_field import Features, harmonics, norm_activated
from .virtual import safe_sqrt

_RADIAL = 32  # width of radial networks in the published code


class EdgeGeometry:
    """What the layers of one call see of the edges.

    Attributes
    ----------
    invariants : Tensor, shape (E, 1 + edge_features)
        |r_ij| and the attributes, r_ij = x_i - x_j.
    harmonics : Tensor, shape (E, (highest + 1)²)
        Spherical harmonics of r_ij, degree after degree.
    """

    def __init__(self, edges: Edges, highest: int):
        direction = edges.direction
        assert direction is not None  # positions do not move in these networks
        self.invariants: Tensor = torch.cat([safe_sqrt(direction[1]), edges.attributes], dim=1)
        self.harmonics: Tensor = torch.cat(harmonics(direction[0], highest), dim=1)


class EquivariantKernel(nn.Module):
    """Linear maps from the features of a node to those of another, one for each edge (Eqs. 8 and 9 of the paper).

    W^lk(r) = Σ_J φ_J^lk(|r|, a) Σ_m Y_Jm(r) C_Jm^lk from degree k to degree l, C Clebsch-Gordan coefficients. The φ are
    matrices from channels to channels, the outputs of one network of two hidden layers, each with layer normalisation.
    Coefficients are scaled so that outputs are as large as inputs where elements of φ have a mean square of 1.

    Parameters
    ----------
    channels, outputs : dict of int to int
        Number of input and of output channels of each degree.
    invariants : int
        Number of invariants of an edge, its length among them.

    Raises
    ------
    MissingDependencyError
        If e3nn is not installed.
    """

    channels: dict[int, int]
    outputs: dict[int, int]

    def __init__(self, channels: dict[int, int], outputs: dict[int, int], invariants: int):
        super().__init__()
        with naming_extras("an SE(3)-Transformer"):
            from e3nn import o3
        self.paths: dict[int, list[tuple[int, int]]] = {
            target: [
                (source, degree) for source in channels for degree in range(abs(source - target), source + target + 1)
            ]
            for target in outputs
        }
        # Not buffers: a model converted to float64 must not keep values rounded to float32.
        self._coefficients = {
            target: [
                o3.wigner_3j(source, degree, target, dtype=torch.float64, device="cpu")
                * ((2 * target + 1) / sum(channels[one] for one, _ in paths)) ** 0.5
                for source, degree in paths
            ]
            for target, paths in self.paths.items()
        }
        self.channels, self.outputs = channels, outputs
        self.sizes: list[int] = [
            outputs[target] * sum(channels[source] for source, _ in paths) for target, paths in self.paths.items()
        ]
        self.radial: nn.Sequential = nn.Sequential(
            nn.Linear(invariants, _RADIAL),
            nn.LayerNorm(_RADIAL),
            nn.ReLU(),
            nn.Linear(_RADIAL, _RADIAL),
            nn.LayerNorm(_RADIAL),
            nn.ReLU(),
            nn.Linear(_RADIAL, sum(self.sizes)),
        )

    def forward(self, sender: list[Tensor], invariants: Tensor, values: Tensor) -> list[Tensor]:
        """Map features of the senders of E edges, (E, channels, 2k + 1) for each degree, to (E, outputs, 2l + 1)."""
        found, place = [], {source: number for number, source in enumerate(self.channels)}
        weights = self.radial(invariants).split(self.sizes, dim=1)
        for (target, paths), weight in zip(self.paths.items(), weights, strict=True):
            turned = [
                torch.bmm(
                    sender[place[source]],
                    torch.einsum("em,amb->eab", values[:, degree**2 : (degree + 1) ** 2], coefficient.to(values)),
                )
                for (source, degree), coefficient in zip(paths, self._coefficients[target], strict=True)
            ]
            found.append(torch.bmm(weight.unflatten(1, (self.outputs[target], -1)), torch.cat(turned, dim=1)))
        return found


class EquivariantAttention(nn.Module):
    """One layer (Eqs. 10 to 12): attention, self-interaction, nonlinearity.

    f_i^l ← W^l (f_i^l, Σ_j α_ij Σ_k W_V^lk(r_ij) f_j^k),   α_ij = softmax over j of q_i · k_ij / √dim

    q_i are linear maps of the channels of f_i, k_ij = Σ_k W_K^lk(r_ij) f_j^k, degrees joined; each of several heads has
    its share of the channels. Nonlinearity: as in :class:`~fastegnn_md.nn.tensor_field.TensorFieldLayer`.

    A cutoff envelope w_ij multiplies exp(q_i · k_ij) in the softmax, and the message: that of an only neighbour, too,
    goes to zero as it leaves.

    Parameters
    ----------
    channels, outputs : dict of int to int
        Number of input and of output channels of each degree.
    edge_features : int
        Width of the attributes of edges.
    hidden : int
        Channels of keys, queries and values, of each degree.
    heads : int
        Number of heads, which ``hidden`` is divided among.
    active : bool
        Whether the nonlinearity acts.

    Raises
    ------
    MissingDependencyError
        If e3nn is not installed.
    """

    def __init__(
        self,
        channels: dict[int, int],
        outputs: dict[int, int],
        *,
        edge_features: int,
        hidden: int,
        heads: int,
        active: bool,
    ):
        super().__init__()
        self.heads = heads
        self.keys: EquivariantKernel = EquivariantKernel(channels, dict.fromkeys(channels, hidden), 1 + edge_features)
        self.values: EquivariantKernel = EquivariantKernel(channels, dict.fromkeys(outputs, hidden), 1 + edge_features)
        self.queries: nn.ModuleDict = nn.ModuleDict(
            {str(degree): nn.Linear(count, hidden, bias=False) for degree, count in channels.items()}
        )
        self.mix: nn.ModuleDict = nn.ModuleDict(
            {
                str(degree): nn.Linear(hidden + channels.get(degree, 0), count, bias=degree == 0)
                for degree, count in outputs.items()
            }
        )
        biases = {str(degree): nn.Parameter(torch.zeros(count)) for degree, count in outputs.items() if degree}
        self.bias: nn.ParameterDict | None = nn.ParameterDict(biases) if active else None

    def forward(self, features: Features, geometry: EdgeGeometry, edges: Edges) -> Features:
        """Map the features of the nodes, those of all degrees in ``channels``."""
        senders, given = edges.index[1], list(features.values())
        queries = [_mixed(self.queries[str(degree)], one) for degree, one in features.items()]
        query = edges.receivers.gather(self._by_heads(queries))

        def scores(receiver: list[Tensor], sender: list[Tensor], edge: list[Tensor]) -> tuple[Tensor]:
            key = self._by_heads(self.keys(sender, edge[0], edge[1]))
            return ((key * edge[2]).sum(2) * edge[2].shape[2] ** -0.5,)

        def messages(receiver: list[Tensor], sender: list[Tensor], edge: list[Tensor]) -> tuple[Tensor, ...]:
            values = self.values(sender, edge[0], edge[1])
            return tuple(
                (value.unflatten(1, (self.heads, -1)) * edge[2][:, :, None, None]).flatten(1, 2) for value in values
            )

        seen = [geometry.invariants, geometry.harmonics]
        alone = Segments(torch.arange(len(senders), device=senders.device), len(senders))  # each edge its own sum
        (fit,) = sum_over_edges(scores, alone, senders, [], given, [*seen, query], [self.keys])
        weight = edges.weight[0] if edges.weight else None
        share = shares(fit, edges.receivers, weight)
        if weight is not None:
            share = share * weight
        sums = sum_over_edges(messages, edges.receivers, senders, [], given, [*seen, share], [self.values])
        return {
            int(degree): self._interact(degree, mix, features.get(int(degree)), total)
            for (degree, mix), total in zip(self.mix.items(), sums, strict=True)
        }

    def _by_heads(self, features: list[Tensor]) -> Tensor:
        """Features (M, hidden, 2l + 1) of several degrees as (M, heads, all that belongs to one head)."""
        return torch.cat([one.unflatten(1, (self.heads, -1)).flatten(2) for one in features], dim=2)

    def _interact(self, degree: str, mix: nn.Module, own: Tensor | None, received: Tensor) -> Tensor:
        mixed = _mixed(mix, received if own is None else torch.cat([own, received], dim=1))
        if self.bias is None:
            return mixed
        return norm_activated(mixed, None if degree == "0" else self.bias[degree])


def shares(scores: Tensor, receivers: Segments, weight: Tensor | None) -> Tensor:
    """Softmax of scores (E, H) over the edges of each receiver, with exp(score) times a weight (E, 1)."""
    index = receivers.index[:, None].expand_as(scores)
    lowest = scores.new_full((receivers.size, scores.shape[1]), -torch.inf)
    highest = lowest.scatter_reduce(0, index, scores.detach(), "amax")
    share = (scores - highest.gather(0, index)).exp()
    if weight is not None:
        share = share * weight
    total = receivers.gather(receivers.sum(share))
    return share / total.clamp(min=torch.finfo(total.dtype).tiny)


def _mixed(layer: nn.Module, features: Tensor) -> Tensor:
    """Channels of features (N, K, 2l + 1) mixed by a linear layer."""
    return layer(features.transpose(1, 2)).transpose(1, 2)
