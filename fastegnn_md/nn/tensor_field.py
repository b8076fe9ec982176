"""Layers of tensor field networks: features of several degrees, filters that are spherical harmonics.

Thomas, Smidt, Kearnes, Yang, Li, Kohlhoff, Riley: Tensor field networks: Rotation- and translation-equivariant neural
networks for 3D point clouds. 2018 (arXiv:1802.08219). Needs the extra ``tfn`` (e3nn), whose convention for harmonics is
used: those of degree 1 are x, y, z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .._extras import naming_extras
from .edges import Edges
from .filters import Gaussians
from .mlp import MLP
from .virtual import safe_sqrt

Features = dict[int, Tensor]  # by degree; of degree l they are (N, K_l, 2 l + 1)


class TensorFieldLayer(nn.Module):
    """Point convolution, self-interaction and nonlinearity.

    Convolution (Eq. 3 of the paper, averaged over the neighbours), for each path l_in ⊗ l_filter → l_out:

    Σ_j R(|r_ij|, a_ij) C Y_{l_filter}(r_ij) V_j,  r_ij = x_i - x_j,  C Clebsch-Gordan coefficients, R by channel

    Self-interaction: a linear map of the channels of each degree, of the node's own and of all paths. Nonlinearity:
    η(V) for degree 0 and η(|V| + b) V above, η = SiLU.

    All paths are there, also those through cross products: the layer turns with its input, but a mirror image of the
    input does not give the mirror image of the output.

    Parameters
    ----------
    channels, outputs : dict of int to int
        Number of input and of output channels of each degree.
    edge_features : int
        Width of a_ij.
    hidden : int
        Width of the radial network R.
    gaussians : int
        Number of Gaussians the distance is expanded in.
    cutoff : float
        Centre of the last Gaussian.
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
        gaussians: int,
        cutoff: float,
        active: bool = True,
    ):
        super().__init__()
        with naming_extras("a tensor field network"):
            from e3nn import o3
        self.paths: list[tuple[int, int, int]] = [
            (source, degree, target)
            for target in outputs
            for source in channels
            for degree in range(abs(source - target), source + target + 1)
        ]
        # Not buffers: a model converted to float64 must not keep values rounded to float32.
        self._coefficients = [
            o3.wigner_3j(*path, dtype=torch.float64, device="cpu") * (2 * path[2] + 1) ** 0.5 for path in self.paths
        ]
        self.sizes: list[int] = [channels[source] for source, _, _ in self.paths]
        self.expansion: Gaussians = Gaussians(gaussians, cutoff)
        self.radial: MLP = MLP(gaussians + edge_features, hidden, sum(self.sizes))
        incoming = {
            target: channels.get(target, 0) + sum(channels[path[0]] for path in self.paths if path[2] == target)
            for target in outputs
        }
        self.mix: nn.ModuleDict = nn.ModuleDict(
            {str(degree): nn.Linear(incoming[degree], count, bias=degree == 0) for degree, count in outputs.items()}
        )
        biases = {str(degree): nn.Parameter(torch.zeros(count)) for degree, count in outputs.items() if degree}
        self.bias: nn.ParameterDict | None = nn.ParameterDict(biases) if active else None

    def forward(self, features: Features, x: Tensor, edges: Edges) -> Features:
        """Map the features of the nodes, those of all degrees in ``channels``."""
        coefficients = [one.to(x) for one in self._coefficients]
        targets, highest = [int(degree) for degree in self.mix], max(degree for _, degree, _ in self.paths)
        degrees = list(features)

        def messages(
            receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor
        ) -> tuple[Tensor, ...]:
            distance = safe_sqrt(difference.square().sum(1, keepdim=True))
            values = harmonics(difference / distance.clamp(min=1e-12), highest)
            weights = self.radial(torch.cat([self.expansion(distance), attributes], dim=1)).split(self.sizes, dim=1)
            found: dict[int, list[Tensor]] = {target: [] for target in targets}
            for (source, degree, target), weight, coefficient in zip(self.paths, weights, coefficients, strict=True):
                filters = torch.einsum("em,amb->eab", values[degree], coefficient)
                found[target].append(weight[:, :, None] * torch.bmm(sender[degrees.index(source)], filters))
            return tuple(torch.cat(paths, dim=1) for paths in found.values())

        sums = edges.sums(messages, x, [], list(features.values()), [self.radial])
        return {
            target: self._interact(target, features, edges.averaged(total))
            for target, total in zip(targets, sums, strict=True)
        }

    def _interact(self, degree: int, features: Features, received: Tensor) -> Tensor:
        own = [features[degree]] if degree in features else []
        mixed = self.mix[str(degree)](torch.cat([*own, received], dim=1).transpose(1, 2)).transpose(1, 2)
        if self.bias is None:
            return mixed
        return norm_activated(mixed, self.bias[str(degree)] if degree else None)


def norm_activated(features: Tensor, bias: Tensor | None) -> Tensor:
    """η(V) for features (N, K, 1) without bias, degree 0, and η(|V| + b) V for those of a degree above, η = SiLU."""
    if bias is None:
        return silu(features)
    return silu(safe_sqrt(features.square().sum(2)) + bias)[:, :, None] * features


def harmonics(direction: Tensor, highest: int) -> list[Tensor]:
    """Spherical harmonics of degrees 0 to ``highest`` of unit vectors (E, 3), mean square 1 on the sphere."""
    from e3nn import o3

    degrees = list(range(highest + 1))
    values = o3.spherical_harmonics(degrees, direction, normalize=False, normalization="component")
    return list(values.split([2 * degree + 1 for degree in degrees], dim=1))
