"""What kind "flow" knows of the molecules of a state from their bonds: who is alike, who is near, what may turn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import BondDistance
from ..graph.environments import environments, mixed
from ..graph.stereo import tetrahedra
from ..state import State
from .rotors import Rotor, rotors_of

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
    rotors : tuple of Rotor
        Groups that turn into themselves about a bond, as methyl groups and phenyl rings, those that hold others first.
    tetrahedra : Tensor of int64, shape (T, 5)
        Atoms with four neighbours, and these.
    """

    keys: Tensor
    edge_index: Tensor
    hops: Tensor
    rotors: tuple[Rotor, ...]
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
            return cls(mixed(state.numbers + 1000 * place), pairs, hops, (), nothing)
        pairs = torch.stack([receiver, sender])
        hops = BondDistance(state.bonds, n)(pairs)
        quiet = _on_carbon_alone(state.numbers, state.bonds)
        keep = (receiver != sender) & ((hops[:, 3] == 0) | ~(quiet[receiver] | quiet[sender]))
        return cls(
            environments(state.numbers, state.bonds, _ROUNDS),
            pairs[:, keep],
            hops[keep],
            _rotors(state),
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


def like_molecules(state: State, *, bonds: bool = True) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Systems of a batch that have the same elements and bonds in the same order.

    Returns
    -------
    list of (Tensor, Tensor, Tensor)
        Their first atoms, shape (B,), and of one of them the elements (n,) and the bonds (M, 2); on the CPU.
    """
    assert state.batch is not None  # set by State
    numbers, counts = state.numbers.cpu(), state.atom_counts.cpu()
    links = state.bonds.cpu() if bonds and state.bonds is not None else torch.zeros(0, 2, dtype=torch.int64)
    owner = state.batch.cpu()[links[:, 0]]
    order = owner.argsort(stable=True)
    links, ends = links[order], torch.bincount(owner, minlength=len(counts)).cumsum(0).tolist()
    alike: dict[tuple[bytes, bytes], tuple[list[int], Tensor, Tensor]] = {}
    first = 0
    for k, count in enumerate(counts.tolist()):
        own, bonded = numbers[first : first + count], links[ends[k - 1] if k else 0 : ends[k]] - first
        name = own.numpy().tobytes(), bonded.numpy().tobytes()
        alike.setdefault(name, ([], own, bonded))[0].append(first)
        first += count
    return [(torch.tensor(firsts), own, bonded) for firsts, own, bonded in alike.values()]


def _rotors(state: State) -> tuple[Rotor, ...]:
    """Of all molecules; of one inside another the outer one first."""
    return tuple(
        rotor.of(firsts.to(state.device))
        for firsts, numbers, bonds in like_molecules(state)
        for rotor in rotors_of(tuple(numbers.tolist()), tuple((a, b) for a, b in bonds.tolist()))
    )
