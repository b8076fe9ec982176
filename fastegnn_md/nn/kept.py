"""Compiled libraries that are kept between processes: loaded only where nobody else can have put them."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from .._files import write_atomically
from ..errors import ConfigError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def kept_folder(folder: Path) -> Path:
    """Make a folder for compiled libraries, before minutes are spent on them.

    Raises
    ------
    ConfigError
        If nothing can be written to it, or others may write to it or to a folder on the way: a library is code.
    """
    way_out = "set XDG_CACHE_HOME to a folder that you alone may write to, or go on without compile()"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"compiled kernels cannot be kept in {folder}: {error.strerror or error}; {way_out}"
        ) from error
    for place in (folder.absolute(), folder.resolve()):
        for one in (place, *place.parents):
            if not _private(one, folder=True):
                raise ConfigError(
                    f"compiled kernels are not kept in {folder}: others may write to {one}; chmod go-w it, or {way_out}"
                )
    return folder


def is_whole(library: Path) -> bool:
    """Whether a kept library is there, the user's alone, and as it was written."""
    if not (library.is_file() and _private(library) and _private(_checksum(library))):
        return False
    try:
        return _checksum(library).read_text(encoding="ascii") == hashlib.sha256(library.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return False


def keep(library: Path, content: bytes) -> None:
    """Write a library and its checksum.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    for path, what in ((library, content), (_checksum(library), hashlib.sha256(content).hexdigest().encode())):
        write_atomically(path, what)
        path.chmod(0o600)  # whatever the umask


def _checksum(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _private(path: Path, *, folder: bool = False) -> bool:
    """Whether the user owns a file and nobody else may write to it; folders may be root's, or sticky as /tmp is."""
    if not hasattr(os, "geteuid"):  # Windows has other rights
        return path.exists()
    try:
        found = path.stat()
    except OSError:
        return False
    if found.st_uid != os.geteuid() and not (folder and found.st_uid == 0):
        return False
    if folder and found.st_mode & stat.S_ISVTX:
        return True
    shared = found.st_mode & _OTHERS
    return not shared or (shared == stat.S_IWGRP and _is_group_of_one(found.st_gid))


def _is_group_of_one(group: int) -> bool:
    """Whether a group is that of the user alone, as many systems give each user one."""
    import grp
    import pwd

    try:
        name, members = grp.getgrgid(group).gr_name, grp.getgrgid(group).gr_mem
        return name == pwd.getpwuid(os.geteuid()).pw_name and not set(members) - {name}
    except KeyError:
        return False
