"""Program of :mod:`.gpu`; its import needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


def launch(
    inputs: list[Tensor | None], rows: Tensor, sender: Tensor, sums: Tensor, outputs: Tensor, options: dict[str, int]
) -> None:
    """Run one program per receiver, for the fields of ``MessageInputs`` in their order."""
    at_receiver, at_sender, features, weight, column, second, second_bias, gate, gate_bias, third, third_bias, head = (
        inputs
    )
    assert features is not None and head is not None  # the optional ones are weight, gate and third
    nodes, hidden = sums.shape
    _message_sums[(nodes,)](
        at_receiver, at_sender, sender, features, weight, column, second, second_bias, gate, gate_bias, third,
        third_bias, head, rows, sums, outputs,
        HIDDEN=hidden, FEATURES=features.shape[1], WIDTH=head.shape[0], OUTPUTS=head.shape[1],
        WEIGHTED=weight is not None, GATED=gate is not None, DEEP=third is not None,
        enable_fp_fusion=True, **options,
    )  # fmt: skip


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _message_sums(
    at_receiver, at_sender, sender, features, weight, column, second, second_bias, gate, gate_bias, third, third_bias,
    head, rows, sums, outputs,
    HIDDEN: tl.constexpr, FEATURES: tl.constexpr, WIDTH: tl.constexpr, OUTPUTS: tl.constexpr,
    WEIGHTED: tl.constexpr, GATED: tl.constexpr, DEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    node = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, HIDDEN)
    begin, end = tl.load(rows + node), tl.load(rows + node + 1)
    own = tl.load(at_receiver + node * HIDDEN + k).to(tl.float32)
    w2 = tl.load(second + k[:, None] * HIDDEN + k[None, :])
    b2 = tl.load(second_bias + k).to(tl.float32)
    last_k = tl.arange(0, WIDTH)
    if DEEP:
        w3 = tl.load(third + k[:, None] * WIDTH + last_k[None, :])
        b3 = tl.load(third_bias + last_k).to(tl.float32)
    if GATED:
        gate_w, gate_b = tl.load(gate + k).to(tl.float32), tl.load(gate_bias).to(tl.float32)
    total = tl.load(sums + node * HIDDEN + k)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        inside = edge < end
        other = tl.load(sender + edge, mask=inside, other=0)
        pre = tl.load(at_sender + other[:, None] * HIDDEN + k[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        pre += own[None, :]
        for f in tl.static_range(FEATURES):
            value = tl.load(features + edge * FEATURES + f, mask=inside, other=0.0).to(tl.float32)
            pre += value[:, None] * tl.load(column + f * HIDDEN + k).to(tl.float32)[None, :]
        # Three products in TF32 have the precision of float32; operands in half precision ignore it.
        message = _silu(tl.dot(_silu(pre).to(w2.dtype), w2, input_precision="tf32x3") + b2[None, :])
        if GATED:
            message *= tl.sigmoid(tl.sum(message * gate_w[None, :], 1) + gate_b)[:, None]
        factor = inside.to(tl.float32)
        if WEIGHTED:
            factor = tl.load(weight + edge, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(message * factor[:, None], 0)
        last = message
        if DEEP:
            last = _silu(tl.dot(message.to(w3.dtype), w3, input_precision="tf32x3") + b3[None, :])
        for q in tl.static_range(OUTPUTS):
            product = tl.sum(last * tl.load(head + last_k * OUTPUTS + q).to(tl.float32)[None, :], 1)
            tl.store(outputs + edge * OUTPUTS + q, product, mask=inside)
    tl.store(sums + node * HIDDEN + k, total)
