"""Where the network has its origin: in the middle of each isolated system, nowhere in a periodic one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..segments import Segments


def centred(
    positions: Tensor, systems: Segments, *, periodic: bool, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """Origin of each system (B, 3), None for periodic ones, and positions about it (N, 3) for the network.

    Atoms of periodic systems all get the origin: the network then sees displacements and edge vectors only, and
    nothing depends on the image an atom is given in.
    """
    if periodic:
        return None, torch.zeros_like(positions, dtype=dtype)
    origin = systems.mean(positions)
    return origin, (positions - systems.spread(origin)).to(dtype)


def shifted_back(z: Tensor | None, origin: Tensor | None) -> Tensor | None:
    """Virtual nodes about the origins of their systems, where they belong."""
    return None if z is None or origin is None else z + origin[:, None].to(z.dtype)
