"""Writing files so that a kill or a full disk never leaves a damaged one, and files of tensors with a header."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CheckpointError, ConfigError

Header = dict[str, Any]


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write to a temporary name beside the file, flush it to disk, then rename it over the file.

    Parameters
    ----------
    path : path
    content : bytes

    Raises
    ------
    OSError
        If the folder is missing or read-only or the disk is full; a previous file of that name is then untouched.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files for the owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@dataclass(frozen=True)
class TensorFormat:
    """A kind of safetensors file whose header says, as JSON, what it is and of which version.

    Files hold tensors and text only, so that reading one runs no code.

    Parameters
    ----------
    name : str
        Written into the header under ``format``.
    version : int
        Written under ``format_version``; newer files are refused.
    key : str
        Of the metadata that the JSON stands under.
    what : str
        The kind of file in words.
    advice : str
        What to do about one that cannot be read.
    migrations : dict of int to callable
        From the header of each older version that is read to that of the next.
    """

    name: str
    version: int
    key: str
    what: str
    advice: str
    migrations: Mapping[int, Callable[[Header], Header]] = field(default_factory=dict)

    def write(self, path: str | Path, tensors: Mapping[str, Any], header: Header) -> None:
        """Replace a file, completely or not at all.

        Parameters
        ----------
        path : path
        tensors : mapping
            Of tensors on any device, or of NumPy arrays; kept bit for bit.
        header : dict
            What JSON can hold; floats are kept bit for bit.

        Raises
        ------
        OSError
            If it cannot be written; what stood there before is untouched.
        """
        import numpy as np
        from safetensors import numpy as arrays
        from safetensors import torch as torches

        text = {self.key: json.dumps({"format": self.name, "format_version": self.version, **header})}
        if all(isinstance(value, np.ndarray) for value in tensors.values()):
            content = arrays.save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, text)
        else:
            content = torches.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, text)
        write_atomically(path, content)

    def read(self, path: str | Path, *, numpy: bool = False) -> tuple[dict[str, Any], Header]:
        """Tensors, or NumPy arrays, and the header in the words of the present version.

        Raises
        ------
        CheckpointError
            If the file is missing, truncated, of another kind or of a newer version, or its header is damaged.
        """
        return self._open(path, "np" if numpy else "pt", tensors=True)

    def read_header(self, path: str | Path) -> Header:
        """The header alone; raises as :meth:`read`."""
        return self._open(path, "np", tensors=False)[1]

    def _open(self, path: str | Path, framework: str, *, tensors: bool) -> tuple[dict[str, Any], Header]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework=framework) as file:
                header = self._present(path, file.metadata() or {})
                names = file.keys() if tensors else ()
                # Copied: the file may be replaced while these are in use.
                found = {name: file.get_tensor(name) for name in names}
                return {name: one.copy() if framework == "np" else one.clone() for name, one in found.items()}, header
        except FileNotFoundError as error:
            raise CheckpointError(f"no {self.what} at {path}") from error
        except SafetensorError as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file ({error}): {self.advice}") from error
        except OSError as error:
            raise CheckpointError(f"cannot read the {self.what} {path}: {error.strerror or error}") from error

    def _present(self, path: str | Path, metadata: Mapping[str, str]) -> Header:
        try:
            header = json.loads(metadata[self.key])
            known = isinstance(header, dict) and header.get("format") == self.name
        except (KeyError, json.JSONDecodeError):
            known = False
        if not known:
            raise CheckpointError(f"{path} is a safetensors file but not a {self.what} of fastegnn_md")
        found = header.get("format_version", header.get("version"))  # training checkpoints of version 1 say "version"
        if not isinstance(found, int) or found > self.version:
            raise CheckpointError(
                f"{path} has format version {found}, this version of fastegnn-md reads up to {self.version}: upgrade "
                "fastegnn-md"
            )
        try:
            for version in range(found, self.version):
                header = self.migrations[version](header)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from error
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the header of the {self.what} {path} is damaged ({error}): {self.advice}"
            ) from error
        return header
