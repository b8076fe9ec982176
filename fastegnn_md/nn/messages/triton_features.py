"""Program of :mod:`fastegnn_md.propagator.edge_inputs`; its import needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def edge_inputs(
    vector, distance, hops, attributes, scaled, weight, edges, cutoff,
    FUNCTIONS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Radial functions and distance along bonds, vectors in units of the cutoff, and the envelope, of some edges."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, n = e < edges, tl.arange(0, WIDTH)
    r = tl.load(distance + e, mask=inside, other=1.0).to(tl.float32)
    # sin(πt) by its series for what is left of t beside the next whole number: that of the hardware is not precise.
    t = r[:, None] * ((n + 1).to(tl.float32) / cutoff)[None, :]
    whole = tl.floor(t + 0.5)
    part = 3.141592653589793 * (t - whole)
    square = part * part
    sine = -2.5052108e-8 * square + 2.7557319e-6
    sine = sine * square - 1.9841270e-4
    sine = sine * square + 8.3333333e-3
    sine = sine * square - 1.6666667e-1
    sine = part + part * square * sine
    odd = whole - 2.0 * tl.floor(0.5 * whole)
    value = (1.0 - 2.0 * odd) * sine / r[:, None]
    radial = n < FUNCTIONS
    bonded = (n >= FUNCTIONS) & (n < FUNCTIONS + 4)
    place = hops + e[:, None] * 4 + (n - FUNCTIONS)[None, :]
    value = tl.where(
        bonded[None, :], tl.load(place, mask=inside[:, None] & bonded[None, :], other=0).to(tl.float32), value
    )
    place = attributes + e[:, None] * (FUNCTIONS + 4) + n[None, :]
    tl.store(place, value, mask=inside[:, None] & (radial | bonded)[None, :])
    u = tl.where(r < cutoff, r / cutoff, 1.0)  # nothing at the cutoff, however divisions are rounded
    tl.store(weight + e, 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u), mask=inside)
    for axis in tl.static_range(3):
        one = tl.load(vector + e * 3 + axis, mask=inside, other=0.0).to(tl.float32)
        tl.store(scaled + e * 3 + axis, one / cutoff, mask=inside)
