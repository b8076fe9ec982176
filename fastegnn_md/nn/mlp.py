"""Small perceptrons that the message-passing blocks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

# Xavier gain of the last layer of a coordinate head: an untrained model starts near the identity (published value).
COORDINATE_GAIN = 1e-3


def activate(fresh: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else holds: in place where no gradient needs it."""
    return silu(fresh, inplace=not torch.is_grad_enabled())


class MLP(nn.Module):
    """Two linear layers with SiLU between them: ``second(silu(first(x)))``.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths.
    bias : bool
        Whether the second layer has a bias.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, bias: bool = True):
        super().__init__()
        self.first: nn.Linear = nn.Linear(inputs, hidden)
        self.second: nn.Linear = nn.Linear(hidden, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self.second(activate(self.first(x)))

    def finish(self, products: Tensor) -> Tensor:
        """Outputs (..., outputs) from the products of hidden values with the weight of the last layer."""
        return products if self.second.bias is None else products + self.second.bias


class CoordinateHead(MLP):
    """Scalar coefficients of an equivariant update, φx, φxv or φZ: inputs → hidden → outputs without bias.

    Parameters
    ----------
    inputs : int
        Width of the message.
    outputs : int
        Number of coefficients.
    hidden : int, optional
        Width between them, that of the message by default.
    tanh : bool
        Bound the coefficients to (-1, 1).
    """

    def __init__(self, inputs: int, outputs: int = 1, *, hidden: int | None = None, tanh: bool = False):
        super().__init__(inputs, hidden or inputs, outputs, bias=False)
        nn.init.xavier_uniform_(self.second.weight, gain=COORDINATE_GAIN)
        self.tanh = tanh

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self.finish(super().forward(x))

    def finish(self, products: Tensor) -> Tensor:
        """As :meth:`MLP.finish`; bounded where it is asked for."""
        return products.tanh() if self.tanh else products


class Attention(nn.Module):
    """Gate of a message by a scalar in (0, 1), as in the published code: ``m * sigmoid(linear(m))``."""

    def __init__(self, hidden: int):
        super().__init__()
        self.gate: nn.Linear = nn.Linear(hidden, 1)

    def forward(self, message: Tensor) -> Tensor:
        """Gate messages of shape (..., hidden)."""
        return message * self.gate(message).sigmoid()


def split_linear(layer: nn.Linear, parts: list[Tensor | None], sizes: list[int]) -> list[Tensor | None]:
    """Apply one linear layer to the concatenation of several inputs without making the concatenation.

    The first layer of an edge network acts on ``[h_i, h_j, e_ij]``. By linearity the node parts can be multiplied once
    per node and gathered afterwards, which costs N products instead of E.

    Parameters
    ----------
    layer : nn.Linear
        Layer of input width ``sum(sizes)``; its bias is left to the caller.
    parts : list of Tensor or None
        Inputs of shape (..., sizes[k]); None where the caller has nothing to multiply (width 0).
    sizes : list of int
        Widths of the parts.

    Returns
    -------
    list of Tensor or None
        The product of each part with its columns of the weight.
    """
    columns = layer.weight.split(sizes, dim=1)
    return [None if part is None else linear(part, column) for part, column in zip(parts, columns, strict=True)]
