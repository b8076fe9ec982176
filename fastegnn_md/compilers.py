"""Jumps translated by ``torch.compile``, and what a compiler needs of a machine, asked before it fails in a run."""

from __future__ import annotations

import locale
import os
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import ConfigError
from .graph import EdgeList

# Edges up to which a jump that is compiled as a whole is faster on the CPU than one with the C++ kernel.
_COMPILED_EDGES = 4096
# On a GPU, where a CUDA graph is recorded for each number of edges, it is filled up to a multiple of this.
_PADDED_EDGES = 1024

Move = Callable[..., tuple[Any, ...]]  # from tensors to tensors, or None in their place


class CompiledMove:
    """The arithmetic of a jump, or of a kick, as one piece of compiled code.

    Parameters
    ----------
    move : callable
        From tensors to a tuple of tensors; messages must be weighted by an envelope that is zero at the cutoff.
    cutoff : float
        Å.
    on_cpu : bool
        Else on a GPU, where the code is recorded in CUDA graphs.
    """

    def __init__(self, move: Move, cutoff: float, *, on_cpu: bool):
        self._cutoff, self._on_cpu = cutoff, on_cpu
        # Called from C++, the kernels of a small molecule take half the time they take when called from Python.
        options: Any = {"cpp_wrapper": True} if on_cpu else {"triton.cudagraphs": True}
        self._move = torch.compile(move, dynamic=True, fullgraph=True, options=options)

    def pays(self, edges: EdgeList) -> bool:
        """Whether it is faster than the same arithmetic with the kernels for many edges."""
        return not self._on_cpu or edges.edge_index.shape[1] <= _COMPILED_EDGES

    def sized(self, edges: EdgeList, atoms: int) -> EdgeList:
        """Edges to give: lists of a few sizes only where a graph is recorded for each size."""
        return edges if self._on_cpu else edges.padded(_PADDED_EDGES, self._cutoff, atoms)

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        """What ``move`` gives."""
        if self._on_cpu:
            return self._move(*inputs)
        torch.compiler.cudagraph_mark_step_begin()
        # What a graph returns is its own, and overwritten by its next run.
        return tuple(None if one is None else one.clone() for one in self._move(*inputs))


def find_compiler() -> str | None:
    """Path of the C++ compiler that torch would take, or None."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def has_headers() -> bool:
    """Whether this Python came with its C headers; Debian has them in a package of their own."""
    return (Path(sysconfig.get_path("include")) / "Python.h").is_file()


def require_compiler(on_cpu: bool) -> None:
    """Refuse to go on where ``torch.compile`` could not.

    Raises
    ------
    ConfigError
        If there is no C++ compiler for the CPU, or the locale of the process is not UTF-8.
    """
    if on_cpu and find_compiler() is None:
        raise ConfigError("compile() needs a C++ compiler and found none; install g++ or clang++, or go without")
    if locale.getencoding().lower() != "utf-8":  # torch reads and writes its files in it
        raise ConfigError(
            f"compile() needs a UTF-8 locale and this process has {locale.getencoding()}; some OpenCL drivers set it "
            "to C, and locale.setlocale(locale.LC_CTYPE, 'C.UTF-8') sets it back"
        )


def require_headers() -> None:
    """Refuse to go on where a jump could not be compiled for the CPU; the C++ kernel does without.

    Raises
    ------
    ConfigError
        If the headers of Python are missing.
    """
    if not has_headers():
        raise ConfigError(
            f"compile() needs the headers of Python and {sysconfig.get_path('include')} has no Python.h; "
            "apt-get install python3-dev, or go without"
        )
