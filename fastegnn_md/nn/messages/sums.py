"""Messages of edges, summed over the edges of each receiver, and what a head makes of each message.

The one place where most of the time of a network goes. The hidden values of edges fill memory and caches (those of
58,732 edges, 64 wide, are 15 MB, and a layer has six such tensors), so nothing of them is kept: edges are taken in
pieces that stay in the cache, and the backward pass computes them again (Chen et al., arXiv:1604.06174).

p = a_i + b_j + f_e W,  m = silu(W₂ silu(p) + b₂), gated by attention where there is one;
S_i = Σ_e w_e m_e,  c_e = W₄ silu(W₃ m_e + b₃)  or  c_e = W₄ m_e.

Three implementations give the same numbers: operations of torch, here; a C++ kernel for the CPU (:mod:`.cpu`),
once it has been compiled; and of the forward pass a Triton kernel for GPUs (:mod:`.gpu`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...segments import Segments
from .. import edge_sums
from ..message import EdgeMessage
from ..mlp import MLP
from . import cpu as cpu_kernel
from . import gpu as gpu_kernel
from .inputs import MessageInputs

# Devices that have autocast; asked here, as compilers of torch up to 2.12 cannot follow the question.
_MIXING = frozenset(name for name in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(name))


def message_sums(
    edge: EdgeMessage,
    head: nn.Linear | MLP,
    at_nodes: tuple[Tensor, Tensor],
    features: Tensor,
    weight: Tensor | None,
    edge_index: Tensor,
    receivers: Segments,
    into: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum messages over the edges of each receiver, and apply a head to each message.

    Parameters
    ----------
    edge : EdgeMessage
        φ1.
    head : nn.Linear or MLP
        What follows a message; of linear layers without bias.
    at_nodes : tuple of Tensor, shape (N, hidden)
        Of :meth:`EdgeMessage.at_nodes`.
    features : Tensor, shape (E, edge_features)
        Invariants of the edges.
    weight : Tensor, shape (E, 1), optional
        Factor of each message in the sum; the head sees messages without it.
    edge_index : Tensor of int64, shape (2, E)
        Row 0 the receiver, row 1 the sender; on a GPU sorted by receiver.
    receivers : Segments
        Row 0 among the N nodes.
    into : Tensor, shape (N, hidden), optional
        Sums over other edges to add to, where no gradient is recorded.

    Returns
    -------
    tuple of Tensor, shapes (N, hidden) and (E, outputs)
        Sums, and outputs of the head. They can be differentiated once.
    """
    gate = None if edge.attention is None else edge.attention.gate
    third, last = (head.first, head.second) if isinstance(head, MLP) else (None, head)
    inputs = MessageInputs(
        *at_nodes,
        features,
        weight,
        edge.column(),
        edge.second.weight.T,
        edge.second.bias,
        None if gate is None else gate.weight.T,
        None if gate is None else gate.bias,
        None if third is None else third.weight.T,
        None if third is None else third.bias,
        last.weight.T,
    )
    device = features.device.type
    mixed = device in _MIXING and torch.is_autocast_enabled(device)
    if mixed:  # of inference: products in half, sums in single precision
        dtype = torch.float32 if torch.is_grad_enabled() else torch.get_autocast_dtype(device)
        inputs = MessageInputs(*(None if one is None else one.to(dtype) for one in inputs))  # type: ignore[arg-type]
    with _without_autocast(device):
        sums, outputs = _compute(inputs, edge_index, receivers, into)
    return sums, head.finish(outputs) if isinstance(head, MLP) else outputs


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, enabled=False) if device in _MIXING else nullcontext()


def _compute(
    inputs: MessageInputs, edge_index: Tensor, receivers: Segments, into: Tensor | None
) -> tuple[Tensor, Tensor]:
    gradient = torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in inputs)
    # A compiler fuses what pieces keep in the cache, and would repeat its code for each of them.
    if torch.compiler.is_compiling() or (gradient and edge_index.shape[1] <= edge_sums.KEPT):
        return _plain(inputs, edge_index, receivers)
    if gradient:
        return _Recomputed.apply(edge_index, receivers, *inputs)
    return _forward(inputs, edge_index, receivers, into)


