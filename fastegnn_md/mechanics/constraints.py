"""Holonomic constraints on tensors: fixed bond lengths, frozen atoms, fixed centre of mass.

Bond lengths after a learned jump are restored about the *predicted* geometry: corrections point along the bonds as
predicted. Along the bonds as they were before the jump (SHAKE, RATTLE) the problem has no solution once a bond has
turned by 90°. Velocities only lose their component along the bonds; they are never recomputed from displacements,
because a jump is not a finite difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConstraintError
from ..graph import minimum_image
from ..segments import Segments
from ..state import State
from .small_groups import LARGEST, SmallGroups

# Newton's method converges quadratically from a predicted geometry: ten would be a bond that cannot be repaired.
_ITERATIONS = 25
_TOLERANCE = 1e-13
_FEWER_DIGITS = 16 * torch.finfo(torch.float64).eps  # that coordinates far from the origin have for differences
_SINGULAR = 1e-10  # bonds of one group count as dependent below this share of the largest singular value


class UnreachableLengthError(ConstraintError):
    """A fixed bond length cannot be restored near a geometry.

    Attributes
    ----------
    atoms : tuple of int
        The two atoms of the bond furthest from its length.
    """

    def __init__(self, message: str, atoms: tuple[int, int]):
        super().__init__(message)
        self.atoms = atoms

    def __reduce__(self) -> tuple[Any, ...]:  # or no worker process could hand it over
        return type(self), (str(self), self.atoms)


@dataclass(frozen=True, eq=False)
class Constraints:
    """Constraints of one system; all arithmetic in float64.

    Positions are moved by x = x̂ + M⁻¹ Σ_k λ_k ∇σ_k(x_ref) until σ_k(x) = |x_a - x_b|² - L_k² = 0 for every bond k, and
    velocities by v = v̂ + M⁻¹ Σ_k μ_k ∇σ_k(x) until their component along every bond vanishes (Andersen, J. Comput.
    Phys. 52, 24 (1983); here λ and μ by Newton's method in blocks of coupled bonds). Both leave the centre of mass and
    the total momentum of free atoms as they are.

    Parameters
    ----------
    masses : Tensor, shape (N,), amu
    bonds : Tensor of int64, shape (M, 2)
        Pairs of atoms at fixed distance.
    lengths : Tensor, shape (M,), Å
    frozen : Tensor of bool, shape (N,)
        Atoms that never move.
    fixed_com : bool
        Whether the centre of mass rests.

    Raises
    ------
    ConstraintError
        If shapes disagree, a length is not positive, or the centre of mass is fixed together with atoms.
    """

    masses: Tensor
    bonds: Tensor
    lengths: Tensor
    frozen: Tensor
    fixed_com: bool = False
    _ends: Segments = field(init=False, repr=False)  # first atoms of all bonds, then second atoms
    _mobility: Tensor = field(init=False, repr=False)  # of these: inverse masses, negative for second atoms, (2M, 1)
    _blocks: list[_Blocks] = field(init=False, repr=False, default_factory=list)
    _last_shifts: list[Tensor] = field(init=False, repr=False, default_factory=list)  # positions, cell, their shifts
    _mobile: tuple[Tensor, int] | None = field(init=False, repr=False, default=None)
    _rank: list[int] = field(init=False, repr=False, default_factory=list)  # once it was counted

    def __post_init__(self) -> None:
        n, m = self.masses.shape[0], self.bonds.shape[0]
        if self.bonds.shape != (m, 2) or self.lengths.shape != (m,) or self.frozen.shape != (n,):
            raise ConstraintError(
                f"bonds {tuple(self.bonds.shape)}, lengths {tuple(self.lengths.shape)} and frozen "
                f"{tuple(self.frozen.shape)} do not fit; expected (M, 2), (M,) and ({n},)"
            )
        wrong = ~(torch.isfinite(self.lengths) & (self.lengths > 0))
        if bool(wrong.any()):
            k = int(wrong.nonzero()[0])
            raise ConstraintError(
                f"atoms {self.bonds[k].tolist()} are held at a distance of {float(self.lengths[k])} Å; expected > 0"
            )
        if self.fixed_com and self.holds_atoms:
            raise ConstraintError(
                "the centre of mass cannot rest while atoms are frozen; use one of the two constraints"
            )
        # Two frozen atoms keep their distance by themselves.
        free = (~self.frozen[self.bonds].all(dim=1)).nonzero().squeeze(1)
        mobility = torch.where(self.frozen, 0.0, 1.0 / self.masses.double())
        order, blocks = _coupled_blocks(self.bonds[free], mobility)
        bonds = self.bonds[free[order]]
        self._blocks.extend(blocks)
        signed = torch.cat((mobility[bonds[:, 0]], -mobility[bonds[:, 1]]))[:, None]
        object.__setattr__(self, "bonds", bonds)
        object.__setattr__(self, "lengths", self.lengths[free[order]].double())
        object.__setattr__(self, "_ends", Segments(bonds.T.flatten(), n))
        object.__setattr__(self, "_mobility", signed)

    def __bool__(self) -> bool:
        return self._any

    @cached_property
    def _any(self) -> bool:
        return self.fixed_com or len(self.bonds) > 0 or self.holds_atoms

    @cached_property
    def holds_atoms(self) -> bool:
        """Whether any atom is frozen."""
        return bool(self.frozen.any())

    @cached_property
    def _small_groups(self) -> SmallGroups | None:
        """The bonds for the C++ library; None where there are none, or groups are large or redundant, or on a GPU."""
        small = all(block.coupling.shape[1] <= LARGEST and not block.redundant for block in self._blocks)
        if not self._blocks or not small or not self.bonds.is_cpu:
            return None
        sizes = [block.coupling.shape[1] for block in self._blocks for _ in block.coupling]
        couplings = [block.coupling for block in self._blocks]
        mobility = self._mobility.view(2, -1).T
        return SmallGroups(sizes, self.bonds, mobility, self.lengths, couplings, self.frozen)

    @cached_property
    def _no_shifts(self) -> Tensor:
        return self.lengths.new_zeros((len(self.bonds), 3))

    def to(self, device: torch.device) -> Constraints:
        """The same constraints on another device."""
        if self.masses.device == device:
            return self
        masses, bonds, lengths, frozen = (x.to(device) for x in (self.masses, self.bonds, self.lengths, self.frozen))
        return Constraints(masses, bonds, lengths, frozen, self.fixed_com)

    def image_shifts(self, state: State) -> Tensor:
        """What to add to x_a - x_b to get the nearest image, shape (M, 3), Å; not to be written to.

        Positions stay unwrapped through a jump, so the shifts of the state before it hold after it.
        """
        if not state.periodic or not self.bonds.shape[0]:
            return self._no_shifts
        assert state.cell is not None and state.pbc is not None  # set by State
        if self._last_shifts and self._last_shifts[0] is state.positions and self._last_shifts[1] is state.cell:
            return self._last_shifts[2]  # a jump asks before and after the propagator
        m = len(self.bonds)
        raw = self._differences(state.positions)
        shifts = minimum_image(raw, state.cell[0].expand(m, 3, 3), state.pbc[0].expand(m, 3)) - raw
        self._last_shifts[:] = [state.positions, state.cell, shifts]
        return shifts

    def mobile(self, state: State) -> int:
        """Number of atoms that have a mass and are not frozen; counted once for states that share their masses."""
        if self._mobile is None or self._mobile[0] is not state.masses:
            count = int((~self.frozen & (state.masses > 0)).sum())
            object.__setattr__(self, "_mobile", (state.masses, count))
        return self._mobile[1]  # type: ignore[index]

    def rank(self, state: State) -> int:
        """Number of bonds that do not follow from others, counted at the geometry that is asked first."""
        if not self._rank:
            vectors = self._vectors(state.positions.double(), self.image_shifts(state).double())
            matrices = (self._matrix(block, vectors, vectors) for block in self._blocks)
            ranks = (torch.linalg.matrix_rank(one, rtol=_SINGULAR, hermitian=True).sum() for one in matrices)
            self._rank.append(sum(int(one) for one in ranks))
        return self._rank[0]

    def project(self, before: State, after: State) -> State:
        """Put a predicted state back onto the constraints.

        Parameters
        ----------
        before, after : State
            The system before and after a jump. Lengths are restored about ``after``; frozen atoms and the centre of
            mass are where they were in ``before``.

        Raises
        ------
        UnreachableLengthError
            If no geometry near ``after`` has the fixed lengths.
        """
        if not self:
            return after
        shifts = self.image_shifts(before).double()
        x0, x, v = before.positions.double(), after.positions.double(), after.velocities.double()
        groups = None if self.fixed_com else self._small_groups
        both = None if groups is None else groups.hold_both(x0, x, v, shifts, (_TOLERANCE, _FEWER_DIGITS), _ITERATIONS)
        if both is None:
            x = self.hold_positions(x0, x, shifts)
            both = x, self.hold_velocities(x, v, shifts)
        return after.replace(positions=both[0].to(after.dtype), velocities=both[1].to(after.dtype))

    def project_velocities(self, state: State, velocities: Tensor) -> Tensor:
        """Remove what the constraints forbid from velocities (N, 3) at the positions of ``state``."""
        if not self:
            return velocities
        shifts = self.image_shifts(state).double()
        return self.hold_velocities(state.positions.double(), velocities.double(), shifts).to(velocities.dtype)

    def hold_positions(self, before: Tensor, after: Tensor, shifts: Tensor, reference: Tensor | None = None) -> Tensor:
        """Positions nearest to ``after`` that obey the constraints, shape (N, 3), Å.

        Parameters
        ----------
        before, after : Tensor of float64, shape (N, 3), Å
        shifts : Tensor, shape (M, 3), Å
            From :meth:`image_shifts`.
        reference : Tensor, shape (N, 3), Å, optional
            Positions whose bond directions the corrections follow; default ``after``.
        """
        x, groups = None, self._small_groups
        if groups is not None:
            x = groups.hold_positions(before, after, shifts, reference, (_TOLERANCE, _FEWER_DIGITS), _ITERATIONS)
        if x is None:
            x = self._hold_positions(before, after, shifts, reference)
        return x + (self._centre(before) - self._centre(x)) if self.fixed_com else x

    def hold_velocities(self, positions: Tensor, velocities: Tensor, shifts: Tensor) -> Tensor:
        """Velocities (N, 3) without the components that the constraints forbid at ``positions``."""
        groups = self._small_groups
        v = None if groups is None else groups.hold_velocities(positions, velocities, shifts)
        if v is None:
            v = torch.where(self.frozen[:, None], 0.0, velocities) if self.holds_atoms else velocities
            if len(self.bonds):
                vectors = self._vectors(positions, shifts)
                along = (vectors * self._differences(v)).sum(dim=1)
                v = self._push(v, self._multipliers(vectors, vectors, -along)[:, None] * vectors)
        return v - self._centre(v) if self.fixed_com else v

    def _hold_positions(self, before: Tensor, after: Tensor, shifts: Tensor, reference: Tensor | None) -> Tensor:
        """:meth:`hold_positions` but for the centre of mass, by torch."""
        x = torch.where(self.frozen[:, None], before, after)
        directions = self._vectors(x if reference is None else reference, shifts)
        square = self.lengths.square()
        tolerance = self.lengths * (_TOLERANCE * self.lengths + _FEWER_DIGITS * x.abs().max())
        error = torch.zeros_like(square)
        for _ in range(_ITERATIONS):
            vectors = self._vectors(x, shifts)
            error = vectors.square().sum(dim=1) - square
            if bool((error.abs() <= tolerance).all()):
                return x
            x = self._push(x, self._multipliers(vectors, directions, -0.5 * error)[:, None] * directions)
        k = int(error.abs().nan_to_num(nan=torch.inf).argmax())
        a, b = self.bonds[k].tolist()
        raise UnreachableLengthError(
            f"atoms {a} and {b} cannot be brought to their fixed distance of {float(self.lengths[k]):.4f} Å: "
            "the geometry is too far from it, or the fixed lengths contradict each other",
            (a, b),
        )

    def _vectors(self, x: Tensor, shifts: Tensor) -> Tensor:
        return self._differences(x) + shifts

    def _differences(self, x: Tensor) -> Tensor:
        first, second = x.index_select(0, self._ends.index).chunk(2)
        return first - second

    def _push(self, x: Tensor, impulses: Tensor) -> Tensor:
        return self._ends.add_to(x.clone(), self._mobility * impulses.repeat(2, 1))

    def _multipliers(self, vectors: Tensor, directions: Tensor, wanted: Tensor) -> Tensor:
        """Impulses along ``directions`` that change the bond vectors by ``wanted`` (M,) = r_k·Δr_k to first order."""
        multipliers = torch.empty_like(wanted)
        for block in self._blocks:
            matrix, right = (
                self._matrix(block, vectors, directions),
                wanted[block.bonds].view(*block.coupling.shape[:2], 1),
            )
            if block.redundant and bool(torch.isfinite(matrix).all()):
                solution = torch.linalg.pinv(matrix, rtol=_SINGULAR) @ right
            else:  # a singular matrix gives infinite multipliers, which do not converge
                solution, _ = torch.linalg.solve_ex(matrix, right)
            multipliers[block.bonds] = solution.flatten()
        return multipliers

    @staticmethod
    def _matrix(block: _Blocks, vectors: Tensor, directions: Tensor) -> Tensor:
        """How impulses along the ``directions`` (M, 3) of a block change r_k·Δr_k of its bonds, shape (K, m, m)."""
        here, (groups, size, _) = block.bonds, block.coupling.shape
        products = vectors[here].view(groups, size, 3) @ directions[here].view(groups, size, 3).transpose(1, 2)
        return block.coupling * products

    def _centre(self, x: Tensor) -> Tensor:
        masses = self.masses.double()
        return masses @ x / masses.sum()


def no_constraints(masses: Tensor) -> Constraints:
    """Constraints of a system that has none; ``masses`` has shape (N,)."""
    none = torch.zeros((0, 2), dtype=torch.int64)
    return Constraints(masses, none, torch.zeros(0), torch.zeros(len(masses), dtype=torch.bool))


class _Blocks(NamedTuple):
    """K groups of m coupled bonds each, which are solved together.

    Attributes
    ----------
    bonds : slice
        Where they stand, group after group.
    coupling : Tensor, shape (K, m, m)
        How a unit impulse on bond l changes the vector of bond k.
    redundant : bool
        Whether there may be more bonds than the atoms of a group have degrees of freedom.
    """

    bonds: slice
    coupling: Tensor
    redundant: bool


def _coupled_blocks(bonds: Tensor, mobility: Tensor) -> tuple[Tensor, list[_Blocks]]:
    """Group bonds (M, 2) that share mobile atoms; also the order (M,) in which groups of one size stand together."""
    group = list(range(len(bonds)))

    def root(k: int) -> int:
        while group[k] != k:
            group[k] = group[group[k]]
            k = group[k]
        return k

    first: dict[int, int] = {}
    mobile = (mobility > 0).tolist()
    for k, pair in enumerate(bonds.tolist()):
        for atom in pair:
            if mobile[atom]:
                group[root(k)] = root(first.setdefault(atom, k))
    members: dict[int, list[int]] = {}
    for k in range(len(bonds)):
        members.setdefault(root(k), []).append(k)
    by_size: dict[int, list[list[int]]] = {}
    for block in members.values():
        by_size.setdefault(len(block), []).append(block)
    order: list[int] = []
    blocks = []
    for same in by_size.values():
        index = torch.tensor(same, device=bonds.device)
        a, b = bonds[index].unbind(2)
        coupling = torch.zeros(*index.shape, index.shape[1], dtype=torch.float64, device=bonds.device)
        for left, sign_left in ((a, 1.0), (b, -1.0)):
            for right, sign_right in ((a, 1.0), (b, -1.0)):
                shared = left[:, :, None] == right[:, None, :]
                coupling += sign_left * sign_right * torch.where(shared, mobility[left][:, :, None], 0.0)
        atoms = min(len(set(bonds[block].flatten().tolist())) for block in same)
        twice = any(len(bonds[block].sort(dim=1).values.unique(dim=0)) < len(block) for block in same)
        here = slice(len(order), len(order) + index.numel())
        blocks.append(_Blocks(here, coupling, twice or index.shape[1] > max(1, 3 * atoms - 6)))
        order += index.flatten().tolist()
    return torch.tensor(order, dtype=torch.int64, device=bonds.device), blocks
