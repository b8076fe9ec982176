"""The value that walks through the package: a batch of one or more molecular systems at one instant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import NotFiniteError, StateError

_FORCES = ("forces", "midpoint_forces")
_ASKED = (*_FORCES, "midpoint_positions")  # what an engine says of a state
_PER_ATOM = ("positions", "velocities", *_ASKED, "numbers", "masses", "batch", "charges", "types")
_MOVING = {"positions", "velocities", *_ASKED}
_RESTING = ("numbers", "masses", "cell", "pbc", "batch", "charges", "types", "bonds")
_FLOATING = ("positions", "velocities", *_ASKED, "masses", "cell", "charges")


@dataclass(frozen=True, eq=False)
class State:
    """Positions, velocities and identity of the atoms of one system or of a batch of systems.

    Atoms of one system stand together: ``batch`` never decreases. Fields are checked on construction and never
    changed afterwards; :meth:`replace` makes a new state.

    Parameters
    ----------
    positions : Tensor, shape (N, 3), Å
        Unwrapped or wrapped coordinates, float32 or float64.
    velocities : Tensor, shape (N, 3), Å/ps
        On-step velocities (not those of a leap-frog half step).
    numbers : Tensor of int64, shape (N,)
        Atomic numbers.
    masses : Tensor, shape (N,), amu
        Masses used by the engine (repartitioned masses included).
    forces : Tensor, shape (N, 3), amu Å/ps², optional
        Forces at ``positions``.
    midpoint_forces : Tensor, shape (N, 3), amu Å/ps², optional
        Forces half a jump ahead, for propagators that ask for them: where :meth:`LearnedMap.force_positions` says.
    midpoint_positions : Tensor, shape (N, 3), Å, optional
        In training data of kind "symplectic": where the system was after half of Δt, and ``midpoint_forces`` belong.
    cell : Tensor, shape (B, 3, 3), Å, optional
        Cell vectors in rows.
    pbc : Tensor of bool, shape (B, 3), optional
        Periodic directions; a bool or three bools are repeated for every system. Default: periodic where a cell is
        given.
    batch : Tensor of int64, shape (N,), optional
        Index of the system of each atom; zeros by default.
    charges : Tensor, shape (N,), e, optional
        Partial charges.
    types : Tensor of int64, shape (N,), optional
        Topology types, any numbering.
    bonds : Tensor of int64, shape (M, 2), optional
        Bonded pairs, indices into the atoms of the whole batch, each pair once.

    Raises
    ------
    StateError
        If a shape, a dtype, a device or a value (NaN, infinity, mass below zero, index out of range, cell without
        volume) is wrong.
    """

    positions: Tensor
    velocities: Tensor
    numbers: Tensor
    masses: Tensor
    forces: Tensor | None = None
    cell: Tensor | None = None
    pbc: Tensor | None = None
    batch: Tensor | None = None
    charges: Tensor | None = None
    types: Tensor | None = None
    bonds: Tensor | None = None
    midpoint_forces: Tensor | None = None
    midpoint_positions: Tensor | None = None

    def __post_init__(self) -> None:
        _check_tensor("positions", self.positions, (None, 3))
        if self.n_atoms == 0:
            raise StateError("positions has no atoms; expected shape (N, 3) with N >= 1")
        if self.batch is None:
            object.__setattr__(self, "batch", torch.zeros(self.n_atoms, dtype=torch.int64, device=self.device))
        self._check_atoms()
        self._check_batch()
        self._check_cells()

    def _check_atoms(self) -> None:
        n = self.n_atoms
        shapes = {"velocities": (n, 3), **dict.fromkeys(_ASKED, (n, 3)), "masses": (n,), "charges": (n,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None and name in (*_ASKED, "charges"):
                continue
            _check_tensor(name, value, shape, dtype=self.dtype, device=self.device)
        for name in ("numbers", "batch", "types"):
            value = getattr(self, name)
            if value is not None:
                _check_index(name, value, (n,), self.device)
        if self.bonds is not None:
            _check_index("bonds", self.bonds, (None, 2), self.device)
            if self.bonds.numel() and not (0 <= int(self.bonds.min()) and int(self.bonds.max()) < n):
                raise StateError(f"bonds names atoms outside 0..{n - 1}; give indices into the atoms of this state")
        if bool((self.masses < 0).any()):
            raise StateError("masses has a negative value; expected masses in amu, zero only for virtual sites")

    def _check_batch(self) -> None:
        batch = self.batch
        assert batch is not None  # set in __post_init__; narrows the type
        if int(batch[0]) != 0 or bool((batch.diff() < 0).any()) or bool((batch.diff() > 1).any()):
            raise StateError("batch must start at 0 and count systems upwards without gaps, atoms of a system together")

    def _check_cells(self) -> None:
        b = self.n_systems
        if self.cell is not None:
            _check_tensor("cell", self.cell, (b, 3, 3), dtype=self.dtype, device=self.device)
        pbc = self.pbc
        if pbc is None:
            pbc = torch.full((b, 3), self.cell is not None, device=self.device)
        else:
            pbc = torch.as_tensor(pbc, dtype=torch.bool, device=self.device)
            if tuple(pbc.shape) not in ((), (3,), (b, 3)):
                raise StateError(f"pbc has shape {tuple(pbc.shape)}; expected (), (3,) or ({b}, 3)")
            pbc = pbc.expand(b, 3)
        object.__setattr__(self, "pbc", pbc)
        if not self.periodic:
            return
        if self.cell is None:
            raise StateError("pbc is set but no cell was given; give cell with shape (B, 3, 3) in Å")
        periodic = pbc.any(dim=1)
        volume = torch.linalg.det(self.cell[periodic]).abs()
        if bool((volume < 1e-6).any()):
            raise StateError("cell of a periodic system has no volume; give three independent cell vectors in Å")

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the whole batch."""
        return self.positions.shape[0]

    @cached_property
    def n_systems(self) -> int:
        """Number of systems in the batch."""
        return int(self.batch[-1]) + 1  # type: ignore[index]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type shared by all floating fields."""
        return self.positions.dtype

    @property
    def device(self) -> torch.device:
        """Device shared by all fields."""
        return self.positions.device

    @cached_property
    def periodic(self) -> bool:
        """Whether any system of the batch is periodic in any direction."""
        return bool(self.pbc.any())  # type: ignore[union-attr]

    @cached_property
    def atom_counts(self) -> Tensor:
        """Atoms per system, shape (B,)."""
        return torch.bincount(self.batch)  # type: ignore[arg-type]

    @cached_property
    def equal_counts(self) -> int | None:
        """Atoms per system where all systems have as many, else None."""
        count = self.n_atoms // self.n_systems
        return count if bool((self.atom_counts == count).all()) else None

    @cached_property
    def boundaries(self) -> list[list[bool]]:
        """:attr:`pbc` as numbers, known without asking a GPU for it again."""
        return self.pbc.tolist()  # type: ignore[union-attr]

    def replace(self, **changes: Tensor | None) -> State:
        """Copy of this state with some fields changed; the copy is checked."""
        shape, dtype, device = self.positions.shape, self.dtype, self.device
        given = []
        for name, value in changes.items():
            if value is None and name in _ASKED:
                continue
            same = isinstance(value, Tensor) and value.shape == shape and value.dtype is dtype
            if name not in _MOVING or not same or value.device != device:  # type: ignore[union-attr]
                return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
            given.append(value)
        if not all_finite(*given):  # type: ignore[arg-type]
            return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
        return self.moved(**changes)

    def moved(self, **changes: Tensor | None) -> State:
        """Copy with other positions, velocities or forces that are known to fit and to be finite.

        What was checked once is not checked again: a jump makes several states of the same atoms, and a GPU would be
        waited for each time.
        """
        copy = object.__new__(State)
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(changes)
        return copy

    def has_atoms_of(self, other: State) -> bool:
        """Whether all but what moves are the same tensors, as after :meth:`replace`."""
        mine, others = self.__dict__, other.__dict__
        return all(mine[name] is others[name] for name in _RESTING)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        """Copy of this state on another device or with another floating-point type."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                changes[field.name] = value.to(device=device, dtype=dtype if field.name in _FLOATING else None)
        return dataclasses.replace(self, **changes)

    @staticmethod
    def concatenate(states: Sequence[State]) -> State:
        """Join states into one batch.

        Raises
        ------
        StateError
            If the list is empty, or an optional field is present in some states and absent in others.
        """
        if not states:
            raise StateError("cannot concatenate an empty list of states")
        joined: dict[str, Tensor | None] = {}
        for name in (*_PER_ATOM, "cell", "pbc", "bonds"):
            values = [getattr(state, name) for state in states]
            if any(value is None for value in values):
                if not all(value is None for value in values):
                    raise StateError(f"{name} is present in some states and absent in others; give it for all or none")
                joined[name] = None
                continue
            joined[name] = torch.cat(_shifted(name, values, states))
        return State(**joined)  # type: ignore[arg-type]

    def split(self) -> list[State]:
        """Undo :meth:`concatenate`: one state per system."""
        counts = self.atom_counts.tolist()
        starts = [sum(counts[:i]) for i in range(len(counts))]
        systems = []
        for index, (start, count) in enumerate(zip(starts, counts, strict=True)):
            fields: dict[str, Tensor | None] = {}
            for name in _PER_ATOM:
                value = getattr(self, name)
                fields[name] = None if value is None or name == "batch" else value[start : start + count]
            fields["cell"] = None if self.cell is None else self.cell[index : index + 1]
            fields["pbc"] = self.pbc[index : index + 1]  # type: ignore[index]
            if self.bonds is not None:
                inside = (self.bonds[:, 0] >= start) & (self.bonds[:, 0] < start + count)
                fields["bonds"] = self.bonds[inside] - start
            systems.append(State(**fields))  # type: ignore[arg-type]
        return systems


def all_finite(*values: Tensor) -> bool:
    """Whether there is neither NaN nor infinity; one sum is the cheapest way to see it, and rarely wrong."""
    sums = [(one.detach() if one.requires_grad else one).sum() for one in values]
    if sums and not sums[0].is_cpu:  # a GPU is waited for once
        sums = [torch.stack(sums).sum()]
    if all(math.isfinite(one.item()) for one in sums):
        return True
    return all(bool(torch.isfinite(one.detach()).all()) for one in values)


def _shifted(name: str, values: list[Tensor], states: Sequence[State]) -> list[Tensor]:
    """Add the offset that index fields need when states are joined."""
    if name == "batch":
        sizes = [state.n_systems for state in states]
    elif name == "bonds":
        sizes = [state.n_atoms for state in states]
    else:
        return values
    return [value + sum(sizes[:i]) for i, value in enumerate(values)]


def _check_tensor(
    name: str,
    value: Tensor,
    shape: tuple[int | None, ...],
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> None:
    if not isinstance(value, Tensor):
        raise StateError(f"{name} is a {type(value).__name__}; expected a torch.Tensor of shape {_show(shape)}")
    _check_shape(name, value, shape)
    if value.dtype not in (torch.float32, torch.float64):
        raise StateError(f"{name} has dtype {value.dtype}; expected torch.float32 or torch.float64")
    if dtype is not None and value.dtype != dtype:
        raise StateError(f"{name} has dtype {value.dtype} but positions has {dtype}; give both the same")
    if device is not None and value.device != device:
        raise StateError(f"{name} is on {value.device} but positions is on {device}; move them together with to()")
    if not all_finite(value):
        row = int((~torch.isfinite(value.detach())).reshape(value.shape[0], -1).any(dim=1).nonzero()[0])
        message = f"{name} has a NaN or infinite value at index {row}; check the input of that "
        if name == "cell":
            raise NotFiniteError(f"{message}system", name)
        raise NotFiniteError(f"{message}atom", name, row)


def _check_index(name: str, value: Tensor, shape: tuple[int | None, ...], device: torch.device) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        raise StateError(f"{name} must be a torch.Tensor of int64, shape {_show(shape)}")
    _check_shape(name, value, shape)
    if value.device != device:
        raise StateError(f"{name} is on {value.device} but positions is on {device}; move them together with to()")


def _check_shape(name: str, value: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = value.dim() == len(shape) and all(
        want in (None, have) for have, want in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise StateError(f"{name} has shape {tuple(value.shape)}; expected {_show(shape)}")


def _show(shape: tuple[int | None, ...]) -> str:
    return (
        "(" + ", ".join("N" if size is None else str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
    )
