"""The Triton kernel of :mod:`.sums` for GPUs: gathering, perceptrons and sums of a receiver in one program.

The sum of a receiver is made by one program in the order of its edges: the same call gives the same bits.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .inputs import MessageInputs

_BLOCK = 32  # edges of a receiver that a program takes at once
# Widths that matrix units take, and of which two matrices fit into the shared memory of a program.
_WIDTHS = {torch.float32: {16, 32, 64}, torch.bfloat16: {16, 32, 64, 128}, torch.float16: {16, 32, 64, 128}}


def fits(inputs: MessageInputs) -> bool:
    """Whether widths and precision of inputs like these are those of the kernel, wherever they are."""
    head = inputs.head
    return {inputs.second.shape[0], head.shape[0]} <= _WIDTHS.get(head.dtype, set())


def serves(inputs: MessageInputs) -> bool:
    """Whether the kernel is there for inputs like these."""
    return inputs.head.is_cuda and fits(inputs) and find_spec("triton") is not None


def forward(inputs: MessageInputs, edge_index: Tensor, sums: Tensor) -> Tensor:
    """Add to the sums (N, H), and return the outputs of the head (E, Q), of edges sorted by receiver."""
    from . import triton_program as triton_message_sums

    receiver, sender = edge_index
    outputs = sums.new_empty(len(receiver), inputs.head.shape[1])
    rows = torch.searchsorted(receiver, torch.arange(len(sums) + 1, device=receiver.device))
    given = [None if one is None else one.detach().contiguous() for one in inputs]
    triton_message_sums.launch(given, rows, sender.contiguous(), sums, outputs, _BLOCK)
    return outputs
