"""Programs of :mod:`fastegnn_md.nn.layers_on_gpu`, between the messages of two layers; their import needs Triton.

Weights are read as they are stored, (outputs, inputs). Three products in TF32 have the precision of float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _times(x, weight, first, width, k, j):
    """Products (M, outputs) of x (M, inputs) with the columns of a weight from the first one on."""
    return tl.dot(x, tl.load(weight + j[None, :] * width + first + k[:, None]), input_precision="tf32x3")


@triton.jit
def _times_few(x, weight, width, k, row, wanted):
    """The same with some rows of a weight alone, zeros elsewhere."""
    w = tl.load(weight + row[None, :] * width + k[:, None], mask=wanted[None, :], other=0.0)
    return tl.dot(x, w, input_precision="tf32x3")


@triton.jit
def virtual_messages(
    h, x, z, per_system, tile_system, tile_first, tile_last, atoms,
    first, second, second_bias, pull, pull_bias, pull_head, along, along_bias, messages, added, sums, pulls,
    HIDDEN: tl.constexpr, NODES: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr, WIDTH: tl.constexpr,
    GEOMETRY: tl.constexpr, SQUARED: tl.constexpr, SINGLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Messages of some atoms of one system with one of its virtual nodes, what they add to vectors, and their sums."""
    tile, c = tl.program_id(0), tl.program_id(1)
    if SINGLE:
        system = 0
        n = tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = n < atoms
    else:
        system = tl.load(tile_system + tile)
        n = tl.load(tile_first + tile) + tl.arange(0, BLOCK)
        inside = n < tl.load(tile_last + tile)
    k, q = tl.arange(0, HIDDEN), tl.arange(0, WIDE)
    node = tl.load(h + n[:, None] * HIDDEN + k[None, :], mask=inside[:, None], other=0.0)
    pre = _times(node, first, 0, WIDTH, k, k)
    pre += tl.load(per_system + (system * NODES + c) * HIDDEN + k)[None, :]
    if GEOMETRY:
        place = z + (system * NODES + c) * 3
        dx = tl.load(x + n * 3, mask=inside, other=0.0) - tl.load(place)
        dy = tl.load(x + n * 3 + 1, mask=inside, other=0.0) - tl.load(place + 1)
        dz = tl.load(x + n * 3 + 2, mask=inside, other=0.0) - tl.load(place + 2)
        distance = dx * dx + dy * dy + dz * dz
        if not SQUARED:
            distance = tl.sqrt(distance)
        pre += distance[:, None] * tl.load(first + k * WIDTH + 2 * HIDDEN)[None, :]
    message = _silu(_times(_silu(pre), second, 0, HIDDEN, k, k) + tl.load(second_bias + k)[None, :])
    tl.store(messages + (n[:, None] * NODES + c) * HIDDEN + k[None, :], message, mask=inside[:, None])
    tl.store(sums + (tile * NODES + c) * HIDDEN + k, tl.sum(tl.where(inside[:, None], message, 0.0), 0))
    if GEOMETRY:
        pulled = _silu(_times(message, pull, 0, HIDDEN, k, k) + tl.load(pull_bias + k)[None, :])
        factor = tl.where(inside, tl.sum(pulled * tl.load(pull_head + k)[None, :], 1), 0.0)
        place = pulls + (tile * NODES + c) * 3
        tl.store(place, -tl.sum(dx * factor, 0))
        tl.store(place + 1, -tl.sum(dy * factor, 0))
        tl.store(place + 2, -tl.sum(dz * factor, 0))
        wanted = q < CHANNELS
        factors = _times_few(message, along, HIDDEN, k, q, wanted)
        factors += tl.load(along_bias + q, mask=wanted, other=0.0)[None, :]
        place = added + ((n[:, None] * NODES + c) * CHANNELS + q[None, :]) * 3
        both = inside[:, None] & wanted[None, :]
        tl.store(place, factors * dx[:, None], mask=both)
        tl.store(place + 1, factors * dy[:, None], mask=both)
        tl.store(place + 2, factors * dz[:, None], mask=both)


