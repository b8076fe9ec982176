"""Training checkpoints: all a run needs to continue, as safetensors with JSON metadata.

Lightning's own checkpoints are pickles, which run code when read; these hold tensors and text only. A file is written
under a temporary name and renamed when it is on disk, so that a kill or a full disk leaves the previous one whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .._files import write_atomically
from ..errors import CheckpointError, ConfigError, TrainingError
from ..propagator.migration import with_kind

FORMAT = "fastegnn_md training checkpoint"
VERSION = 2  # 2: propagator.kind
_KEY = "fastegnn_md"


def write_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Replace the checkpoint at ``path``, completely or not at all.

    Raises
    ------
    TrainingError
        If the file cannot be written; what stood at ``path`` before is untouched.
    """
    header = {_KEY: json.dumps({"format": FORMAT, "version": VERSION, **metadata})}
    content = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)
    try:
        write_atomically(path, content)
    except OSError as error:
        kept = "the previous checkpoint is untouched: free space, then resume" if path.exists() else "none exists yet"
        raise TrainingError(f"cannot write the checkpoint {path}: {error.strerror}; {kept}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a training checkpoint.

    Raises
    ------
    CheckpointError
        If the file is truncated, is no training checkpoint of this package, or was written by a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _metadata(path, file.metadata())
            # copied: the file may be replaced while these are in use
            return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error}); delete it to start") from None
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None


def _metadata(path: Path, header: dict[str, str] | None) -> dict[str, Any]:
    try:
        metadata = json.loads((header or {})[_KEY])
        known = isinstance(metadata, dict) and metadata.get("format") == FORMAT
    except (KeyError, json.JSONDecodeError):
        known = False
    if not known:
        raise CheckpointError(f"{path} is a safetensors file but not a training checkpoint of fastegnn_md")
    found = metadata.get("version")
    if not isinstance(found, int) or not 1 <= found <= VERSION:
        raise CheckpointError(
            f"{path} has format version {found}, this version of fastegnn_md reads up to {VERSION}; "
            "update fastegnn_md, or delete the file to train from the start"
        )
    try:
        for version in range(found, VERSION):
            metadata = _MIGRATIONS[version](metadata)
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has broken metadata ({error}); delete it to start") from error
    return metadata


def _from_1(metadata: dict[str, Any]) -> dict[str, Any]:
    identity = metadata["identity"]
    return {**metadata, "identity": {**identity, "propagator": with_kind(identity["propagator"])}}


# What makes the metadata of one format version those of the next.
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
