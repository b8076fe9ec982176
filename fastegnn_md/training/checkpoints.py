"""Training checkpoints: all a run needs to continue, as safetensors with JSON metadata.

Lightning's own checkpoints are pickles, which run code when read; these hold tensors and text only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import TensorFormat
from ..errors import CheckpointError, TrainingError
from ..propagator.migration import with_kind


def _from_1(metadata: dict[str, Any]) -> dict[str, Any]:
    identity = metadata.get("identity")
    if not isinstance(identity, dict) or "propagator" not in identity:  # of a table of the papers
        return metadata
    return {**metadata, "identity": {**identity, "propagator": with_kind(identity["propagator"])}}


FORMAT = TensorFormat(
    name="fastegnn_md training checkpoint",
    version=2,  # 2: propagator.kind
    key="fastegnn_md",
    what="training checkpoint",
    advice="delete it to train from the start",
    migrations={1: _from_1},
)


def write_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Replace the checkpoint at ``path``, completely or not at all.

    Raises
    ------
    TrainingError
        If the file cannot be written; what stood at ``path`` before is untouched.
    """
    try:
        FORMAT.write(path, tensors, metadata)
    except OSError as error:
        kept = "the previous checkpoint is untouched: free space, then resume" if path.exists() else "none exists yet"
        raise TrainingError(f"cannot write the checkpoint {path}: {error.strerror}; {kept}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a training checkpoint.

    Raises
    ------
    CheckpointError
        If the file is missing or truncated, is no training checkpoint of this package, or was written by a newer
        version.
    """
    return FORMAT.read(path)


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those a model expects, by name, shape and type.

    Raises
    ------
    CheckpointError
        If one is missing, too many, or of another shape or type.
    """
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or foreign:
        raise CheckpointError(
            f"the training checkpoint does not fit this model: missing {missing[:3] or 'nothing'}, "
            f"unknown {foreign[:3] or 'nothing'}; delete it to train from the start"
        )
    for name, want in expected.items():
        have = tensors[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise CheckpointError(
                f"the training checkpoint has {name} as {tuple(have.shape)} {have.dtype}, this model needs "
                f"{tuple(want.shape)} {want.dtype}; delete it to train from the start"
            )


def group_of(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors ``"GROUP/NAME"`` of one group, by NAME."""
    return {name.removeprefix(f"{group}/"): value for name, value in tensors.items() if name.startswith(f"{group}/")}
