"""The HDF5 file of a data set of charged systems."""

from __future__ import annotations

import io
import os
from pathlib import Path

import h5py
import numpy as np

from ...._files import write_atomically
from ....errors import DataError

_FORMAT = "fastegnn_md charged systems 1"
_ARRAYS = ("x", "v", "target", "charges", "bodies", "counts")

Splits = dict[str, dict[str, np.ndarray]]


def write_charged_systems(path: str | os.PathLike[str], recipe: str, splits: Splits) -> None:
    """Write the arrays of each split in one go: a file that is there is whole.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["format"], file.attrs["recipe"] = _FORMAT, recipe
        for split, arrays in splits.items():
            for name, array in arrays.items():
                file[f"{split}/{name}"] = array
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.getvalue())
    except OSError as error:
        raise DataError(f"cannot write {str(path)!r}: {error}; choose another folder or free some space") from error


def read_charged_systems(path: str | os.PathLike[str], recipe: str) -> Splits:
    """Read what :func:`write_charged_systems` wrote for the same recipe.

    Raises
    ------
    DataError
        If the file is of another recipe or kind, truncated or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != _FORMAT:
                raise DataError(f"{str(path)!r} is HDF5 but no data set of charged systems; give another name")
            known = str(file.attrs["recipe"])
            splits = {split: {name: file[split][name][...] for name in _ARRAYS} for split in ("train", "valid", "test")}
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(
            f"{str(path)!r} is not a readable data set of charged systems ({error}); delete it to make it anew"
        ) from error
    if known != recipe:
        raise DataError(
            f"{str(path)!r} was made with other settings: {known} and not {recipe}; give another name, or delete it"
        )
    return splits
