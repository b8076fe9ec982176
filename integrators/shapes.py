"""Guards of maps that redraw a whole molecule: handedness stays, and torsions go where training was."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastegnn_md.graph.stereo import dihedral_angles, signed_volumes, stereocentres
from fastegnn_md.propagator.basins import BINS, Basins, allowed, bins_of, kinds_of_torsions
from fastegnn_md.state import State


@dataclass(frozen=True, eq=False)
class Shape:
    """Stereocentres and torsions of the molecules of a state, found once.

    Attributes
    ----------
    centres : Tensor of int64, shape (C, 5)
        Of :func:`~fastegnn_md.graph.stereo.stereocentres`.
    chains : Tensor of int64, shape (T, 4)
        Torsions of kinds that training knows.
    allowed : Tensor of bool, shape (T, bins)
        Bins of |angle| a jump may lead to.
    """

    centres: Tensor
    chains: Tensor
    allowed: Tensor

    @classmethod
    def of(cls, state: State, basins: Basins) -> Shape | None:
        """The shape of what a state holds; None without bonds."""
        if state.bonds is None or not len(state.bonds):
            return None
        numbers, bonds = state.numbers.cpu(), state.bonds.cpu()
        chains, kinds = kinds_of_torsions(numbers, bonds)
        masks = [basins.get((a, b, c, d), 0) for a, b, c, d in kinds.tolist()]
        known = [k for k, mask in enumerate(masks) if mask]
        table = torch.tensor([allowed(masks[k]) for k in known], dtype=torch.bool).reshape(-1, BINS)
        known = [known[k] for k in (~table.all(dim=1)).nonzero()[:, 0].tolist()]  # the others may be anywhere
        table = table[~table.all(dim=1)]
        device = state.device
        return cls(stereocentres(numbers, bonds).to(device), chains[known].to(device), table.to(device))

    def changed_hand(self, before: Tensor, after: Tensor) -> tuple[int, str] | None:
        """An atom whose neighbours are mirrored after a jump, positions (N, 3), and what to say of it."""
        if not len(self.centres):
            return None
        kept = signed_volumes(before, self.centres) * signed_volumes(after, self.centres) > 0
        if bool(kept.all()):
            return None
        return int(self.centres[~kept][0, 0]), "its neighbours would be mirrored, another molecule"

    def unknown_torsion(self, after: Tensor) -> tuple[int, str] | None:
        """An atom about which a torsion is where training never was, positions (N, 3), and what to say of it."""
        if not len(self.chains):
            return None
        bins = bins_of(after, self.chains)
        known = self.allowed.gather(1, bins[:, None])[:, 0]
        if bool(known.all()):
            return None
        chain = self.chains[~known][:1]
        angle = math.degrees(float(dihedral_angles(after, chain)[0]))
        names = "-".join(map(str, chain[0].tolist()))
        return int(chain[0, 1]), f"the torsion {names} would be {angle:.0f}°, where training never was"
