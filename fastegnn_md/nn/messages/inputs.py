"""What the implementations of message sums are given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MessageInputs(NamedTuple):
    """Tensors of one call; weights as products take them, (inputs, outputs)."""

    at_receiver: Tensor  # a, (N, H)
    at_sender: Tensor  # b, (N, H)
    features: Tensor  # f, (E, D)
    weight: Tensor | None  # w, (E, 1)
    column: Tensor  # W, (D, H)
    second: Tensor  # W₂, (H, H)
    second_bias: Tensor  # b₂, (H,)
    gate: Tensor | None  # of the attention, (H, 1)
    gate_bias: Tensor | None  # (1,)
    third: Tensor | None  # W₃, (H, H')
    third_bias: Tensor | None  # b₃, (H',)
    head: Tensor  # W₄, (H, Q) or (H', Q)
