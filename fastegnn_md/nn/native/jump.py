"""A whole jump as one call of the C++ library (``jump.cpp``)."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .network import Plan

_POINTERS = ("positions", "velocities", "forces", "masses", "species", "features", "linear", "scale")
_SETTINGS = ("periodic", "conserve", "kicks")
_REALS = ("timestep", "velocity_scale", "force_scale")


class Near(ctypes.Structure):
    """Systems, and what makes edges of them; names, shapes and units as in ``edges.h``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("nodes", "systems", "edges", "threads")),
        *((name, ctypes.c_void_p) for name in ("begin", "receiver", "sender", "vector")),
        *((name, ctypes.c_void_p) for name in ("partners_begin", "partners", "steps")),
        *((name, ctypes.c_int64) for name in ("radial", "bonded")),
        ("cutoff", ctypes.c_double),
        ("overlap", ctypes.c_int64 * 2),
    ]

    def set(self, **tensors: Tensor | None) -> None:
        """Point at contiguous tensors, which must live as long."""
        for name, tensor in tensors.items():
            setattr(self, name, None if tensor is None else tensor.data_ptr())


class Jump(Near):
    """What a jump is told; names, shapes and units as in ``jump.cpp``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SETTINGS),
        *((name, ctypes.c_double) for name in _REALS),
        ("element", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("elements", "functions")),
        *((name, ctypes.c_double) for name in ("reach", "first", "spacing", "skirt")),
        *((name, ctypes.c_void_p) for name in ("whitening", "offset", "displacement", "moved", "unlike")),
    ]


def run(plan: Plan, packed: Tensor, jump: Jump) -> tuple[int, int] | None:
    """Jump; the numbers of two atoms that lie on each other, where there are such, and nothing is then written."""
    jump.threads = torch.get_num_threads()
    if plan.library.fastegnn_jump(plan.handle, ctypes.c_void_p(packed.data_ptr()), ctypes.byref(jump)):
        return jump.overlap[0], jump.overlap[1]
    return None
