"""Where molecules came to, without where they drifted, how they turned and which of like hydrogens is which."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mechanics.motion import centre_of_mass
from ..segments import Segments
from ..state import State


def aligned(start: State, end: State, rotors: Tensor) -> State:
    """The end of a pair turned and shifted onto its start, with the atoms of rotors numbered as they lie nearest.

    Rotations are proper ones and those of least Σ m |x − y|² (Kabsch 1976); atoms of a rotor are relabelled
    cyclically, which is a rotation about its bond and keeps handedness.

    Parameters
    ----------
    start, end : State
        The same isolated molecules.
    rotors : Tensor of int64, shape (R, 3)
        Three like atoms each, in any order.
    """
    assert start.batch is not None  # set by State
    systems, masses = Segments(start.batch, start.n_systems), start.masses[:, None]
    centre = centre_of_mass(start.positions, start)
    x, y = start.positions - centre, end.positions - centre_of_mass(end.positions, end)
    turned = turn_onto(x, y, masses, systems) + centre
    return end.replace(positions=_relabelled(start.positions, turned, rotors))


def turn_onto(x: Tensor, y: Tensor, masses: Tensor, systems: Segments) -> Tensor:
    """Centred positions y (N, 3) turned onto x, each system by a rotation of its own; masses (N, 1)."""
    covariance = systems.sum((masses * y)[:, :, None] * x[:, None, :]).double()
    u, _, vt = torch.linalg.svd(covariance)
    sign = torch.ones(len(u), 3, dtype=u.dtype, device=u.device)
    sign[:, 2] = torch.linalg.det(u @ vt).sign()
    rotation = (u * sign[:, None]) @ vt  # y R lies on x
    return torch.bmm(y[:, None], systems.spread(rotation.flatten(1)).view(-1, 3, 3).to(y.dtype))[:, 0]


def _relabelled(x: Tensor, y: Tensor, rotors: Tensor) -> Tensor:
    if not len(rotors):
        return y
    here, there = x[rotors], y[rotors]  # (R, 3, 3)
    turns = torch.stack([there.roll(-k, dims=1) for k in range(3)], dim=1)
    nearest = (turns - here[:, None]).square().sum(dim=(2, 3)).argmin(1)
    chosen = turns[torch.arange(len(rotors), device=x.device), nearest]
    return y.index_copy(0, rotors.flatten(), chosen.flatten(0, 1))
