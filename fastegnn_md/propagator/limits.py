"""How far atoms moved and how long bonds were in the training data: what a guard holds a jump against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DataError
from ..graph import minimum_image
from ..state import State
from .basins import BINS, Basins, united, visited


@dataclass(frozen=True)
class JumpLimits:
    """Ranges seen in training.

    Parameters
    ----------
    displacement : dict of int to float
        Atomic number → largest |Δq| of a jump, Å.
    bonds : dict of (int, int) to (float, float)
        Atomic numbers, the lower first → shortest and longest bonded distance, Å. Empty without bonds.
    speed : dict of int to float
        Atomic number → largest |v|, Å/ps. Empty where velocities are not known.
    torsions : dict of (int, int, int, int) to int
        Kind of torsion → bins of 15° of |angle| that it visited, one bit for each
        (:mod:`fastegnn_md.propagator.basins`). Of kind "flow" alone.

    Raises
    ------
    DataError
        If a value is not finite or negative, or a range or a pair is upside down.
    """

    displacement: dict[int, float]
    bonds: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    speed: dict[int, float] = field(default_factory=dict)
    torsions: Basins = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, table in (("displacement", self.displacement), ("speed", self.speed)):
            for number, value in table.items():
                if not (math.isfinite(value) and value >= 0):
                    raise DataError(f"{name} of atomic number {number} is {value}; expected a finite number >= 0")
        for pair, (shortest, longest) in self.bonds.items():
            if pair[0] > pair[1]:
                raise DataError(f"bonds names the pair {pair}; expected the lower atomic number first")
            if not (0 <= shortest <= longest < math.inf):
                raise DataError(
                    f"bonds of {pair} range from {shortest} to {longest}; expected 0 <= shortest <= longest"
                )
        for kind, bins in self.torsions.items():
            if not 0 < bins < 1 << BINS:
                raise DataError(f"torsions {kind} visited the bins {bins:b}; expected at least one of {BINS}")

    @classmethod
    def from_pairs(cls, start: State, end: State, *, torsions: bool = False) -> JumpLimits:
        """Measure the ranges of training pairs.

        Parameters
        ----------
        start, end : State
            The same systems before and after a jump; ``end`` unwrapped relative to ``start``.
        torsions : bool
            Whether to look at torsions.

        Raises
        ------
        DataError
            If the two have different numbers of atoms.
        """
        if start.n_atoms != end.n_atoms:
            raise DataError(
                f"start has {start.n_atoms} atoms and end has {end.n_atoms}; give states of the same systems"
            )
        moved = _largest(start.numbers, (end.positions - start.positions).norm(dim=1))
        speeds = torch.maximum(start.velocities.norm(dim=1), end.velocities.norm(dim=1))
        # Pairs without velocities carry zeros; a limit of zero would refuse every jump.
        speed = {number: value for number, value in _largest(start.numbers, speeds).items() if value > 0}
        return cls(moved, _bond_ranges(start, end), speed, visited(start, end) if torsions else {})

    def with_torsions(self, start: State, end: State) -> JumpLimits:
        """The same, and the bins of torsions that further training pairs visit."""
        return replace(self, torsions=united(self.torsions, visited(start, end)))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        plain = {
            "displacement": [[number, value] for number, value in sorted(self.displacement.items())],
            "bonds": [[*pair, *ends] for pair, ends in sorted(self.bonds.items())],
            "speed": [[number, value] for number, value in sorted(self.speed.items())],
        }
        if self.torsions:
            plain["torsions"] = [[*kind, bins] for kind, bins in sorted(self.torsions.items())]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> JumpLimits:
        """Undo :meth:`to_dict`.

        Raises
        ------
        CheckpointError
            If keys or values are not those of :meth:`to_dict`.
        """
        try:
            unknown = set(plain) - {"displacement", "bonds", "speed", "torsions"}
            if unknown:
                raise KeyError(f"unknown {sorted(unknown)}")
            return cls(
                displacement={int(number): float(value) for number, value in plain["displacement"]},
                bonds={(int(a), int(b)): (float(low), float(high)) for a, b, low, high in plain["bonds"]},
                speed={int(number): float(value) for number, value in plain.get("speed", [])},
                torsions={(int(a), int(b), int(c), int(d)): int(n) for a, b, c, d, n in plain.get("torsions", [])},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the limits of a jump cannot be read ({error}); expected displacement, bonds, speed and torsions as "
                "written by "
                "JumpLimits.to_dict"
            ) from error


def bond_vectors(state: State) -> Tensor:
    """Vector of each bond by minimum image.

    Returns
    -------
    Tensor, shape (M, 3), Å
        x_a - x_b of the rows (a, b) of ``state.bonds``; exact for bonds shorter than half of the smallest cell height.
    """
    bonds = state.bonds
    if bonds is None:
        return state.positions.new_zeros((0, 3))
    return _bond_image(
        state, state.positions.index_select(0, bonds[:, 0]) - state.positions.index_select(0, bonds[:, 1])
    )


def _bond_image(state: State, vectors: Tensor) -> Tensor:
    if not state.periodic or state.bonds is None:
        return vectors
    assert state.cell is not None and state.pbc is not None and state.batch is not None  # set by State
    if state.n_systems == 1:
        m = len(vectors)
        return minimum_image(vectors, state.cell[0].expand(m, 3, 3), state.pbc[0].expand(m, 3))
    system = state.batch.index_select(0, state.bonds[:, 0])
    return minimum_image(vectors, state.cell.index_select(0, system), state.pbc.index_select(0, system))


def _largest(numbers: Tensor, values: Tensor) -> dict[int, float]:
    return {number: float(values[numbers == number].max()) for number in numbers.unique().tolist()}


def _bond_ranges(start: State, end: State) -> dict[tuple[int, int], tuple[float, float]]:
    if start.bonds is None:
        return {}
    lengths = torch.stack([bond_vectors(start).norm(dim=1), bond_vectors(end.replace(bonds=start.bonds)).norm(dim=1)])
    kinds = start.numbers[start.bonds].sort(dim=1).values
    ranges = {}
    for kind in kinds.unique(dim=0).tolist():
        of_kind = lengths[:, (kinds == torch.tensor(kind, device=kinds.device)).all(dim=1)]
        ranges[kind[0], kind[1]] = (float(of_kind.min()), float(of_kind.max()))
    return ranges
