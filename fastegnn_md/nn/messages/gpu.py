"""The Triton kernels for GPUs: gathering, perceptrons and sums of a receiver in one program.

One serves :mod:`.sums`. The other, :func:`carried`, is for networks with vector channels and makes the features of
edges and the vectors that they carry, too, so that nothing of the size of all edges is written.

The sum of a receiver is made by one program in the order of its edges: the same call gives the same bits.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..message import EdgeMessage
    from ..vectors import VectorChannels
    from .inputs import MessageInputs

# How programs are made, by the neighbours that a receiver has on average, after benchmarks/gpu_edges.py on an H100.
# They keep the weights close, so that loads in advance would only take their room.
_FEW = 24
FEW = {"BLOCK": 32, "num_warps": 2, "num_stages": 1}
MANY = {"BLOCK": 64, "num_warps": 4, "num_stages": 1}
HALF = {"BLOCK": 32, "num_warps": 4}  # of products in half precision, up to 128 wide
_PROGRAMS = 4096  # that share the receivers: enough for any GPU, each reads the weights once
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
    single = inputs.head.dtype == torch.float32
    options = _launch(len(receiver), len(sums)) if single else HALF
    triton_message_sums.launch(given, rows, sender.contiguous(), sums, outputs, options)
    return outputs


def _launch(edges: int, nodes: int) -> dict[str, int]:
    return FEW if edges <= _FEW * nodes else MANY


def carries(edge: EdgeMessage, channels: VectorChannels, given: Carried) -> bool:
    """Whether :func:`carried` is there for networks and tensors like these, of which no gradient is recorded."""
    return given.vectors.is_cuda and fits_carried(edge, channels, given) and find_spec("triton") is not None


def fits_carried(edge: EdgeMessage, channels: VectorChannels, given: Carried) -> bool:
    """Whether widths and precision are those of the kernel, wherever tensors are; half precision has the other one."""
    hidden, tensors = edge.second.weight.shape[0], (edge.second.weight, *given)
    return (
        edge.attention is None
        and hidden in _WIDTHS[torch.float32]
        and edge.first.weight.shape[1] - 2 * hidden <= 64
        and 2 * channels.channels <= 64
        and all(one is None or not one.is_floating_point() or one.dtype == torch.float32 for one in tensors)
    )


class Carried(NamedTuple):
    """Tensors of one call of :func:`carried`."""

    vectors: Tensor  # (N, K, 3)
    sender: Tensor  # (E,)
    rows: Tensor  # (N + 1,), first edge of each receiver
    vector: Tensor  # (E, 3), x_i - x_j
    attributes: Tensor  # (E, D)
    weight: Tensor | None  # (E, 1)


def carried(
    edge: EdgeMessage, channels: VectorChannels, at_nodes: tuple[Tensor, Tensor], given: Carried
) -> tuple[Tensor, Tensor]:
    """Sums of messages (N, H) and of the vectors that they carry (N, K, 3); see :func:`fastegnn_md.nn.real.carried`."""
    sums, found = carried_halves(edge, channels, at_nodes, given)
    return sums, found.sum(1)


def carried_halves(
    edge: EdgeMessage, channels: VectorChannels, at_nodes: tuple[Tensor, Tensor], given: Carried
) -> tuple[Tensor, Tensor]:
    """The same, with the vectors along edges and those of senders not yet added, (N, 2, K, 3)."""
    from .triton_carried import carried as program

    nodes, count = len(given.vectors), channels.channels
    hidden, attributes = edge.second.weight.shape[0], given.attributes.shape[1]
    sums = given.vectors.new_empty(nodes, hidden)
    found = given.vectors.new_empty(nodes, 2, count, 3)
    tensors = [*at_nodes, *given, edge.first.weight, edge.second.weight, edge.second.bias, channels.edge.weight]
    program[(min(nodes, _PROGRAMS),)](
        *(None if one is None else one.detach().contiguous() for one in tensors), sums, found, nodes,
        HIDDEN=hidden, CHANNELS=count, ATTRIBUTES=attributes, FEATURES=power_of_two(1 + 3 * count + attributes),
        OUTPUTS=power_of_two(2 * count), WEIGHTED=given.weight is not None,
        enable_fp_fusion=True, **_launch(len(given.sender), nodes),
    )  # fmt: skip
    return sums, found


def power_of_two(size: int) -> int:
    """At least what matrix units take."""
    return max(16, 1 << (size - 1).bit_length())
