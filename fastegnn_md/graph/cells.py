"""Cell lists on a GPU, by a Triton kernel that finds neighbours atom by atom, so that no pairs have to be sorted.

Atoms are put into bins at least as wide as the cutoff; one program compares those of a bin with those of the 27 around
it, first to count, then to write. The same call gives the same list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

_BLOCK = 16
_WIDER = 1 + 1e-6  # than the cutoff: an atom that rounding puts into the bin beside its own is still seen
_FEWEST = 3  # bins along a periodic direction: with two a neighbour would be met twice
_BINS_PER_ATOM = 4  # isolated atoms far apart would make any number


def serves(x: Tensor, boundary: Sequence[bool], heights: Sequence[float], cutoff: float) -> bool:
    """Whether the kernel is there for a system: on a GPU, without gradient, isolated or three cutoffs wide."""
    return (
        x.is_cuda
        and not (torch.is_grad_enabled() and x.requires_grad)
        and fits(boundary, heights, cutoff)
        and find_spec("triton") is not None
    )


def fits(boundary: Sequence[bool], heights: Sequence[float], cutoff: float) -> bool:
    """Whether a system is isolated, or periodic in all directions and three cutoffs high (Å) along each."""
    return not any(boundary) or (all(boundary) and min(heights) >= _FEWEST * _WIDER * cutoff)


def near_pairs(x: Tensor, cell: Tensor | None, heights: Sequence[float], cutoff: float) -> tuple[Tensor, Tensor]:
    """Pairs of one system and x_i - x_j, sorted by receiver.

    Parameters
    ----------
    x : Tensor, shape (n, 3), Å
    cell : Tensor, shape (3, 3), Å, or None
        Of a system that is periodic in all directions.
    heights : sequence of three float, Å
        Of the cell.
    cutoff : float, Å

    Returns
    -------
    tuple of Tensor, shapes (2, E), int64, and (E, 3)
    """
    from .triton_cells import near

    if cell is None:
        low, high = x.amin(0), x.amax(0)
        heights = (high - low).tolist()
        box = torch.diag((high - low).clamp(min=cutoff))
        place = (x - low) / box.diagonal()
    else:
        box, place = cell, x @ torch.linalg.inv(cell)
        image = place.floor()
        place, x = place - image, x - image @ cell
    bins = _bins(heights, cutoff, len(x))
    number = torch.tensor(bins, device=x.device)
    index = (place * number).long().clamp(min=0).minimum(number - 1)
    index = (index[:, 0] * bins[1] + index[:, 1]) * bins[2] + index[:, 2]
    order = index.argsort(stable=True)
    edges = torch.arange(math.prod(bins) + 1, device=x.device)
    starts = torch.searchsorted(index.index_select(0, order), edges)
    counts = torch.zeros_like(index)
    sorted_x, square = x.index_select(0, order), x.new_full((1,), cutoff).square()
    shared, grid = (sorted_x, order, starts, box.contiguous(), counts), (math.prod(bins),)
    options = {"PERIODIC": cell is not None, "BLOCK": _BLOCK, "num_warps": 2, "enable_fp_fusion": True}
    near[grid](*shared, None, None, None, None, *bins, square, FILL=False, **options)
    ends = counts.cumsum(0)
    found = torch.empty(2, int(ends[-1]), dtype=torch.int64, device=x.device)
    vector = x.new_empty(found.shape[1], 3)
    near[grid](*shared, ends - counts, found[0], found[1], vector, *bins, square, FILL=True, **options)
    return found, vector


def _bins(heights: Sequence[float], cutoff: float, atoms: int) -> list[int]:
    """Numbers of bins along the axes: wide enough, and not many more than atoms."""
    bins = [max(1, int(min(height / (_WIDER * cutoff), 1e6))) for height in heights]
    while math.prod(bins) > max(64, _BINS_PER_ATOM * atoms):
        widest = bins.index(max(bins))
        bins[widest] = -(-bins[widest] // 2)
    return bins
