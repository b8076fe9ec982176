"""Where a training run keeps its files, and whether a checkpoint belongs to the run that wants to continue it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._files import remove_left
from ..errors import CheckpointError, ConfigError, TrainingError
from .checkpoints import read_checkpoint, write_checkpoint
from .config import TrainingConfig

if TYPE_CHECKING:
    from ..propagator.base import Propagator

# How often to save, how to read, what to log and how processes talk do not touch the weights; all other keys do.
_FREE_KEYS = {"checkpoint_every", "num_workers", "logger", "strategy"}
_WHY = {"updates": "the learning rate falls along the number of updates, so a longer run is another run"}


class TrainingFolder:
    """The model file and the folder of the run beside it (``model.safetensors`` and ``model.training/``).

    Parameters
    ----------
    output : Path
        Model file, ending in ``.safetensors``.
    identity : dict
        Settings and data of the run, JSON values.

    Raises
    ------
    ConfigError
        If the name does not end in ``.safetensors``.
    """

    def __init__(self, output: Path, identity: dict[str, Any]):
        if output.suffix != ".safetensors":
            raise ConfigError(f"the model file {output} must end in .safetensors")
        self.output = output
        self.folder: Path = output.with_suffix(".training")
        self.checkpoint: Path = self.folder / "checkpoint.safetensors"
        self.history: Path = self.folder / "history.csv"
        self.identity = identity

    def open(self, resume: bool, writes: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Find the checkpoint to continue from.

        Parameters
        ----------
        resume : bool
            Continue if there is a checkpoint. Otherwise one of an unfinished run is an error, not lost.
        writes : bool
            Whether this process is the one that writes. The others make and delete nothing.

        Returns
        -------
        tuple or None
            Tensors and record of the checkpoint; None starts from the beginning.

        Raises
        ------
        CheckpointError
            If the checkpoint cannot be read.
        ConfigError
            If the checkpoint belongs to other settings or data, or is unfinished and not to be resumed.
        """
        if not writes and not resume:
            return None
        if not self.checkpoint.exists():
            return None
        tensors, record = read_checkpoint(self.checkpoint)
        try:
            earlier = dict(record["identity"])
            done, updates = int(record["progress"]["update"]), int(earlier["updates"])
            finished = done >= updates or bool(record["progress"]["stopped"])
            if done < 0:
                raise ValueError(f"update {done}")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.checkpoint} has broken metadata ({error!r}); delete it to start") from None
        if resume:
            self._compare(earlier)
            return tensors, record
        if not finished:
            raise ConfigError(
                f"{self.folder} holds an unfinished run (update {done} of {updates}); resume it (--resume), "
                "delete the folder, or choose another output"
            )
        self.checkpoint.unlink()
        return None

    def make(self) -> None:
        """Make the folder, and remove what a killed run has left half written.

        Raises
        ------
        TrainingError
            If it, or that of the model, cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, self.output.parent):  # found out now, not after an hour of training
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise TrainingError(f"cannot write to {error.filename or self.folder}: {error.strerror}") from None
        for path in (self.checkpoint, self.output):
            remove_left(path)

    def describe(self, config: TrainingConfig) -> None:
        """Write the settings beside the history.

        Raises
        ------
        TrainingError
            If the file cannot be written.
        """
        try:
            config.to_yaml(self.folder / "config.yaml")
        except OSError as error:
            raise TrainingError(f"cannot write to {self.folder}: {error.strerror}") from None

    def save(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        write_checkpoint(self.checkpoint, tensors, {"identity": self.identity, **record})

    def export(self, propagator: Propagator) -> None:
        """Save the trained model.

        Raises
        ------
        TrainingError
            If the file cannot be written; the checkpoint still holds the finished run.
        """
        try:
            propagator.save(self.output)
        except CheckpointError as error:
            raise TrainingError(f"{error}; the run is whole in {self.folder}: make room and resume") from error

    def _compare(self, earlier: dict[str, Any]) -> None:
        # A run begun before there was a setting had what is its default now.
        now, before = _flat(self.identity), _flat(TrainingConfig().model_dump(mode="json")) | _flat(earlier)
        differences = [
            f"{key} was {before.get(key)!r}, is now {now.get(key)!r}" + (f" ({_WHY[key]})" if key in _WHY else "")
            for key in dict.fromkeys([*now, *before])
            if key not in _FREE_KEYS and now.get(key) != before.get(key)
        ]
        if differences:
            raise ConfigError(
                f"cannot resume {self.folder} with other settings or data: {'; '.join(differences)}. "
                f"Use the settings of the first call, or delete {self.folder} to train from the start"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
