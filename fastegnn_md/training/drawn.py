"""What a generative propagator draws, beside the data: shapes, how often they change, and bonds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..propagator.molecules import Molecules

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from ..propagator.flow import FlowPropagator
    from ..state import State

_BINS = 24  # of a torsion
_TURN = 60.0  # degrees, of a torsion that has changed


def drawn_report(propagator: FlowPropagator, pairs: TrajectoryPairs, chosen: Sequence[int]) -> dict[str, float]:
    """Draw the ends of pairs and hold them against the true ones.

    Parameters
    ----------
    propagator : FlowPropagator
    pairs : TrajectoryPairs
        Held-out pairs.
    chosen : sequence of int
        Which; every second one is drawn, the others tell what chance alone makes of as many.

    Returns
    -------
    dict of str to float
        ``"torsions"``: Jensen-Shannon distance between histograms of torsions of drawn and true ends, the mean over
        kinds of torsion; ``"torsions floor"``: of the other pairs; ``"torsions Gaussian"``: of draws as wide as the
        data, without a network. ``"changed"``: share of torsions that turned by more than 60 degrees, and
        ``"changed data"``; zero of x′ = x, and more than in the data of independent draws, whose torsions are at the
        floor. ``"bonds"``: RMS deviation of bonds from their mean in the data, Å, and ``"bonds data"``. Torsions are
        left out of molecules that have none.
    """
    pairs_of = [pairs.batch(list(chosen[begin::2])) for begin in (0, 1)]
    (start, end), (_, other) = (
        [state.to(propagator.device, propagator.dtype) for state in states] for states in pairs_of
    )
    generator = torch.Generator(start.device)
    drawn, without = (
        start.positions + propagator.displacements(start, generator.manual_seed(0), network=network)
        for network in (True, False)
    )
    shapes, others = (_Shapes.of(state, bonds=propagator.uses_bonds) for state in (start, other))
    truth = shapes.lengths(end.positions)
    report = {
        "bonds": shapes.deviation(shapes.lengths(drawn), truth),
        "bonds data": shapes.deviation(truth, truth),
    }
    if not len(shapes.torsions):
        return report
    kinds = shapes.kinds.unique()
    data = shapes.histogram(end.positions, kinds)
    return report | {
        "torsions": _distance(shapes.histogram(drawn, kinds), data),
        "torsions floor": _distance(others.histogram(other.positions, kinds), data),
        "torsions Gaussian": _distance(shapes.histogram(without, kinds), data),
        "changed": shapes.changed(start.positions, drawn),
        "changed data": shapes.changed(start.positions, end.positions),
    }


class _Shapes(NamedTuple):
    """Bonds and torsions of a batch, and which of them are alike."""

    bonds: Tensor  # (M, 2)
    like: Tensor  # (M,), 0 ... of bonds
    torsions: Tensor  # (T, 4)
    kinds: Tensor  # (T,), any numbers

    @classmethod
    def of(cls, state: State, *, bonds: bool) -> _Shapes:
        """Without bonds those along a chain in the order of the atoms."""
        molecules = Molecules.of(state, bonds=bonds)
        assert state.batch is not None  # set by State
        links = state.bonds
        if not bonds or links is None:
            first = torch.arange(state.n_atoms - 1, device=state.device)
            first = first[state.batch[1:] == state.batch[:-1]]
            links = torch.stack([first, first + 1], dim=1)
        keys = molecules.keys
        like = (keys[links[:, 0]] + keys[links[:, 1]]).unique(return_inverse=True)[1]  # int64 wraps round
        turning = {atom for rotor in molecules.rotors for atom in rotor.atoms[:, :, 0].flatten().tolist()}
        torsions = _torsions(links, state.masses, turning)
        kinds = keys[torsions[:, 1]] * 3 + keys[torsions[:, 2]]
        return cls(links, like, torsions, kinds)

    def lengths(self, x: Tensor) -> Tensor:
        return (x[self.bonds[:, 0]] - x[self.bonds[:, 1]]).norm(dim=1)

    def deviation(self, lengths: Tensor, data: Tensor) -> float:
        """RMS deviation from the mean length in the data of bonds that are alike."""
        size = int(self.like.max()) + 1
        mean = data.new_zeros(size).index_add_(0, self.like, data) / torch.bincount(self.like, minlength=size)
        return float((lengths - mean[self.like]).square().mean().sqrt())

    def histogram(self, x: Tensor, kinds: Tensor) -> Tensor:
        """Shares of bins, shape (kinds, bins)."""
        bins = ((_angles(x, self.torsions) + 180.0) / (360.0 / _BINS)).long().clamp(0, _BINS - 1)
        row = torch.searchsorted(kinds, self.kinds).clamp(max=len(kinds) - 1)
        known = kinds[row] == self.kinds
        counts = torch.bincount((row * _BINS + bins)[known], minlength=len(kinds) * _BINS).view(-1, _BINS).double()
        return counts / counts.sum(1, keepdim=True).clamp(min=1)

    def changed(self, before: Tensor, after: Tensor) -> float:
        turned = (_angles(after, self.torsions) - _angles(before, self.torsions) + 180.0) % 360.0 - 180.0
        return float((turned.abs() > _TURN).double().mean())


def _torsions(bonds: Tensor, masses: Tensor, turning: set[int]) -> Tensor:
    """One torsion about each bond that has one: its ends are the heaviest neighbours, but none of a rotor."""
    neighbours: dict[int, list[int]] = {}
    for a, b in bonds.tolist():
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    weight, found = masses.tolist(), []
    for b, c in bonds.tolist():
        ends = [
            max(
                (one for one in neighbours[here] if one != there and one not in turning),
                key=weight.__getitem__,
                default=-1,
            )
            for here, there in ((b, c), (c, b))
        ]
        if min(ends) >= 0 and ends[0] != ends[1]:
            found.append([ends[0], b, c, ends[1]])
    return torch.tensor(found, dtype=torch.int64, device=bonds.device).reshape(-1, 4)


def _angles(x: Tensor, torsions: Tensor) -> Tensor:
    """Torsion angles in degrees, shape (T,), IUPAC signs."""
    a, b, c, d = (x[torsions[:, k]] for k in range(4))
    first, middle, last = b - a, c - b, d - c
    normal, other = torch.linalg.cross(first, middle), torch.linalg.cross(middle, last)
    sine = (torch.linalg.cross(normal, other) * middle).sum(1) / middle.norm(dim=1).clamp(min=1e-12)
    return torch.rad2deg(torch.atan2(sine, (normal * other).sum(1)))


def _distance(one: Tensor, other: Tensor) -> float:
    """Jensen-Shannon distance of the rows of two histograms, their mean, natural logarithms."""
    middle = (one + other) / 2

    def divergence(p: Tensor) -> Tensor:
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, middle)).sum(1)

    return float(((divergence(one) + divergence(other)) / 2).clamp(min=0).sqrt().mean())
