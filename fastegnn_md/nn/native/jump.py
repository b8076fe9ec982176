"""A whole jump as one call of the C++ library (``jump.cpp``)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .network import Plan

_NUMBERS = ("nodes", "systems", "edges", "threads")
_POINTERS = (
    *("begin", "receiver", "sender", "vector", "positions", "velocities", "forces", "masses", "species"),
    *("features", "linear", "scale", "partners_begin", "partners", "steps"),
)
_SETTINGS = ("radial", "periodic", "conserve", "bonded", "kicks")
_REALS = ("cutoff", "timestep", "velocity_scale", "force_scale")


class Jump(ctypes.Structure):
    """What a jump is told; names, shapes and units as in ``jump.cpp``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SETTINGS),
        *((name, ctypes.c_double) for name in _REALS),
        ("element", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("elements", "functions")),
        *((name, ctypes.c_double) for name in ("reach", "first", "spacing", "skirt")),
        *((name, ctypes.c_void_p) for name in ("whitening", "offset", "displacement", "moved", "unlike")),
        ("overlap", ctypes.c_int64 * 2),
    ]

    def set(self, **tensors: Tensor | None) -> None:
        """Point at contiguous tensors, which must live as long."""
        for name, tensor in tensors.items():
            setattr(self, name, None if tensor is None else tensor.data_ptr())


def run(plan: Plan, packed: Tensor, jump: Jump) -> tuple[int, int] | None:
    """Jump; the numbers of two atoms that lie on each other, where there are such, and nothing is then written."""
    jump.threads = torch.get_num_threads()
    if plan.library.fastegnn_jump(plan.handle, ctypes.c_void_p(packed.data_ptr()), ctypes.byref(jump)):
        return jump.overlap[0], jump.overlap[1]
    return None
