"""What a run shows and writes while it goes: the history as CSV and one progress bar over updates."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from .._progress import Bar, progress_bar
from .module import PropagatorModule


class HistoryLogger(Logger):
    """One row per validation in a CSV file; rows after the update a run resumes from are removed first.

    Parameters
    ----------
    path : Path
        The file; it is created, or continued.
    update : int
        Update the run starts from.
    """

    def __init__(self, path: Path, update: int = 0):
        super().__init__()
        self.path = path
        self._columns: list[str] = []
        self._truncate(update)

    @property
    def name(self) -> str:
        """Name asked for by Lightning."""
        return "history"

    @property
    def version(self) -> str:
        """Version asked for by Lightning; a run has one history."""
        return ""

    @property
    def experiment(self) -> Path:
        """The file."""
        return self.path

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any) -> None:
        """Nothing: the configuration is written beside the history."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row."""
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._columns:
                self._columns = ["update", *metrics]
                writer.writerow(self._columns)
            row = {"update": step, **metrics}
            writer.writerow([row.get(column, "") for column in self._columns])

    @rank_zero_only
    def _truncate(self, update: int) -> None:
        rows: list[list[str]] = []
        if update and self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
        head, body = rows[:1], rows[1:]
        self._columns = head[0] if head else []
        # a kill may have left half a row
        whole = [row for row in body if len(row) == len(self._columns) and row[0].isdigit() and int(row[0]) <= update]
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(head + whole)


class UpdateBar(ProgressBar):
    """One bar over the updates of the whole run, with the loss and the last error over the best baseline."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Bar | None = None
        self._visible = True
        self._loss, self._ratios = math.nan, ""

    def disable(self) -> None:
        """Called by Lightning on all processes but the first."""
        self._visible = False

    def enable(self) -> None:
        """The opposite of :meth:`disable`."""
        self._visible = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the update the run starts from."""
        assert isinstance(pl_module, PropagatorModule)  # narrows the type
        self._bar = progress_bar(
            total=pl_module.config.updates,
            initial=pl_module.progress.update,
            desc="training",
            unit="update",
            dynamic_ncols=True,
            disable=not self._visible,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by one update."""
        assert isinstance(pl_module, PropagatorModule)  # narrows the type
        if self._bar is not None:
            self._loss = pl_module.last_loss
            self._bar.set_postfix_str(f"loss {self._loss:.3g}{self._ratios}", refresh=False)
            self._bar.update()

    def show(self, ratios: Mapping[str, float], drawn: Mapping[str, float]) -> None:
        """Errors over the best baseline, and what draws are like, shown until the next validation."""
        self._ratios = "".join(f", {key}/best baseline {value:.3f}" for key, value in ratios.items())
        if "torsions" in drawn:
            self._ratios += f", torsions {drawn['torsions']:.3f} (floor {drawn['torsions floor']:.3f})"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {self._loss:.3g}{self._ratios}")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
