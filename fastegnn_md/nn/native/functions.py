"""Functions of the C++ library by name, and which tensors they can read."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .library import library

POINTER, INTEGER, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class NativeFunction:
    """A function of the library that answers whether it has done its work.

    Parameters
    ----------
    name : str
        In C.
    arguments : ctypes types
        Of its arguments.
    """

    name: str
    arguments: tuple[Any, ...]

    def __init__(self, name: str, *arguments: Any):
        self.name, self.arguments = name, arguments
        self._found: tuple[ctypes.CDLL, Callable[..., int]] | None = None

    def get(self) -> Callable[..., int] | None:
        """The function; None where there is no library."""
        native = library()
        if native is None:
            return None
        if self._found is None or self._found[0] is not native:
            function = getattr(native, self.name)
            function.argtypes, function.restype = self.arguments, ctypes.c_int
            self._found = native, function
        return self._found[1]


def readable(*values: Tensor) -> bool:
    """Whether these are float64 in rows, on the CPU, without gradients: what the functions read by their addresses."""
    for x in values:  # all(…) takes twice as long, and a jump asks a dozen times
        if x.dtype is not torch.float64 or not x.is_cpu or x.requires_grad or not x.is_contiguous():
            return False
    return True
