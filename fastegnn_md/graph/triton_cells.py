"""Program of :mod:`.cells`; its import needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def near(
    x, order, starts, cell, counts, offsets, receiver, sender, vector, nx, ny, nz, square,
    PERIODIC: tl.constexpr, FILL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the neighbours of the atoms of one bin, or write them, atom by atom in the order of bins."""
    b = tl.program_id(0)
    bz, by, bx = b % nz, (b // nz) % ny, b // (ny * nz)
    begin, end = tl.load(starts + b), tl.load(starts + b + 1)
    for first in range(begin, end, BLOCK):
        i = first + tl.arange(0, BLOCK)
        here = i < end
        xi, yi, zi = (
            tl.load(x + 3 * i, mask=here, other=0.0),
            tl.load(x + 3 * i + 1, mask=here, other=0.0),
            tl.load(x + 3 * i + 2, mask=here, other=0.0),
        )
        own = tl.load(order + i, mask=here, other=0)
        place = tl.zeros([BLOCK], tl.int64)
        if FILL:
            place = tl.load(offsets + own, mask=here, other=0)
        for step in range(27):
            ox, oy, oz = bx + step // 9 - 1, by + (step // 3) % 3 - 1, bz + step % 3 - 1
            # By how many cells the image of that bin is away.
            sx = (ox >= nx).to(tl.int32) - (ox < 0).to(tl.int32)
            sy = (oy >= ny).to(tl.int32) - (oy < 0).to(tl.int32)
            sz = (oz >= nz).to(tl.int32) - (oz < 0).to(tl.int32)
            other = ((ox - sx * nx) * ny + oy - sy * ny) * nz + oz - sz * nz
            start, stop = tl.load(starts + other), tl.load(starts + other + 1)
            if not PERIODIC:
                stop = tl.where((sx == 0) & (sy == 0) & (sz == 0), stop, start)
            ax = sx * tl.load(cell) + sy * tl.load(cell + 3) + sz * tl.load(cell + 6)
            ay = sx * tl.load(cell + 1) + sy * tl.load(cell + 4) + sz * tl.load(cell + 7)
            az = sx * tl.load(cell + 2) + sy * tl.load(cell + 5) + sz * tl.load(cell + 8)
            for block in range(start, stop, BLOCK):
                j = block + tl.arange(0, BLOCK)
                there = j < stop
                dx = xi[:, None] - (tl.load(x + 3 * j, mask=there, other=0.0) + ax)[None, :]
                dy = yi[:, None] - (tl.load(x + 3 * j + 1, mask=there, other=0.0) + ay)[None, :]
                dz = zi[:, None] - (tl.load(x + 3 * j + 2, mask=there, other=0.0) + az)[None, :]
                close = dx * dx + dy * dy + dz * dz < tl.load(square)
                close = close & here[:, None] & there[None, :] & (i[:, None] != j[None, :])
                found = close.to(tl.int64)
                if FILL:
                    slot = place[:, None] + tl.cumsum(found, 1) - found
                    them = tl.load(order + j, mask=there, other=0)
                    tl.store(receiver + slot, own[:, None] + tl.zeros_like(slot), mask=close)
                    tl.store(sender + slot, them[None, :] + tl.zeros_like(slot), mask=close)
                    tl.store(vector + 3 * slot, dx, mask=close)
                    tl.store(vector + 3 * slot + 1, dy, mask=close)
                    tl.store(vector + 3 * slot + 2, dz, mask=close)
                place += tl.sum(found, 1)
        if not FILL:
            tl.store(counts + own, place, mask=here)