@triton.jit
def update_atoms(
    h, vectors, received, found, messages, added,
    node, node_bias, node_second, node_second_bias, mix, mix_bias, mix_second, mix_second_bias, edge, edge_bias,
    new_h, new_vectors, at_receiver, at_sender, atoms, neighbours,
    HIDDEN: tl.constexpr, NODES: tl.constexpr, CHANNELS: tl.constexpr, WIDE: tl.constexpr, EDGE: tl.constexpr,
    GEOMETRY: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """New features or new vectors of some atoms; of features what they give to the edges of the next layer."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < atoms
    k, q = tl.arange(0, HIDDEN), tl.arange(0, WIDE)
    rows = n[:, None] * HIDDEN + k[None, :]
    own = tl.load(h + rows, mask=inside[:, None], other=0.0)
    if tl.program_id(1) == 0:
        width: tl.constexpr = (2 + NODES) * HIDDEN
        heard = tl.load(received + rows, mask=inside[:, None], other=0.0) / neighbours
        pre = tl.load(node_bias + k)[None, :] + _times(own, node, 0, width, k, k)
        pre += _times(heard, node, HIDDEN, width, k, k)
        for c in tl.static_range(NODES):
            message = tl.load(
                messages + (n[:, None] * NODES + c) * HIDDEN + k[None, :], mask=inside[:, None], other=0.0
            )
            pre += _times(message, node, (2 + c) * HIDDEN, width, k, k)
        new = own + _times(_silu(pre), node_second, 0, HIDDEN, k, k) + tl.load(node_second_bias + k)[None, :]
        tl.store(new_h + rows, new, mask=inside[:, None])
        if not LAST:
            receiver = _times(new, edge, 0, EDGE, k, k) + tl.load(edge_bias + k)[None, :]
            tl.store(at_receiver + rows, receiver, mask=inside[:, None])
            tl.store(at_sender + rows, _times(new, edge, HIDDEN, EDGE, k, k), mask=inside[:, None])
    else:
        wanted = q < CHANNELS
        both = inside[:, None] & wanted[None, :]
        place = n[:, None] * (3 * CHANNELS) + q[None, :] * 3
        sums = n[:, None] * (6 * CHANNELS) + q[None, :] * 3
        new_x = tl.load(vectors + place, mask=both, other=0.0)
        new_y = tl.load(vectors + place + 1, mask=both, other=0.0)
        new_z = tl.load(vectors + place + 2, mask=both, other=0.0)
        for half in tl.static_range(2):
            new_x += tl.load(found + sums + half * 3 * CHANNELS, mask=both, other=0.0) / neighbours
            new_y += tl.load(found + sums + half * 3 * CHANNELS + 1, mask=both, other=0.0) / neighbours
            new_z += tl.load(found + sums + half * 3 * CHANNELS + 2, mask=both, other=0.0) / neighbours
        hidden = _silu(_times(own, mix, 0, HIDDEN, k, k) + tl.load(mix_bias + k)[None, :])
        for other in tl.static_range(CHANNELS):
            row = q * CHANNELS + other
            factors = _times_few(hidden, mix_second, HIDDEN, k, row, wanted)
            factors += tl.load(mix_second_bias + row, mask=wanted, other=0.0)[None, :]
            theirs = vectors + n * (3 * CHANNELS) + other * 3
            new_x += factors * tl.load(theirs, mask=inside, other=0.0)[:, None]
            new_y += factors * tl.load(theirs + 1, mask=inside, other=0.0)[:, None]
            new_z += factors * tl.load(theirs + 2, mask=inside, other=0.0)[:, None]
        if GEOMETRY:
            for c in tl.static_range(NODES):
                more = added + ((n[:, None] * NODES + c) * CHANNELS + q[None, :]) * 3
                new_x += tl.load(more, mask=both, other=0.0) / NODES
                new_y += tl.load(more + 1, mask=both, other=0.0) / NODES
                new_z += tl.load(more + 2, mask=both, other=0.0) / NODES
        tl.store(new_vectors + place, new_x, mask=both)
        tl.store(new_vectors + place + 1, new_y, mask=both)
        tl.store(new_vectors + place + 2, new_z, mask=both)


@triton.jit
def update_systems(
    z, s, centre, sums, pulls, tiles, counts, all_tiles, atoms,
    feature, feature_bias, feature_second, feature_second_bias, first, first_bias, new_z, new_s, per_system,
    HIDDEN: tl.constexpr, NODES: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    GEOMETRY: tl.constexpr, SINGLE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """New virtual nodes of one system, and what the messages of the next layer take from them."""
    system = tl.program_id(0)
    c, k = tl.arange(0, ROWS), tl.arange(0, HIDDEN)
    wanted = c < NODES
    rows = (system * NODES + c)[:, None] * HIDDEN + k[None, :]
    mean = tl.zeros([ROWS, HIDDEN], tl.float32)
    x, y, w = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    if SINGLE:
        begin, end, count = 0, all_tiles, atoms * 1.0
    else:
        begin, end = tl.load(tiles + system), tl.load(tiles + system + 1)
        count = tl.load(counts + system).to(tl.float32)
    for tile in range(begin, end):
        mean += tl.load(sums + (tile * NODES + c)[:, None] * HIDDEN + k[None, :], mask=wanted[:, None], other=0.0)
        if GEOMETRY:
            place = pulls + (tile * NODES + c) * 3
            x += tl.load(place, mask=wanted, other=0.0)
            y += tl.load(place + 1, mask=wanted, other=0.0)
            w += tl.load(place + 2, mask=wanted, other=0.0)
    own = tl.load(s + rows, mask=wanted[:, None], other=0.0)
    pre = tl.load(feature_bias + k)[None, :] + _times(own, feature, 0, 2 * HIDDEN, k, k)
    pre += _times(mean / count, feature, HIDDEN, 2 * HIDDEN, k, k)
    new = own + _times(_silu(pre), feature_second, 0, HIDDEN, k, k) + tl.load(feature_second_bias + k)[None, :]
    tl.store(new_s + rows, new, mask=wanted[:, None])
    if GEOMETRY:
        place = (system * NODES + c) * 3
        x = x / count + tl.load(z + place, mask=wanted, other=0.0)
        y = y / count + tl.load(z + place + 1, mask=wanted, other=0.0)
        w = w / count + tl.load(z + place + 2, mask=wanted, other=0.0)
        tl.store(new_z + place, x, mask=wanted)
        tl.store(new_z + place + 1, y, mask=wanted)
        tl.store(new_z + place + 2, w, mask=wanted)
    if not LAST:
        given = tl.load(first_bias + k)[None, :] + _times(new, first, HIDDEN, WIDTH, k, k)
        if GEOMETRY:
            x -= tl.load(centre + system * 3)
            y -= tl.load(centre + system * 3 + 1)
            w -= tl.load(centre + system * 3 + 2)
            for other in tl.static_range(NODES):
                here = c == other
                mixing = x * tl.sum(tl.where(here, x, 0.0), 0) + y * tl.sum(tl.where(here, y, 0.0), 0)
                mixing += w * tl.sum(tl.where(here, w, 0.0), 0)
                given += mixing[:, None] * tl.load(first + k * WIDTH + 2 * HIDDEN + 1 + other)[None, :]
        tl.store(per_system + rows, given, mask=wanted[:, None])
