"""How unlike those of the training data the surroundings of an atom are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..graph import EdgeList, cutoff_envelope, neighbour_list
from ..nn.native.jump import Around
from ..nn.recording import is_recording
from ..state import State

SPACING = 0.5  # Å, of the radial functions
FIRST = 0.75  # Å, where they begin: no two atoms are closer
SKIRT = 0.5  # Å, over which neighbours are counted less and less
_REACH = 5.0  # Å; neighbours farther away say little about an atom and cost most
_FLOOR = 0.02  # of a sum over neighbours: what no training set could tell apart
# Atoms of an element from which their distribution is measured.
_SAMPLE = 50_000
_FEWEST = 40


class SurroundingsShape(NamedTuple):
    """What decides the sizes of the tensors of :class:`Surroundings`."""

    species: tuple[int, ...]
    reach: float  # Å


class Surroundings(nn.Module):
    """Distribution of local densities about the atoms of each element in the training data.

    About atom i, for each element and each radial function, ρ = Σ_j exp(−(r_ij − r_k)²/2w²) u(r_ij) over neighbours j
    of that element, with u smooth and zero at the reach. The Mahalanobis distance of ρ_i from the mean of the atom's
    element is what :meth:`forward` gives, in units of the largest that held-out atoms of the training data have: about
    one at most for what was seen, and several for a missing neighbour, another bond, a surface, another density.

    Parameters
    ----------
    shape : SurroundingsShape
        Elements and reach.

    Notes
    -----
    The tensors are no part of ``state_dict``: they are measured once, and not learned.
    """

    _species_index: Tensor
    centres: Tensor
    offset: Tensor
    whitening: Tensor

    def __init__(self, shape: SurroundingsShape):
        super().__init__()
        self.shape = shape
        species = len(shape.species)
        centres = torch.arange(FIRST, shape.reach, SPACING)
        size = species * len(centres)
        index = torch.full((max(shape.species) + 1,), -1, dtype=torch.int64)
        index[list(shape.species)] = torch.arange(species)
        self.register_buffer("_species_index", index, persistent=False)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("offset", torch.zeros(species, size), persistent=False)
        self.register_buffer("whitening", torch.zeros(size, species, size), persistent=False)

    @classmethod
    def measure(cls, start: State, cutoff: float, *, seed: int = 0) -> Surroundings | None:
        """Measure the distribution of a batch of states of the training data.

        Half of the atoms of each element, drawn with a seed, give the distribution, and the other half how far from
        its mean atoms are.

        Returns
        -------
        Surroundings or None
            None if the sample is too small to know any element.
        """
        species = tuple(sorted(start.numbers.unique().tolist()))
        made = cls(SurroundingsShape(species, min(cutoff, _REACH))).double()
        if made.centres.numel() == 0:
            return None
        generator = torch.Generator().manual_seed(seed)
        found, numbers = made._sample(start)
        size = found.shape[1]
        for k, number in enumerate(species):
            of_element = found[numbers == number]
            if len(of_element) < _FEWEST:
                return None
            of_element = of_element[torch.randperm(len(of_element), generator=generator)[:_SAMPLE]]
            known, held_out = of_element.tensor_split(2)
            mean = known.mean(0)
            scatter = (known - mean).T @ (known - mean) / len(known)
            values, vectors = torch.linalg.eigh(scatter + _FLOOR**2 * torch.eye(size, dtype=torch.float64))
            whitening = vectors / values.sqrt()
            largest = ((held_out - mean) @ whitening).norm(dim=1).max()
            made.whitening[:, k] = whitening / largest
            made.offset[k] = mean @ whitening / largest
        return made

    def _sample(self, start: State) -> tuple[Tensor, Tensor]:
        """Densities and atomic numbers of the atoms of systems taken in turn, until there are enough."""
        systems = start.split() if start.n_systems > 1 else [start]
        densities, numbers, left = [], [], 2 * _SAMPLE * len(self.shape.species)
        for system in _spread_out(systems):
            edges = neighbour_list(system, self.shape.reach)
            densities.append(self.densities(system.numbers, edges))
            numbers.append(system.numbers)
            left -= system.n_atoms
            if left <= 0:
                break
        return torch.cat(densities), torch.cat(numbers)

    def densities(self, numbers: Tensor, edges: EdgeList) -> Tensor:
        """ρ of each atom, shape (N, elements × radial functions)."""
        receiver, sender = edges.edge_index
        distance = edges.distance.to(self.centres)
        if not is_recording(distance):  # beyond the reach weights are zero
            near = (distance[:, 0] < self.shape.reach).nonzero()[:, 0]
            distance, receiver, sender = (
                distance.index_select(0, near),
                receiver.index_select(0, near),
                sender.index_select(0, near),
            )
        weights = torch.exp(-0.5 * ((distance - self.centres) / SPACING).square())
        weights = weights * cutoff_envelope((distance - self.shape.reach + SKIRT).clamp(min=0.0), SKIRT)
        elements = len(self.shape.species)
        place = receiver * elements + self._species_index.index_select(0, numbers.index_select(0, sender))
        sums = weights.new_zeros((len(numbers) * elements, weights.shape[1])).index_add_(0, place, weights)
        return sums.view(len(numbers), -1)

    @torch.no_grad()
    def forward(self, numbers: Tensor, edges: EdgeList) -> Tensor:
        """Distance of the surroundings of each atom from those of training, shape (N,), in units of the largest there.

        Parameters
        ----------
        numbers : Tensor of int64, shape (N,)
            Atomic numbers, all of them known.
        edges : EdgeList
            At least the pairs within the reach.
        """
        whitened = torch.tensordot(self.densities(numbers, edges), self.whitening, dims=1)
        species = self._species_index.index_select(0, numbers)
        place = torch.arange(len(numbers), device=species.device) * len(self.shape.species) + species
        own = whitened.view(-1, whitened.shape[-1]).index_select(0, place)
        return (own - self.offset.index_select(0, species)).norm(dim=1)

    def around(self, numbers: Tensor, dtype: torch.dtype) -> Around:
        """What the C++ library is told of it, for atoms of these numbers and a network of this type."""
        return Around(
            element=self._species_index[numbers],
            whitening=self.whitening.to(dtype).contiguous(),
            offset=self.offset.to(dtype).contiguous(),
            elements=len(self.shape.species),
            functions=len(self.centres),
            reach=self.shape.reach,
            first=FIRST,
            spacing=SPACING,
            skirt=SKIRT,
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds of it."""
        return {"surroundings.offset": self.offset, "surroundings.whitening": self.whitening}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Undo :meth:`tensors`, which are those of the same shape."""
        self.offset, self.whitening = tensors["surroundings.offset"], tensors["surroundings.whitening"]


def _spread_out(systems: list[State]) -> Iterator[State]:
    """All of them, in an order whose beginning already comes from everywhere."""
    stride = max(1, round(len(systems) ** 0.5))
    for first in range(stride):
        yield from systems[first::stride]