def _forward(
    inputs: MessageInputs, edge_index: Tensor, receivers: Segments, into: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    sums = into
    if sums is None:
        dtype = torch.promote_types(inputs.head.dtype, torch.float32)
        sums = torch.zeros_like(inputs.at_receiver, dtype=dtype, memory_format=torch.contiguous_format)
    if cpu_kernel.serves(inputs.head):
        return sums, cpu_kernel.forward(inputs, edge_index, sums)
    if gpu_kernel.serves(inputs):
        return sums, gpu_kernel.forward(inputs, edge_index, sums)
    return sums, _forward_in_pieces(inputs, edge_index, receivers, sums)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edge_index: Tensor, receivers: Segments, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.receivers = receivers
        ctx.save_for_backward(edge_index, *tensors)
        return _forward(MessageInputs(*tensors), edge_index, receivers)  # type: ignore[arg-type]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sums: Tensor, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        edge_index, *tensors = ctx.saved_tensors
        inputs = MessageInputs(*tensors)
        of_sums, of_outputs = of_sums.contiguous(), of_outputs.contiguous()
        with _without_autocast(of_sums.device.type):  # of whoever calls backward()
            if cpu_kernel.serves(inputs.head):
                return None, None, *cpu_kernel.backward(inputs, edge_index, of_sums, of_outputs)
            return None, None, *_backward_in_pieces(inputs, edge_index, ctx.receivers, of_sums, of_outputs)


class _Hidden:
    """Hidden values of some edges."""

    def __init__(self, inputs: MessageInputs, piece: slice, receivers: Segments, sender: Tensor):
        first = receivers.gather(inputs.at_receiver)
        first = first.add_(inputs.at_sender.index_select(0, sender))
        self.first_pre = first.addmm_(inputs.features[piece], inputs.column)
        self.first = nn.functional.silu(self.first_pre)
        self.second_pre = torch.addmm(inputs.second_bias, self.first, inputs.second)
        self.ungated = self.message = nn.functional.silu(self.second_pre)
        self.gate: Tensor | None = None
        if inputs.gate is not None and inputs.gate_bias is not None:
            self.gate = torch.addmm(inputs.gate_bias, self.ungated, inputs.gate).sigmoid_()
            self.message = self.ungated * self.gate
        self.last = self.message
        if inputs.third is not None and inputs.third_bias is not None:
            self.third_pre = torch.addmm(inputs.third_bias, self.message, inputs.third)
            self.last = nn.functional.silu(self.third_pre)


def _pieces(edge_index: Tensor, receivers: Segments) -> Iterator[tuple[slice, Segments, Tensor]]:
    senders = edge_index[1]
    pieces = edge_sums.pieces(senders)
    for piece, part in zip(pieces, receivers.parts(pieces), strict=True):
        yield piece, part, senders[piece]


def _forward_in_pieces(inputs: MessageInputs, edge_index: Tensor, receivers: Segments, sums: Tensor) -> Tensor:
    """Add to the sums, and return the outputs of the head."""
    outputs = sums.new_empty(edge_index.shape[1], inputs.head.shape[1])
    for piece, part, sender in _pieces(edge_index, receivers):
        hidden = _Hidden(inputs, piece, part, sender)
        weighted = hidden.message if inputs.weight is None else hidden.message * inputs.weight[piece]
        part.add_to(sums, weighted.to(sums.dtype))
        outputs[piece] = hidden.last @ inputs.head
    return outputs


def _backward_in_pieces(
    inputs: MessageInputs, edge_index: Tensor, receivers: Segments, of_sums: Tensor, of_outputs: Tensor
) -> tuple[Tensor | None, ...]:
    found = MessageInputs(*(None if one is None else torch.zeros_like(one) for one in inputs))  # type: ignore[arg-type]
    silu_backward = torch.ops.aten.silu_backward
    for piece, part, sender in _pieces(edge_index, receivers):
        hidden, given = _Hidden(inputs, piece, part, sender), of_outputs[piece]
        found.head.addmm_(hidden.last.T, given)
        of_message = given @ inputs.head.T
        if inputs.third is not None and found.third is not None and found.third_bias is not None:
            of_third = silu_backward(of_message, hidden.third_pre)
            found.third.addmm_(hidden.message.T, of_third)
            found.third_bias.add_(of_third.sum(0))
            of_message = of_third @ inputs.third.T
        of_sum = part.gather(of_sums)
        if inputs.weight is not None and found.weight is not None:
            found.weight[piece] = (of_sum * hidden.message).sum(1, keepdim=True)
            of_sum = of_sum.mul_(inputs.weight[piece])
        of_message = of_message.add_(of_sum)
        if hidden.gate is not None and inputs.gate is not None:
            assert found.gate is not None and found.gate_bias is not None  # as inputs.gate
            of_gate = (of_message * hidden.ungated).sum(1, keepdim=True) * hidden.gate * (1 - hidden.gate)
            found.gate.addmm_(hidden.ungated.T, of_gate)
            found.gate_bias.add_(of_gate.sum(0))
            of_message = of_message * hidden.gate + of_gate * inputs.gate.T
        of_second = silu_backward(of_message, hidden.second_pre)
        found.second.addmm_(hidden.first.T, of_second)
        found.second_bias.add_(of_second.sum(0))
        of_first = silu_backward(of_second @ inputs.second.T, hidden.first_pre)
        found.column.addmm_(inputs.features[piece].T, of_first)
        found.features[piece] = of_first @ inputs.column.T
        part.add_to(found.at_receiver, of_first)
        found.at_sender.index_add_(0, sender, of_first)
    return found


def _plain(inputs: MessageInputs, edge_index: Tensor, receivers: Segments) -> tuple[Tensor, Tensor]:
    """The formulas for all edges at once."""
    silu = nn.functional.silu
    pre = receivers.gather(inputs.at_receiver) + inputs.at_sender.index_select(0, edge_index[1])
    message = silu(silu(pre + inputs.features @ inputs.column) @ inputs.second + inputs.second_bias)
    if inputs.gate is not None and inputs.gate_bias is not None:
        message = message * (message @ inputs.gate + inputs.gate_bias).sigmoid()
    last = message
    if inputs.third is not None and inputs.third_bias is not None:
        last = silu(message @ inputs.third + inputs.third_bias)
    weighted = message if inputs.weight is None else message * inputs.weight
    return receivers.sum(weighted), last @ inputs.head
