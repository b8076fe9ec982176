"""Which atoms are alike: keys of their surroundings in the graph of bonds, by colour refinement."""

from __future__ import annotations

import torch
from torch import Tensor

# Odd constants of splitmix64 (Steele, Lea, Flood 2014), as signed numbers.
_STEP, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def environments(numbers: Tensor, bonds: Tensor, rounds: int | None = None) -> Tensor:
    """Keys that topologically equivalent atoms share.

    An atom starts with its element as its colour; in each round it takes a new one from its own and those of its
    bonded neighbours (Weisfeiler and Leman 1968). The same surroundings give the same key in any molecule, on any
    machine.

    Parameters
    ----------
    numbers : Tensor of int64, shape (N,)
        Atomic numbers.
    bonds : Tensor of int64, shape (M, 2)
        Bonded pairs, each once.
    rounds : int, optional
        How many bonds away surroundings are looked at. Default: as far as it tells atoms apart, so that keys are
        equal only of atoms that no distance along bonds distinguishes; of molecules of different size these cannot be
        compared.

    Returns
    -------
    Tensor of int64, shape (N,)
    """
    receiver = torch.cat([bonds[:, 0], bonds[:, 1]])
    sender = torch.cat([bonds[:, 1], bonds[:, 0]])
    colours = mixed(numbers)
    known = len(colours.unique())
    for _ in range(len(numbers) if rounds is None else rounds):
        heard = torch.zeros_like(colours).index_add_(0, receiver, mixed(colours.index_select(0, sender)))
        colours = mixed(colours * 3 + heard)
        if rounds is None:
            found = len(colours.unique())
            if found == known:
                break
            known = found
    return colours


def mixed(values: Tensor) -> Tensor:
    """Numbers of int64 scattered over all of int64, the same ones to the same place."""
    values = values + _STEP
    values = (values ^ (values >> 30)) * _FIRST
    values = (values ^ (values >> 27)) * _SECOND
    return values ^ (values >> 31)
