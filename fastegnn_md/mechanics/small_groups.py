"""Bond lengths of small groups of coupled bonds, such as hydrogens on their heavy atom, held by the C++ library.

What :mod:`fastegnn_md.mechanics.constraints` solves with a few dozen small operations of torch is here one call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from ..nn.native.functions import INTEGER, POINTER, REAL, NativeFunction, readable

LARGEST = 32  # bonds of a group; as in nn/native/constraints.cpp


class _FixedGroups(ctypes.Structure):
    """As in nn/native/constraints.cpp."""

    _fields_ = (
        ("atoms", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("starts", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("mobility", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("coupling", ctypes.c_void_p),
        ("frozen", ctypes.c_void_p),
    )


_GROUPS = ctypes.POINTER(_FixedGroups)
_hold_positions = NativeFunction("hold_positions", _GROUPS, *[POINTER] * 4, REAL, REAL, INTEGER, POINTER)
_hold_velocities = NativeFunction("hold_velocities", _GROUPS, *[POINTER] * 4)
_hold_both = NativeFunction("hold_both", _GROUPS, *[POINTER] * 4, REAL, REAL, INTEGER, POINTER, POINTER)


class SmallGroups:
    """Groups of at most 32 bonds each, none of which follows from others.

    Parameters
    ----------
    sizes : sequence of int
        Bonds of each group.
    bonds : Tensor of int64, shape (M, 2)
        Those of the first group, of the second, and so on.
    mobility : Tensor of float64, shape (M, 2), 1/amu
        Inverse masses of the two atoms, that of the second negative.
    lengths : Tensor of float64, shape (M,), Å
    couplings : sequence of Tensor of float64, shape (K, m, m)
        How a unit impulse on a bond changes the vector of another, group after group.
    frozen : Tensor of bool, shape (N,)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        bonds: Tensor,
        mobility: Tensor,
        lengths: Tensor,
        couplings: Sequence[Tensor],
        frozen: Tensor,
    ):
        starts = torch.tensor([0, *sizes]).cumsum(0)
        coupling = torch.cat([one.flatten() for one in couplings])
        # The structure holds no more than their addresses.
        self._arrays = [x.contiguous() for x in (starts, bonds, mobility, lengths, coupling, frozen)]
        addresses = [x.data_ptr() for x in self._arrays]
        if not bool(frozen.any()):
            addresses[-1] = 0
        self._groups = _FixedGroups(len(frozen), len(sizes), *addresses)
        self._shapes = (len(bonds), 3), (len(frozen), 3)

    def __reduce__(self) -> tuple[type[SmallGroups], tuple[object, ...]]:  # addresses are those of this process
        starts, bonds, mobility, lengths, coupling, frozen = self._arrays
        return type(self), (starts.diff().tolist(), bonds, mobility, lengths, [coupling], frozen)

    def hold_positions(
        self,
        before: Tensor,
        after: Tensor,
        shifts: Tensor,
        reference: Tensor | None,
        tolerance: tuple[float, float],
        iterations: int,
    ) -> Tensor | None:
        """As :meth:`Constraints.hold_positions`; None where it has to be done, or refused, there.

        Parameters
        ----------
        before, after, shifts, reference : Tensor of float64, the last one optional
            As there.
        tolerance : (float, float)
            Of squared lengths L²: L times (the first times L and the second times the largest coordinate).
        iterations : int
            Of Newton's method at most.
        """
        rows = (before, after) if reference is None else (before, after, reference)
        native = _hold_positions.get() if self._read(shifts, *rows) else None
        if native is None:
            return None
        held = torch.empty(after.shape, dtype=torch.float64)
        found = native(
            self._groups,
            before.data_ptr(),
            after.data_ptr(),
            None if reference is None else reference.data_ptr(),
            shifts.data_ptr(),
            *tolerance,
            iterations,
            held.data_ptr(),
        )
        return held if found else None

    def hold_velocities(self, positions: Tensor, velocities: Tensor, shifts: Tensor) -> Tensor | None:
        """As :meth:`Constraints.hold_velocities`; None where it has to be done there."""
        native = _hold_velocities.get() if self._read(shifts, positions, velocities) else None
        if native is None:
            return None
        held = torch.empty(velocities.shape, dtype=torch.float64)
        found = native(
            self._groups,
            positions.data_ptr(),
            velocities.data_ptr(),
            shifts.data_ptr(),
            held.data_ptr(),
        )
        return held if found else None

    def hold_both(
        self,
        before: Tensor,
        after: Tensor,
        velocities: Tensor,
        shifts: Tensor,
        tolerance: tuple[float, float],
        iterations: int,
    ) -> tuple[Tensor, Tensor] | None:
        """Positions, and velocities there; arguments of the two above."""
        native = _hold_both.get() if self._read(shifts, before, after, velocities) else None
        if native is None:
            return None
        positions, held = torch.empty_like(after), torch.empty_like(after)
        addresses = before.data_ptr(), after.data_ptr(), velocities.data_ptr(), shifts.data_ptr()
        found = native(self._groups, *addresses, *tolerance, iterations, positions.data_ptr(), held.data_ptr())
        return (positions, held) if found else None

    def _read(self, shifts: Tensor, *per_atom: Tensor) -> bool:
        """Whether the library can read these: numbers in rows, on the CPU, without gradients."""
        of_bonds, of_atoms = self._shapes
        fit = shifts.shape == of_bonds and all(x.shape == of_atoms for x in per_atom)
        return fit and readable(shifts, *per_atom)
