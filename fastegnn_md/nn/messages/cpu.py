"""The C++ kernel of :mod:`.sums` for the CPU: compiled on request, once per machine, and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._extras import naming_extras
from ...errors import ConfigError
from ..compiler import require_compiler
from ..kept import is_whole, keep, kept_folder

if TYPE_CHECKING:
    from .inputs import MessageInputs

# Rounding may differ from torch's, but neither NaN nor infinity is assumed away. Without OpenMP, which Apple's compiler
# lacks, ATen's parallel loops run on one thread.
_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", *([] if sys.platform == "darwin" else ["-fopenmp"])]
_INSTRUCTIONS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"],
    "AVX2": ["-mavx2", "-mfma"],
}
_loaded = False


def build() -> None:
    """Compile the kernel where no earlier process has done so (seconds), and use it from now on in this process.

    It is kept in ``$XDG_CACHE_HOME/fastegnn-md`` (``~/.cache/fastegnn-md``), one file for each version of torch and
    each kind of CPU. One that is damaged, or that others may have written, is compiled anew.

    Raises
    ------
    ConfigError
        If there is no C++ compiler, or it fails; if the folder cannot be written to, or can be by others.
    MissingDependencyError
        If ninja (extra ``compile``) is not installed.
    """
    global _loaded
    if not _registered():
        source = (files("fastegnn_md.nn.messages") / "message_sums.cpp").read_text(encoding="utf-8")
        capability = torch.backends.cpu.get_cpu_capability()
        flags = [*_FLAGS, *_INSTRUCTIONS.get(capability, [])]
        key = hashlib.sha256("\n".join([source, torch.__version__, *flags]).encode()).hexdigest()[:16]
        kept = kept_folder(_cache()) / f"message-sums-{key}.so"
        if is_whole(kept):
            torch.ops.load_library(str(kept))
        else:
            _compile(source, flags, kept)
    _loaded = True


def _registered() -> bool:
    """Whether torch has the kernel; it can be given to it once per process."""
    return hasattr(torch.ops.fastegnn_md, "message_sums")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastegnn-md" / "kernels"


def _compile(source: str, flags: list[str], target: Path) -> None:
    """Compile, load, and keep a copy for the next process."""
    require_compiler(on_cpu=True)
    from torch.utils.cpp_extension import load

    path = os.environ.get("PATH", "")
    # In a folder of its own: a build that was killed in a shared one would leave a lock that the next waits for.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "message_sums.cpp"
        file.write_text(source, encoding="utf-8")
        try:
            os.environ["PATH"] = os.pathsep.join([*_ninja(), path])
            load("message_sums", [str(file)], extra_cflags=flags, build_directory=folder, is_python_module=False)
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"the C++ compiler could not build the CPU kernel; go on without it: {error}") from error
        finally:
            os.environ["PATH"] = path
        try:
            keep(target, (Path(folder) / "message_sums.so").read_bytes())
        except OSError as error:  # it serves this process
            warnings.warn(f"the CPU kernel could not be kept in {target}: {error.strerror or error}", stacklevel=2)


def _ninja() -> list[str]:
    """Folder of ninja, which torch builds with, unless it is found without."""
    if shutil.which("ninja"):
        return []
    with naming_extras("the CPU kernel"):
        import ninja
    return [ninja.BIN_DIR]


def serves(tensor: Tensor) -> bool:
    """Whether the kernel is there for tensors like this one."""
    return _loaded and tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def forward(inputs: MessageInputs, edge_index: Tensor, sums: Tensor) -> Tensor:
    """Add to the sums (N, H), and return the outputs of the head (E, Q)."""
    return torch.ops.fastegnn_md.message_sums(*_arguments(inputs, edge_index), sums)


def backward(inputs: MessageInputs, edge_index: Tensor, of_sums: Tensor, of_outputs: Tensor) -> Sequence[Tensor | None]:
    """Gradients of the inputs; None for those that are not given."""
    found = torch.ops.fastegnn_md.message_sums_backward(*_arguments(inputs, edge_index), of_sums, of_outputs)
    return [None if one is None else gradient for one, gradient in zip(inputs, found, strict=True)]


def _arguments(inputs: MessageInputs, edge_index: Tensor) -> list[Tensor | None]:
    at_receiver, at_sender, *others = (None if one is None else one.detach().contiguous() for one in inputs)
    receiver, sender = edge_index
    return [at_receiver, at_sender, receiver.contiguous(), sender.contiguous(), *others]
