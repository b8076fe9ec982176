"""A whole jump as one call of the C++ library (``jump.cpp``)."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import GraphError
from .library import answer
from .network import Plan

_POINTERS = ("positions", "velocities", "forces", "masses", "species", "features", "linear", "scale")
_SETTINGS = ("periodic", "conserve", "kicks")
_REALS = ("timestep", "velocity_scale", "force_scale")

# The last part of what jumps are told, as in ``surroundings.h``.
AROUND: tuple[tuple[str, Any], ...] = (
    ("element", ctypes.c_void_p),
    *((name, ctypes.c_int64) for name in ("elements", "functions")),
    *((name, ctypes.c_double) for name in ("reach", "first", "spacing", "skirt")),
    *((name, ctypes.c_void_p) for name in ("whitening", "offset", "unlike")),
)


class Around(NamedTuple):
    """Surroundings of training, as :mod:`fastegnn_md.propagator.surroundings` measures them."""

    element: Tensor  # (N,), int64: index of each node's element among those known
    whitening: Tensor  # (size, elements, size)
    offset: Tensor  # (elements, size)
    elements: int
    functions: int
    reach: float  # Å, as what follows
    first: float
    spacing: float
    skirt: float


class Near(ctypes.Structure):
    """Systems, and what makes edges of them; names, shapes and units as in ``edges.h``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("nodes", "systems", "edges", "threads")),
        *((name, ctypes.c_void_p) for name in ("begin", "receiver", "sender", "vector", "shift")),
        *((name, ctypes.c_void_p) for name in ("partners_begin", "partners", "steps")),
        *((name, ctypes.c_int64) for name in ("radial", "bonded")),
        ("cutoff", ctypes.c_double),
        ("overlap", ctypes.c_int64 * 2),
    ]

    def set(self, **tensors: Tensor | None) -> None:
        """Point at contiguous tensors, which must live as long."""
        for name, tensor in tensors.items():
            setattr(self, name, None if tensor is None else tensor.data_ptr())

    def set_around(self, around: Around, unlike: Tensor) -> None:
        """Have it say how unlike those of training surroundings are; of those that have a place for that."""
        for name, value in around._asdict().items():
            setattr(self, name, value.data_ptr() if isinstance(value, Tensor) else value)
        self.set(unlike=unlike)


class Jump(Near):
    """What a jump is told; names, shapes and units as in ``jump.cpp``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SETTINGS),
        *((name, ctypes.c_double) for name in _REALS),
        *((name, ctypes.c_void_p) for name in ("displacement", "moved")),
        *AROUND,
    ]


def run(plan: Plan, packed: Tensor, jump: Jump, positions: Tensor) -> None:
    """Jump from these positions.

    Raises
    ------
    GraphError
        If two atoms lie on each other; nothing is then written.
    """
    jump.threads = torch.get_num_threads()
    if answer(plan.library.fastegnn_jump(plan.handle, ctypes.c_void_p(packed.data_ptr()), ctypes.byref(jump))):
        raise two_apart(jump, positions)


def two_apart(near: Near, positions: Tensor) -> GraphError:
    """Of two atoms that were found to lie on each other."""
    i, j = near.overlap
    return GraphError.overlapping(i, j, float((positions[i] - positions[j]).detach().norm()))
