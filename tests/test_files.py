"""Files of tensors with a header: what goes in comes out, and what is not such a file says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastegnn_md._files import Header, TensorFormat
from fastegnn_md.errors import CheckpointError


def doubled(header: Header) -> Header:
    return {**header, "value": 2 * header["value"]}


FIRST = TensorFormat("test", 1, "about", "test file", "make it again")
THIRD = TensorFormat("test", 3, "about", "test file", "make it again", {1: doubled, 2: doubled})
ARRAYS = {"a": np.array([[0.1, np.nan], [-0.0, 1e300]]), "b": np.array([True, False]), "c": np.array(3, dtype=np.int32)}


def test_arrays_and_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    FIRST.write(tmp_path / "file", ARRAYS, {"value": 0.1})
    found, header = FIRST.read(tmp_path / "file", numpy=True)
    assert {name: (one.dtype, one.tobytes()) for name, one in found.items()} == {
        name: (one.dtype, one.tobytes()) for name, one in ARRAYS.items()
    }
    assert header == {"format": "test", "format_version": 1, "value": 0.1}
    assert FIRST.read_header(tmp_path / "file") == header
    tensors = {name: torch.from_numpy(one) for name, one in ARRAYS.items()}
    FIRST.write(tmp_path / "other", tensors, {"value": 0.1})
    again = FIRST.read(tmp_path / "other")[0]
    assert all(torch.equal(again[name].nan_to_num(7.0), one.nan_to_num(7.0)) for name, one in tensors.items())


def test_an_older_header_goes_through_every_migration(tmp_path: Path) -> None:
    FIRST.write(tmp_path / "file", ARRAYS, {"value": 5})
    assert THIRD.read_header(tmp_path / "file")["value"] == 20


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(CheckpointError, match="no test file at"):
        THIRD.read(path)
    path.write_text("nothing of the kind")
    with pytest.raises(CheckpointError, match=r"truncated or not a safetensors file .*: make it again"):
        THIRD.read(path)
    for metadata in (None, {"about": "{"}, {"about": "[]"}, {"about": '{"format": "other"}'}):
        save_file({"a": torch.zeros(1)}, path, metadata)
        with pytest.raises(CheckpointError, match="a safetensors file but not a test file of fastegnn_md"):
            THIRD.read_header(path)
    THIRD.write(path, ARRAYS, {})
    with pytest.raises(CheckpointError, match="has format version 3, this version of fastegnn-md reads up to 1: upgra"):
        FIRST.read(path)
    FIRST.write(path, ARRAYS, {"worth": 1})
    with pytest.raises(CheckpointError, match=r"the header of the test file .* is damaged \('value'\): make it again"):
        THIRD.read(path)


def test_a_file_of_another_of_our_formats_is_refused(tmp_path: Path) -> None:
    from fastegnn_md.integrators.restart_file import FORMAT as RESTART
    from fastegnn_md.propagator.file import FORMAT as MODEL
    from fastegnn_md.training.checkpoints import FORMAT as CHECKPOINT

    formats = (MODEL, RESTART, CHECKPOINT)
    for written in formats:
        written.write(tmp_path / "file", ARRAYS, {})
        for read in formats:
            if read is not written:
                with pytest.raises(CheckpointError, match=f"not a {read.what} of fastegnn_md"):
                    read.read(tmp_path / "file")
