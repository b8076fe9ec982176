"""Compiled kernels are loaded only where the user alone can have put them, whole; what hinders is known at once."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fastegnn_md.errors import ConfigError
from fastegnn_md.nn import kept
from fastegnn_md.nn.kept import is_whole, keep, kept_folder
from fastegnn_md.nn.messages import cpu as cpu_kernel


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = kept_folder(tmp_path / "cache" / "kernels")
    keep(folder / "sums.so", b"code" * 1000)
    return folder / "sums.so"


def test_what_was_kept_is_whole_and_the_users_alone(library: Path) -> None:
    assert is_whole(library)
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "kind", ["cut", "flipped", "empty", "gone", "no checksum", "other checksum", "damaged checksum"]
)
def test_a_damaged_library_is_not_loaded(kind: str, library: Path) -> None:
    content, checksum = library.read_bytes(), library.with_suffix(".sha256")
    if kind == "gone":
        library.unlink()
    elif kind == "no checksum":
        checksum.unlink()
    elif "checksum" in kind:
        checksum.write_bytes(b"\xff" * 64 if kind.startswith("damaged") else b"0" * 64)
    else:
        library.write_bytes({"cut": content[:-1], "flipped": b"C" + content[1:], "empty": b""}[kind])
    assert not is_whole(library)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_library_or_folder_that_others_may_write_is_not_loaded(
    mode: int, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_is_group_of_one", lambda group: False)
    for path in (library, library.with_suffix(".sha256")):
        path.chmod(mode)
        assert not is_whole(path.with_suffix(".so"))
        path.chmod(0o600)
    assert is_whole(library)
    for folder in (library.parent, library.parent.parent):  # folders on the way too
        folder.chmod(mode | 0o100)
        with pytest.raises(ConfigError, match=rf"others may write to {folder}; chmod go-w it, or set XDG_CACHE_HOME"):
            kept_folder(library.parent)
        folder.chmod(0o700)
    assert kept_folder(library.parent) == library.parent


def test_a_library_of_another_user_is_not_loaded(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: library.stat().st_uid + 1)
    assert not is_whole(library)


def test_a_folder_behind_a_link_is_held_to_the_same(library: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "_is_group_of_one", lambda group: False)
    (tmp_path / "open").mkdir(mode=0o700)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(ConfigError, match="others may write to"):
        kept_folder(tmp_path / "link")


def test_a_home_that_cannot_be_written_is_found_out_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("")  # a file in the place of a folder fails for root too
    monkeypatch.setattr(cpu_kernel, "_loaded", False)
    monkeypatch.setattr(cpu_kernel, "_registered", lambda: False)  # as in a new process
    monkeypatch.setattr(cpu_kernel, "_compile", lambda *_: pytest.fail("compiled"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    begun = time.perf_counter()
    with pytest.raises(ConfigError, match=r"cannot be kept in .*home.*: .*; set XDG_CACHE_HOME"):
        cpu_kernel.build()
    assert time.perf_counter() - begun < 5
    assert not cpu_kernel._loaded


def test_a_truncated_kernel_is_built_again_and_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernel, "_loaded", False)
    monkeypatch.setattr(cpu_kernel, "_registered", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built: list[Path] = []
    loaded: list[str] = []

    def compiled(source: str, flags: list[str], target: Path) -> None:
        built.append(target)
        keep(target, b"a library of some length")

    monkeypatch.setattr(cpu_kernel, "_compile", compiled)
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    cpu_kernel.build()
    cpu_kernel.build()
    assert (len(built), loaded) == (1, [str(built[0])])
    built[0].write_bytes(b"a library of")
    cpu_kernel.build()
    assert (len(built), len(loaded)) == (2, 1)
