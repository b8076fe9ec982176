"""What a compiler needs of a machine, asked before it fails in a run."""

from __future__ import annotations

import locale
import os
import shutil

from ..errors import ConfigError


def require_compiler(on_cpu: bool) -> None:
    """Refuse to go on where ``torch.compile`` could not.

    Raises
    ------
    ConfigError
        If there is no C++ compiler for the CPU, or the locale of the process is not UTF-8.
    """
    compilers = (os.environ.get("CXX"), "g++", "clang++", "c++")
    if on_cpu and not any(name and shutil.which(name) for name in compilers):
        raise ConfigError("compile() needs a C++ compiler and found none; install g++ or clang++, or go without")
    if locale.getencoding().lower() != "utf-8":  # torch reads and writes its files in it
        raise ConfigError(
            f"compile() needs a UTF-8 locale and this process has {locale.getencoding()}; some OpenCL drivers set it "
            "to C, and locale.setlocale(locale.LC_CTYPE, 'C.UTF-8') sets it back"
        )
