"""Whether a geometry to start from can be one of its molecule at all, before a step is made from it."""

from __future__ import annotations

from dataclasses import replace

import torch

from fastegnn_md.errors import DataError
from fastegnn_md.propagator.limits import JumpLimits, bond_vectors
from fastegnn_md.propagator.provenance import symbol_of
from fastegnn_md.state import State

from .ranges import Ranges

_BEYOND = 2.0  # times the longest or shortest bond of training: what is strained before a minimisation is within


def check_start(name: str, state: State, limits: JumpLimits, mistaken: str = "nm in place of Å") -> None:
    """Refuse coordinates in other units or of atoms in another order.

    Guards would refuse each jump from there, and classical steps fly apart, which says nothing of the reason.

    Parameters
    ----------
    name : str
        What the geometry is called, for the message.
    state : State
        Its bonds are looked at.
    limits : JumpLimits
        Of the propagator; kinds of bond it does not have are not looked at.
    mistaken : str
        The unit that was probably given and the one that belongs there.

    Raises
    ------
    DataError
        If a bond is more than twice as long as the longest of training, or less than half as long as the shortest.
    """
    ranges = Ranges.of(state, replace(limits, torsions={}), 1.0, 0.0)
    if ranges.bonds is None or not len(ranges.bonds) or ranges.shortest is None or ranges.longest is None:
        return
    lengths = bond_vectors(state).norm(dim=1)
    tiny = torch.finfo(lengths.dtype).tiny
    off = torch.maximum(lengths / ranges.longest.clamp(min=tiny), ranges.shortest / lengths.clamp(min=tiny))
    if bool((off <= _BEYOND).all()):
        return
    k = int(off.argmax())
    atoms = " and ".join(f"{atom} ({symbol_of(int(state.numbers[atom]))})" for atom in ranges.bonds[k].tolist())
    count = int((off > _BEYOND).sum())
    raise DataError(
        f"{name}: the bond of atoms {atoms} is {float(lengths[k]):.3g} Å long, those of training are "
        f"{float(ranges.shortest[k]):.3g} to {float(ranges.longest[k]):.3g} Å ({count} of {len(off)} bonds are off by "
        f"more than a factor of two); are coordinates in {mistaken}, atoms in another order than in the topology, "
        "or molecules cut by the box?"
    )
