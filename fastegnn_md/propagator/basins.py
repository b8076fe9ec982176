"""Which angles each kind of torsion had in the training data."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from ..graph.environments import environments
from ..graph.stereo import dihedral_angles, torsions
from ..state import State

# Keys of the four atoms of a torsion, of both directions the lower one -> bins of |angle|, a bit for each.
#
# The sign is left out: a mirror image has mirrored angles, and it is as much at home in a stochastic map as the
# molecule. An angle that training had with the other sign only is thereby let through; a cis peptide bond is not.
Basins: TypeAlias = dict[tuple[int, int, int, int], int]

BINS = 12  # of 15° from 0 to 180°
_ROUNDS = 3  # bonds around each of the four atoms that make a kind


def kinds_of_torsions(numbers: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor]:
    """Torsions of a molecule (T, 4), and keys of their atoms (T, 4), of both directions the lower."""
    chains = torsions(bonds)
    keys = environments(numbers, bonds, _ROUNDS)[chains]
    turned = keys.flip(1)
    # Where the outer keys are equal the inner ones decide; where these are, both directions are one.
    outer, inner = keys[:, 0] > turned[:, 0], keys[:, 1] > turned[:, 1]
    turn = torch.where(keys[:, 0] == turned[:, 0], inner, outer)
    return chains, torch.where(turn[:, None], turned, keys)


def bins_of(positions: Tensor, chains: Tensor) -> Tensor:
    """Bin of |angle| of each torsion, shape (T,)."""
    angles = dihedral_angles(positions, chains).abs()
    return (angles * (BINS / math.pi)).long().clamp(0, BINS - 1)


def visited(*states: State) -> Basins:
    """Bins of each kind of torsion in states of the same atoms; none without bonds."""
    first = states[0]
    if first.bonds is None or not len(first.bonds):
        return {}
    chains, keys = kinds_of_torsions(first.numbers, first.bonds)
    if not len(chains):
        return {}
    kinds, kind = keys.unique(dim=0, return_inverse=True)
    seen = torch.zeros(len(kinds), BINS, dtype=torch.bool, device=kinds.device)
    for state in states:
        seen[kind, bins_of(state.positions, chains)] = True
    masks = (seen.long() << torch.arange(BINS, device=seen.device)).sum(1)
    return {(a, b, c, d): mask for (a, b, c, d), mask in zip(kinds.tolist(), masks.tolist(), strict=True)}


def united(*parts: Basins) -> Basins:
    """What was visited in any of several samples."""
    found: Basins = {}
    for part in parts:
        for kind, mask in part.items():
            found[kind] = found.get(kind, 0) | mask
    return found


def allowed(mask: int) -> list[bool]:
    """Which bins a mask leaves to a jump: those that were visited, and the next on both sides."""
    wide = mask | mask << 1 | mask >> 1
    return [bool(wide >> k & 1) for k in range(BINS)]
