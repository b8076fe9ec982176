"""What a compiler needs of a machine, asked before it fails in a run."""

from __future__ import annotations

import locale
import os
import shutil
import sysconfig
from pathlib import Path

from ..errors import ConfigError


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
