"""How the C++ library is had: kept, switched off, without a compiler, with one that fails."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from fastegnn_md.errors import ConfigError
from fastegnn_md.nn.native import library as native


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that knows nothing of the library, with an empty cache."""
    monkeypatch.setattr(native, "_loader", native._Loader())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native.SWITCH, raising=False)
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path / "cache"


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv(native.SWITCH, "off")
    assert native.library() is None
    assert not list(fresh.rglob("*.so"))


def test_without_a_compiler_the_log_says_so_once(fresh, monkeypatch, caplog):
    monkeypatch.setattr(native, "find_compiler", lambda: None)
    with caplog.at_level(logging.WARNING):
        assert native.library() is None
        assert native.library() is None
    (record,) = caplog.records
    assert "no C++ compiler" in record.getMessage()
    with pytest.raises(ConfigError, match=r"install g\+\+ or clang"):
        native.build()


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'error: not today'\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setattr(native, "find_compiler", lambda: str(compiler))
    with pytest.raises(ConfigError, match="not today"):
        native.build()
    assert not list(fresh.rglob("*.so"))


@pytest.mark.skipif(os.name != "posix", reason="elsewhere: rights of POSIX")
def test_a_folder_that_others_may_write_to_is_not_trusted(fresh):
    fresh.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write"):
        native.build()


def test_what_is_kept_is_loaded_and_what_is_damaged_is_not(fresh, monkeypatch):
    """A library made by another process is taken as it is; a changed one would be compiled anew."""
    monkeypatch.undo()
    kept = sorted(_kept_by_this_machine())
    assert kept
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh))
    monkeypatch.setattr(native, "_loader", native._Loader())
    folder = fresh / "fastegnn-md" / "kernels"
    folder.mkdir(parents=True, mode=0o700)
    for path in kept:
        shutil.copy2(path, folder / path.name)
    compiled = []

    def instead(*_):
        compiled.append(1)
        raise ConfigError("compiled anew")

    monkeypatch.setattr(native, "_compiled", instead)
    assert native.library() is not None
    assert not compiled
    for path in folder.glob("native-*.so"):
        path.write_bytes(path.read_bytes() + b"x")
    monkeypatch.setattr(native, "_loader", native._Loader())
    assert native.library() is None
    assert compiled == [1]


def _kept_by_this_machine() -> list[Path]:
    assert native.library() is not None  # compiled by now, whatever came first
    return [one for one in native._cache().glob("native-*") if one.suffix in {".so", ".sha256"}]
