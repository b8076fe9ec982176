"""Writing files so that a kill, a full disk or a second writer never leaves a damaged one, and files of tensors."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CheckpointError, OutputError, brief

_LOCKS = importlib.util.find_spec("fcntl") is not None  # Windows: two writers of one output are not told apart

Header = dict[str, Any]
_CHECKSUM = "sha256"  # key of the header


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
    remove_left(path)
    temporary, handle = held_partial(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            name_finally(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def held_partial(path: Path) -> tuple[Path, int]:
    """Create a file beside ``path`` for what is not complete yet, locked while its descriptor is open.

    Returns
    -------
    Path, int
        Its name, ``.<name>.<random>.partial``, and an open descriptor.
    """
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        _flock(handle)
        if os.fstat(handle).st_nlink:  # nobody took it for one that was left
            return Path(name), handle
        os.close(handle)


def remove_left(path: Path) -> None:
    """Remove what :func:`held_partial` made for ``path`` and a killed process left."""
    for left in path.parent.glob(f".{_literal(path.name)}.*.partial"):
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDWR)
            try:
                if _flock(handle):
                    left.unlink(missing_ok=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def only_writer(path: str | Path) -> Iterator[None]:
    """Keep others from writing an output as long as the block lasts.

    The lock is that of the operating system on ``.<name>.lock`` beside the output: it ends with the process, however
    that ends. It holds for all processes that use this function, on network drives too where these have locks.

    Raises
    ------
    OutputError
        If another process is writing it, or its folder is missing or cannot be written to.
    """
    path = Path(os.path.realpath(path))
    lock = path.with_name(f".{path.name}.lock")
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write to the folder {path.parent}: {error.strerror}; choose another") from error
        if not _flock(handle):
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise OutputError(
                f"{path} is being written by another process{owner and f' ({owner})'}; wait for it, or choose another "
                "output"
            )
        if _is_at(handle, lock):
            break
        os.close(handle)  # its owner removed it just now
    try:
        with contextlib.suppress(OSError):  # of a full disk: who writes is only told in a message
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _flock(handle: int) -> bool:
    """Lock an open file for this process; False if another one has it."""
    if not _LOCKS:
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        warnings.warn("the file system has no locks: give no output to two processes at once", stacklevel=4)
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _literal(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def name_finally(partial: Path, path: Path) -> None:
    """Give a complete file its name, and the rights of any new file: those of :func:`held_partial` are the owner's."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(partial, 0o666 & ~mask)
    os.replace(partial, path)


@dataclass(frozen=True)
class TensorFormat:
    """A kind of safetensors file whose header says, as JSON, what it is and of which version.

    Files hold tensors and text only, so that reading one runs no code, and a checksum over both.

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
        header = {"format": self.name, "format_version": self.version, **header}
        checksum = _digest(header, _encoded(tensors))
        # One key only: safetensors writes several in any order, and equal files should be equal byte for byte.
        write_atomically(path, _encoded(tensors, {self.key: json.dumps({**header, _CHECKSUM: checksum})}))

    def read(self, path: str | Path, *, numpy: bool = False) -> tuple[dict[str, Any], Header]:
        """Tensors, or NumPy arrays, and the header in the words of the present version.

        Raises
        ------
        CheckpointError
            If the file is missing, truncated, of another kind or of a newer version, its header is damaged, or its
            content does not have the checksum it was written with (files of earlier versions have none).
        """
        return self._open(path, numpy=numpy)

    def read_header(self, path: str | Path) -> Header:
        """The header alone, of a file that was checked as a whole; raises as :meth:`read`."""
        return self._open(path, numpy=False)[1]

    def _open(self, path: str | Path, *, numpy: bool) -> tuple[dict[str, Any], Header]:
        from safetensors import SafetensorError
        from safetensors import numpy as arrays
        from safetensors import torch as torches

        content = self._content(Path(path))
        tensors: dict[str, Any]
        try:
            # Copied: what is read may be written to.
            if numpy:
                tensors = {name: one.copy() for name, one in arrays.load(content).items()}
            else:
                tensors = {name: one.clone() for name, one in torches.load(content).items()}
            metadata = json.loads(content[8 : 8 + _header_size(content)]).get("__metadata__") or {}
        except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # after the first: types of numbers that NumPy or PyTorch has not
            raise self._not_tensors(path, brief(error, quoted=False)) from error
        header = self._present(path, metadata)
        if _CHECKSUM in header and header.pop(_CHECKSUM) != _digest(header, content):
            raise CheckpointError(
                f"{path} is damaged: its content does not have the checksum it was written with; {self.advice}"
            )
        return tensors, self._migrated(path, header)

    def _content(self, path: Path) -> bytes:
        try:
            if path.exists() and not path.is_file():
                raise CheckpointError(f"{path} is not a file; give the path of a {self.what}")
            with open(path, "rb") as file:
                start, size = file.read(8), os.fstat(file.fileno()).st_size
                if len(start) < 8 or _header_size(start) > size - 8:  # before a large foreign file is read
                    raise self._not_tensors(path, f"{size} bytes")
                return start + file.read()
        except FileNotFoundError as error:
            raise CheckpointError(f"no {self.what} at {path}") from error
        except OSError as error:
            raise CheckpointError(f"cannot read the {self.what} {path}: {error.strerror or error}") from error
        except ValueError as error:  # a path with a null character
            raise CheckpointError(f"cannot read the {self.what} {str(path)!r}: {error}") from error

    def _not_tensors(self, path: str | Path, why: str) -> CheckpointError:
        return CheckpointError(f"{path} is truncated or not a safetensors file ({why}): {self.advice}")

    def _present(self, path: str | Path, metadata: Mapping[str, str]) -> Header:
        try:
            header = json.loads(metadata[self.key])
            known = isinstance(header, dict) and header.get("format") == self.name
        except (KeyError, TypeError, ValueError, RecursionError):
            known = False
        if not known:
            raise CheckpointError(f"{path} is a safetensors file but not a {self.what} of fastegnn_md")
        found = _version(header)
        if not isinstance(found, int) or found > self.version:
            raise CheckpointError(
                f"{path} has format version {brief(found)}, this version of fastegnn-md reads up to {self.version}: "
                "upgrade fastegnn-md"
            )
        return header

    def _migrated(self, path: str | Path, header: Header) -> Header:
        try:
            for version in range(_version(header), self.version):
                header = self.migrations[version](header)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the header of the {self.what} {path} is damaged ({brief(error, quoted=False)}): {self.advice}"
            ) from error
        return header


def _version(header: Header) -> Any:
    return header.get("format_version", header.get("version"))  # training checkpoints of version 1 say "version"


def _encoded(tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    import numpy as np
    from safetensors import numpy as arrays
    from safetensors import torch as torches

    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        return arrays.save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata)
    return torches.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata)


def _header_size(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _digest(header: Header, content: bytes) -> str:
    """SHA-256 of a header and of the tensors of a file: names, types, shapes and values."""
    from safetensors import deserialize

    digest = hashlib.sha256(json.dumps(header).encode())
    for name, one in sorted(deserialize(content)):
        digest.update(json.dumps([name, one["dtype"], one["shape"]]).encode())
        digest.update(one["data"])
    return digest.hexdigest()
