"""Training of one row, to be read from top to bottom.

Everything random is a function of the seed and the update, so a run that was stopped anywhere continues as if it had
not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..._progress import progress_bar
from ...errors import CheckpointError, TrainingError
from ...models import ModelOutput, build_model, hyperparameters_of
from ...models.registry import inputs_of
from ...segments import segment_mean
from ...training.checkpoints import read_checkpoint, write_checkpoint
from ...training.losses import virtual_node_mmd
from ...training.schedule import BatchOrder, draw_generator
from .graphs import Batch, GraphSet
from .rows import Row, Settings

_SAVE_EVERY = 60.0  # s
_EVALUATION_NODES = 20_000


@dataclass(frozen=True)
class RowResult:
    """Where the training of a row stands.

    Attributes
    ----------
    test, valid : float
        Mean squared errors per coordinate of the weights that were best on validation.
    best_epoch, epochs : float
        Epochs that made these weights, and epochs done.
    updates : int
    seconds : float
        Spent on training, evaluation not counted.
    finished : bool
        Whether it ended by its own rule and not by the budget.
    """

    test: float
    valid: float
    best_epoch: float
    epochs: float
    updates: int
    seconds: float
    finished: bool


class RowTraining:
    """The training of one row.

    Parameters
    ----------
    row : Row
    data : mapping of GraphSet
        ``train``, ``valid`` and ``test``.
    checkpoint : path
        File to continue from and to write to.
    device : str
    progress : bool
        Show a progress bar.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged, or of a row with other settings.
    """

    row: Row
    data: Mapping[str, GraphSet]
    checkpoint: Path
    device: str
    progress: bool
    update: int
    seconds: float

    def __init__(
        self,
        row: Row,
        data: Mapping[str, GraphSet],
        checkpoint: Path,
        *,
        device: str = "cpu",
        progress: bool = True,
    ):
        self.row, self.data, self.checkpoint, self.device, self.progress = row, data, checkpoint, device, progress
        self.settings: Settings = row.settings
        takes = inputs_of(row.model)
        self.further: dict[str, bool] = {"local": "local_edge_index" in takes, "objects": "sticks" in takes}
        first = self._batch("train", [0])
        self.model: nn.Module = build_network(row, first).to(device)
        self.optimiser: torch.optim.Adam = torch.optim.Adam(
            self.model.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.order: BatchOrder = BatchOrder(len(data["train"]), self.settings.batch_size, self.settings.seed)
        self.update, self.seconds = 0, 0.0
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, Tensor] = {}
        if checkpoint.exists():
            self._load()

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.update * self.settings.batch_size / len(self.data["train"])

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation stopped improving."""
        waited = self.epoch - self.best["epoch"] if self.best else 0.0
        return self.epoch >= self.settings.epochs or waited >= self.settings.patience

    def run(self, seconds: float) -> RowResult:
        """Train until the row is finished or the time is up.

        Parameters
        ----------
        seconds : float
            Time for updates and validations. At least one update is done; the last validation may take longer.

        Returns
        -------
        RowResult

        Raises
        ------
        TrainingError
            If the loss is not finite, or the checkpoint cannot be written.
        """
        end = saved = time.monotonic()
        end += seconds
        every = max(1, math.ceil(self.settings.evaluate_every * len(self.data["train"]) / self.settings.batch_size))
        with progress_bar(
            desc=self.row.name, unit="update", initial=self.update, disable=not self.progress, delay=2
        ) as bar:
            while not self.finished:
                begun = time.monotonic()
                loss = self._step()
                self.seconds += time.monotonic() - begun
                self.update += 1
                bar.set_postfix(
                    epoch=f"{self.epoch:.1f}", loss=f"{loss:.4g}", valid=self.best.get("valid"), refresh=False
                )
                bar.update()
                if self.update % every == 0:
                    self._validate()
                if self.update % every == 0 or time.monotonic() - saved > _SAVE_EVERY:
                    self._save()
                    saved = time.monotonic()
                if time.monotonic() >= end:
                    break
        self._save()
        return self._result()

    def _step(self) -> float:
        """One update; the loss without its other terms."""
        batch = self._batch("train", self.order[self.update])
        self.model.train()
        self.optimiser.zero_grad()
        output = self.model(**batch.inputs)
        error = (output.x - batch.target).square().mean()
        loss = error + self._other_terms(output, batch)
        loss.backward()
        value = error.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.row.name}: the loss of update {self.update} is {value}; lower the learning rate of the row"
            )
        self.optimiser.step()
        return value

    def _batch(self, split: str, indices: Sequence[int]) -> Batch:
        return self.data[split].batch(indices, self.device, **self.further)

    def _other_terms(self, output: ModelOutput, batch: Batch) -> Tensor | float:
        if output.connectivity_loss is not None:
            return self.settings.connectivity_weight * output.connectivity_loss
        if output.z is None or not self.settings.mmd_weight:
            return 0.0
        return self.settings.mmd_weight * virtual_node_mmd(
            output.x,
            batch.batch,
            output.z,
            sigma=self.settings.mmd_sigma,
            samples=self.settings.mmd_samples,
            generator=draw_generator(self.settings.seed, self.update, 0),
            published=True,
        )

    def _validate(self) -> None:
        valid = self.mean_squared_error("valid")
        if not self.best or valid < self.best["valid"]:
            self.best = {"epoch": self.epoch, "valid": valid, "test": self.mean_squared_error("test")}
            self.best_weights = {name: one.detach().cpu().clone() for name, one in self.model.state_dict().items()}

    def _result(self) -> RowResult:
        """The best so far; weights between two validations count, but do not change how training goes on."""
        best = self.best
        if not self.finished or not best:
            valid = self.mean_squared_error("valid")
            if not best or valid < best["valid"]:
                best = {"epoch": self.epoch, "valid": valid, "test": self.mean_squared_error("test")}
        return RowResult(
            test=best["test"],
            valid=best["valid"],
            best_epoch=best["epoch"],
            epochs=self.epoch,
            updates=self.update,
            seconds=self.seconds,
            finished=self.finished,
        )

    def mean_squared_error(self, split: str) -> float:
        """Mean over systems of the mean squared error per coordinate."""
        data = self.data[split]
        size = max(1, _EVALUATION_NODES // int(data.counts.max()))
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for begin in range(0, len(data), size):
                batch = self._batch(split, range(begin, min(len(data), begin + size)))
                square = (self.model(**batch.inputs).x - batch.target).square().mean(1)
                total += float(segment_mean(square, batch.batch, batch.systems).sum())
        return total / len(data)

    def _save(self) -> None:
        tensors = {f"model.{name}": one for name, one in self.model.state_dict().items()}
        tensors |= {f"best.{name}": one for name, one in self.best_weights.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": one for name, one in moments.items()}
        metadata = {"row": self.row.fingerprint, "update": self.update, "seconds": self.seconds, "best": self.best}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.checkpoint, tensors, metadata)

    def _load(self) -> None:
        tensors, metadata = read_checkpoint(self.checkpoint)
        if metadata.get("row") != self.row.fingerprint:
            raise CheckpointError(
                f"{self.checkpoint} belongs to a row {self.row.name!r} with other settings; give another folder, or "
                "delete it to train the row anew"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        try:
            self.model.load_state_dict(parts["model"])
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.checkpoint} does not fit the network {self.row.model!r} of this version ({error}); delete it "
                "to train the row anew"
            ) from error
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["adam"].items():
            index, _, rest = name.partition(".")
            moments.setdefault(int(index), {})[rest] = tensor
        state = self.optimiser.state_dict()
        self.optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self.best_weights = parts["best"]
        self.update, self.seconds = int(metadata["update"]), float(metadata["seconds"])
        self.best = {name: float(value) for name, value in metadata["best"].items()}


def build_network(row: Row, example: Batch) -> nn.Module:
    """The network of a row, with the widths of an example batch and the weights of the seed of the row."""
    widths = {"node_features": example.h.shape[1], "edge_features": example.edge_attr.shape[1]}
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it is
        torch.manual_seed(row.settings.seed)  # noqa: TID251 - nn.Module initialisers take no generator
        asked = {name: width for name, width in widths.items() if name in hyperparameters_of(row.model)}
        return build_model(row.model, **asked, **row.options)
