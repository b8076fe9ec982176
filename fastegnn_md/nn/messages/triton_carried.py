"""Program of :func:`.gpu.carried`; its import needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def carried(
    at_receiver, at_sender, vectors, sender, rows, vector, attributes, weight,
    first, second, second_bias, head, sums, found, nodes,
    HIDDEN: tl.constexpr, CHANNELS: tl.constexpr, ATTRIBUTES: tl.constexpr, FEATURES: tl.constexpr,
    OUTPUTS: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Messages of the edges of some receivers, their sums (N, H), and sums (N, 2 K, 3) of what they carry.

    Features of an edge are the columns of a tile: the squared length; u_i·r̂, u_j·r̂ and u_i·u_j of each channel;
    attributes; zeros. Outputs of the head are K factors of r̂, K factors of the sender's vectors, and zeros.
    """
    k, f, q = tl.arange(0, HIDDEN), tl.arange(0, FEATURES), tl.arange(0, OUTPUTS)
    mine = (f >= 1) & (f <= CHANNELS)
    theirs = (f > CHANNELS) & (f <= 2 * CHANNELS)
    both = (f > 2 * CHANNELS) & (f <= 3 * CHANNELS)
    invariant = mine | theirs | both
    channel = tl.where(invariant, (f + CHANNELS - 1) % CHANNELS, 0)
    attribute = (f > 3 * CHANNELS) & (f <= 3 * CHANNELS + ATTRIBUTES)
    along, across = q < CHANNELS, (q >= CHANNELS) & (q < 2 * CHANNELS)
    # Weights as they are stored, (outputs, inputs): the first layer sees h_i, h_j and then the features.
    width = 2 * HIDDEN + 1 + 3 * CHANNELS + ATTRIBUTES
    w1 = tl.load(
        first + k[None, :] * width + 2 * HIDDEN + f[:, None], mask=(f <= 3 * CHANNELS + ATTRIBUTES)[:, None], other=0.0
    )
    w2 = tl.load(second + k[None, :] * HIDDEN + k[:, None])
    b2 = tl.load(second_bias + k)
    w3 = tl.load(head + q[None, :] * HIDDEN + k[:, None], mask=(q < 2 * CHANNELS)[None, :], other=0.0)
    for node in range(tl.program_id(0), nodes, tl.num_programs(0)):
        begin, end = tl.load(rows + node), tl.load(rows + node + 1)
        own = tl.load(at_receiver + node * HIDDEN + k)
        total = tl.zeros([HIDDEN], tl.float32)
        total_x, total_y, total_z = (
            tl.zeros([OUTPUTS], tl.float32), tl.zeros([OUTPUTS], tl.float32), tl.zeros([OUTPUTS], tl.float32)
        )  # fmt: skip
        for start in range(begin, end, BLOCK):
            edge = start + tl.arange(0, BLOCK)
            inside = edge < end
            other = tl.load(sender + edge, mask=inside, other=0)
            tile = tl.load(
                attributes + edge[:, None] * ATTRIBUTES + (f - 1 - 3 * CHANNELS)[None, :],
                mask=inside[:, None] & attribute[None, :], other=0.0,
            )  # fmt: skip
            unit_x = tl.load(vector + edge * 3, mask=inside, other=0.0)
            unit_y = tl.load(vector + edge * 3 + 1, mask=inside, other=0.0)
            unit_z = tl.load(vector + edge * 3 + 2, mask=inside, other=0.0)
            square = unit_x * unit_x + unit_y * unit_y + unit_z * unit_z
            tile += tl.where((f == 0)[None, :], square[:, None], 0.0)
            length = tl.maximum(tl.sqrt(square), 1e-12)
            unit_x, unit_y, unit_z = unit_x / length, unit_y / length, unit_z / length
            for axis in tl.static_range(3):
                unit = unit_x[:, None]
                if axis == 1:
                    unit = unit_y[:, None]
                if axis == 2:
                    unit = unit_z[:, None]
                here = tl.load(vectors + node * (3 * CHANNELS) + channel * 3 + axis)[None, :]
                there = tl.load(
                    vectors + other[:, None] * (3 * CHANNELS) + (channel * 3 + axis)[None, :],
                    mask=inside[:, None] & (theirs | both)[None, :], other=0.0,
                )  # fmt: skip
                product = tl.where(theirs[None, :], there, here) * tl.where(both[None, :], there, unit)
                tile += tl.where(invariant[None, :], product, 0.0)
            pre = tl.load(at_sender + other[:, None] * HIDDEN + k[None, :], mask=inside[:, None], other=0.0)
            # Three products in TF32 have the precision of float32.
            pre += own[None, :] + tl.dot(tile, w1, input_precision="tf32x3")
            message = _silu(tl.dot(_silu(pre), w2, input_precision="tf32x3") + b2[None, :])
            factor = inside.to(tl.float32)
            if WEIGHTED:
                factor = tl.load(weight + edge, mask=inside, other=0.0)
            message *= factor[:, None]
            total += tl.sum(message, 0)
            outputs = tl.dot(message, w3, input_precision="tf32x3")
            place = vectors + other[:, None] * (3 * CHANNELS) + ((q - CHANNELS) * 3)[None, :]
            taken = inside[:, None] & across[None, :]
            along_x = tl.where(along[None, :], unit_x[:, None], tl.load(place, mask=taken, other=0.0))
            along_y = tl.where(along[None, :], unit_y[:, None], tl.load(place + 1, mask=taken, other=0.0))
            along_z = tl.where(along[None, :], unit_z[:, None], tl.load(place + 2, mask=taken, other=0.0))
            total_x += tl.sum(outputs * along_x, 0)
            total_y += tl.sum(outputs * along_y, 0)
            total_z += tl.sum(outputs * along_z, 0)
        tl.store(sums + node * HIDDEN + k, total)
        place = found + node * (6 * CHANNELS) + q * 3
        inside = along | across
        tl.store(place, total_x, mask=inside)
        tl.store(place + 1, total_y, mask=inside)
        tl.store(place + 2, total_z, mask=inside)
