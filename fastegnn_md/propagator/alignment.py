"""Where molecules came to, without where they drifted, how they turned and which of like hydrogens is which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..mechanics.motion import centre_of_mass
from ..segments import Segments
from ..state import State
from .rotors import Rotor


def aligned(start: State, end: State, rotors: Sequence[Rotor]) -> State:
    """The end of a pair turned and shifted onto its start, with like parts of rotors numbered as they lie nearest.

    Rotations are proper ones and those of least Σ m |x − y|² (Kabsch 1976); branches of a rotor are relabelled
    cyclically, which keeps handedness.

    Parameters
    ----------
    start, end : State
        The same isolated molecules.
    rotors : sequence of Rotor
        Those that hold others first.
    """
    assert start.batch is not None  # set by State
    systems, masses = Segments(start.batch, start.n_systems), start.masses[:, None]
    centre = centre_of_mass(start.positions, start)
    x, y = start.positions - centre, end.positions - centre_of_mass(end.positions, end)
    turned = turn_onto(x, y, masses, systems) + centre
    for rotor in rotors:
        turned = rotor.nearest(start.positions, turned)
    return end.replace(positions=turned)


def turn_onto(x: Tensor, y: Tensor, masses: Tensor, systems: Segments) -> Tensor:
    """Centred positions y (N, 3) turned onto x, each system by a rotation of its own; masses (N, 1)."""
    covariance = systems.sum((masses * y)[:, :, None] * x[:, None, :]).double()
    u, _, vt = torch.linalg.svd(covariance)
    sign = torch.ones(len(u), 3, dtype=u.dtype, device=u.device)
    sign[:, 2] = torch.linalg.det(u @ vt).sign()
    rotation = (u * sign[:, None]) @ vt  # y R lies on x
    return torch.bmm(y[:, None], systems.spread(rotation.flatten(1)).view(-1, 3, 3).to(y.dtype))[:, 0]
