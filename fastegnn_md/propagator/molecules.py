"""What kind "flow" knows of the molecules of a state from their bonds: who is alike, who is near, what may turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import BondDistance
from ..graph.environments import environments, mixed
from ..graph.stereo import tetrahedra
from ..state import State

# Bonds around an atom that make its key: amino acids of one kind are alike inside a chain, those at its ends are not.
_ROUNDS = 4


@dataclass(frozen=True)
class Molecules:
    """A batch of molecules as graphs, without positions.

    Attributes
    ----------
    keys : Tensor of int64, shape (N,)
        Of the surroundings of each atom; without bonds of its place in its molecule.
    edge_index : Tensor of int64, shape (2, E)
        Pairs of atoms up to three bonds apart, and all pairs of one molecule without hydrogens on carbon; ordered by
        the first. Without bonds all pairs.
    hops : Tensor of int64, shape (E, 4)
        Distance along bonds, one-hot.
    rotors : Tensor of int64, shape (R, 3)
        Groups of three atoms that turn about one bond and are alike, as the hydrogens of a methyl group.
    tetrahedra : Tensor of int64, shape (T, 5)
        Atoms with four neighbours, and these.
    """

    keys: Tensor
    edge_index: Tensor
    hops: Tensor
    rotors: Tensor
    tetrahedra: Tensor

    @classmethod
    def of(cls, state: State, *, bonds: bool = True) -> Molecules:
        """What follows from the elements and bonds of a state; without ``bonds`` as if it had none."""
        assert state.batch is not None  # set by State
        counts, n = state.atom_counts, state.n_atoms
        first = (counts.cumsum(0) - counts)[state.batch]
        # All ordered pairs of one molecule: the partners of atom i are the counts[batch[i]] atoms from first[i] on.
        partners = counts[state.batch]
        receiver = torch.arange(n, device=state.device).repeat_interleave(partners)
        begin = partners.cumsum(0) - partners
        sender = torch.arange(len(receiver), device=state.device) - begin[receiver] + first[receiver]
        if not bonds or state.bonds is None or not len(state.bonds):
            keep = receiver != sender
            hops = torch.zeros(int(keep.sum()), 4, dtype=torch.int64, device=state.device)
            place = torch.arange(n, device=state.device) - first
            nothing = torch.zeros(0, 5, dtype=torch.int64, device=state.device)
            pairs = torch.stack([receiver, sender])[:, keep]
            return cls(mixed(state.numbers + 1000 * place), pairs, hops, nothing[:, :3], nothing)
        pairs = torch.stack([receiver, sender])
        hops = BondDistance(state.bonds, n)(pairs)
        quiet = _on_carbon_alone(state.numbers, state.bonds)
        keep = (receiver != sender) & ((hops[:, 3] == 0) | ~(quiet[receiver] | quiet[sender]))
        return cls(
            environments(state.numbers, state.bonds, _ROUNDS),
            pairs[:, keep],
            hops[keep],
            _rotors(state.numbers, state.bonds),
            tetrahedra(state.bonds, n),
        )

    def frames(self, positions: Tensor, numbers: Tensor) -> Tensor:
        """Mean directions to the atoms one, two and three bonds away, shape (N, 3, 3); zeros where there are none.

        They are weighted by atomic number: about an atom with four neighbours the mean of bare directions vanishes.
        """
        found = positions.new_zeros(len(positions), 3, 3)
        for away in range(3):
            i, j = self.edge_index[:, self.hops[:, away] > 0]
            weight = numbers[j, None].to(positions.dtype)
            towards = torch.nn.functional.normalize(positions[j] - positions[i], dim=1)
            sums = positions.new_zeros(len(positions), 4)
            sums.index_add_(0, i, torch.cat([weight * towards, weight], dim=1))
            found[:, away] = sums[:, :3] / sums[:, 3:].clamp(min=1.0)
        return found

    @property
    def neighbours(self) -> float:
        """Pairs per atom, at least one."""
        return max(1.0, self.edge_index.shape[1] / len(self.keys))

    def spreads(self, start: State, end: State) -> dict[int, float]:
        """Key → RMS displacement of one component, Å, over pairs of which the ends were turned onto the starts."""
        square = (end.positions - start.positions).double().square().mean(1)
        keys, kind = self.keys.unique(return_inverse=True)
        mean = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, kind, square) / torch.bincount(kind)
        return dict(zip(keys.tolist(), mean.sqrt().clamp(min=1e-3).tolist(), strict=True))


def _on_carbon_alone(numbers: Tensor, bonds: Tensor) -> Tensor:
    """Which atoms are hydrogens whose bonded neighbours are all carbon, shape (N,)."""
    both = torch.cat([bonds, bonds.flip(1)])
    others = torch.zeros_like(numbers).index_add_(0, both[:, 0], (numbers[both[:, 1]] != 6).long())
    return (numbers == 1) & (others == 0)


def _rotors(numbers: Tensor, bonds: Tensor) -> Tensor:
    """Threes of atoms of one element with no neighbour but a shared one, which has one further neighbour."""
    both = torch.cat([bonds, bonds.flip(1)])
    degree = torch.bincount(both[:, 0], minlength=len(numbers))
    centre = torch.full_like(numbers, -1).index_copy_(0, both[:, 0], both[:, 1])  # of atoms with one bond
    leaves = ((degree == 1) & (centre >= 0) & (degree[centre.clamp(min=0)] == 4)).nonzero()[:, 0]
    # Leaves by centre and element; a key that occurs three times is a rotor.
    key = centre[leaves] * 1000 + numbers[leaves]
    order = key.argsort(stable=True)
    leaves, key = leaves[order], key[order]
    _, counts = key.unique_consecutive(return_counts=True)
    chosen = counts.repeat_interleave(counts) == 3
    return leaves[chosen].view(-1, 3)
