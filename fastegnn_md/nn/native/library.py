"""The C++ code of this folder as a library: compiled once per machine, kept in the cache, called by pointers.

It includes nothing but the standard library, neither torch nor Python: it compiles in seconds with any compiler of
C++17, serves every version of both, and calls cost a few microseconds. Nothing is compiled at import.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.resources import files
from pathlib import Path

import torch

from ...errors import ConfigError
from ..compiler import find_compiler
from ..kept import is_whole, keep, kept_folder

# "off": never compile or load; anything else: as soon as it is needed.
SWITCH = "FASTEGNN_MD_NATIVE"
# Rounding may differ from torch's, but neither NaN nor infinity is assumed away.
_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wno-psabi",
]
_INSTRUCTIONS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"],
    "AVX2": ["-mavx2", "-mfma"],
}

_log = logging.getLogger(__name__)


class _Loader:
    """What this process knows of the library."""

    library: ctypes.CDLL | None = None
    failed: str | None = None  # why it could not be had; asked once per process


_loader = _Loader()


def library() -> ctypes.CDLL | None:
    """The library, compiled if no earlier process has done so, which is told; None where that is not possible.

    It is kept in ``$XDG_CACHE_HOME/fastegnn-md`` (``~/.cache/fastegnn-md``), one file for each version of this package
    and each kind of CPU. One that is damaged, or that others may have written, is compiled anew. Where it cannot be
    had, a warning of the log says why, once, and the same numbers are computed by torch, more slowly.
    """
    if _loader.library is None and _loader.failed is None:
        if os.environ.get(SWITCH, "").lower() == "off":
            _loader.failed = f"{SWITCH} is off"
            return None
        try:
            return build()
        except ConfigError as error:
            _loader.failed = str(error)
            _log.warning("jumps are computed without the C++ library: %s", error)
    return _loader.library


def answer(code: int) -> int:
    """What a function of the library has answered.

    Raises
    ------
    MemoryError
        If it is negative: there was not enough memory.
    """
    if code < 0:
        raise MemoryError("the C++ library has not the memory for this; take fewer systems, or smaller ones, at a time")
    return code


def build() -> ctypes.CDLL:
    """:func:`library`, with the reason where there is none.

    Raises
    ------
    ConfigError
        If there is no C++ compiler, or it fails; if the folder cannot be written to, or can be by others.
    """
    if _loader.library is None:
        sources = _sources()
        flags = [*_FLAGS, *_INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), [])]
        openmp = _openmp()
        flags += ["-fopenmp"] if openmp else []
        key = hashlib.sha256("\n".join([*sources, *sources.values(), *flags, sys.platform]).encode()).hexdigest()[:16]
        kept = kept_folder(_cache()) / f"native-{key}.so"
        try:
            if openmp:
                # The threads of torch, not others beside them: its OpenMP is found by name by what is loaded later.
                ctypes.CDLL(openmp, mode=ctypes.RTLD_GLOBAL)
            _loader.library = ctypes.CDLL(str(kept)) if is_whole(kept) else _compiled(sources, flags, kept)
        except OSError as error:
            raise ConfigError(f"the C++ library cannot be loaded; go on without it: {error}") from error
        _loader.failed = None
    return _loader.library


def _sources() -> dict[str, str]:
    folder = files("fastegnn_md.nn.native")
    names = sorted(one.name for one in folder.iterdir() if one.name.endswith((".cpp", ".h")))
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastegnn-md" / "kernels"


def _openmp() -> str | None:
    """The OpenMP library that torch has loaded, where the compiler is one that makes calls of its kind."""
    compiler = find_compiler()
    clang = compiler is not None and "clang" in Path(compiler).resolve().name
    if clang or not sys.platform.startswith("linux"):
        return None
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    paths = {line.split()[-1] for line in maps.splitlines() if "/" in line}
    return next((one for one in sorted(paths) if Path(one).name.startswith(("libgomp", "libiomp5"))), None)


def _compiled(sources: dict[str, str], flags: list[str], target: Path) -> ctypes.CDLL:
    """Compile, load, and keep a copy for the next process."""
    compiler = find_compiler()
    if compiler is None:
        raise ConfigError("there is no C++ compiler; install g++ or clang++, or go on without")
    _log.warning("compiling the C++ library, once on this machine: about a minute")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in sources.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        made = Path(folder) / "native.so"
        parts = [name for name in sources if name.endswith(".cpp")]
        running = [
            subprocess.Popen(
                [compiler, *flags, "-c", name, "-o", f"{name}.o"],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},
            )
            for name in parts
        ]
        said = [one.communicate()[0].decode(errors="replace") for one in running]
        wrong = [text for text, one in zip(said, running, strict=True) if one.returncode]
        if not wrong:
            # Without -fopenmp, which would name another copy of OpenMP than torch has.
            link = [compiler, "-shared", *(f"{name}.o" for name in parts), "-o", made.name]
            linked = subprocess.run(link, cwd=folder, capture_output=True, check=False)
            wrong = [linked.stderr.decode(errors="replace")] if linked.returncode else []
        if wrong:
            raise ConfigError(
                f"{compiler} could not build the C++ library; go on without it: {wrong[0].strip()[:2000]}"
            )
        try:
            keep(target, made.read_bytes())
            return ctypes.CDLL(str(target))
        except OSError as error:  # it serves this process
            warnings.warn(f"the C++ library could not be kept in {target}: {error.strerror or error}", stacklevel=2)
            own = Path(tempfile.mkdtemp()) / "native.so"
            shutil.copy(made, own)
            try:
                return ctypes.CDLL(str(own))
            finally:
                shutil.rmtree(own.parent)
