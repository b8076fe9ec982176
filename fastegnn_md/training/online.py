"""Training without an end: updates on pairs that come in while a simulation runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import StateError, TrainingError
from ..propagator.base import Propagator
from .batches import Batch
from .checkpoints import check_fit, group_of
from .config import TrainingConfig
from .losses import step_loss
from .schedule import average_decay
from .weights import MOMENTS, MovingAverage, WeightBlock

_HELD = 500  # updates at the full learning rate, which then falls as the root of their number
_MOST_SKIPPED = 20  # updates in a row without a finite loss


class OnlineTrainer:
    """One optimiser and one moving average over batches that somebody else chooses.

    Nobody knows how many updates there will be: the learning rate rises linearly over the warm-up and later falls as
    1/√n. The moving average of the weights is what is examined and used.

    Parameters
    ----------
    propagator : Propagator
        Trained in place.
    config : TrainingConfig
        Batch size, peak learning rate, warm-up, clipping, average and weights of the loss are read.

    Attributes
    ----------
    average : Propagator
    updates : int
    """

    propagator: Propagator
    config: TrainingConfig

    def __init__(self, propagator: Propagator, config: TrainingConfig):
        self.propagator, self.config = propagator.train(), config
        self.average: Propagator = copy.deepcopy(propagator).requires_grad_(False).eval()
        self._block = WeightBlock(propagator)
        self._following = MovingAverage(self.average, propagator)
        self._optimizer = torch.optim.Adam(
            [self._block.values], lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.updates: int = 0
        self._skipped = 0

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        rise = min(1.0, (self.updates + 1) / max(1, self.config.warmup))
        return self.config.learning_rate * rise * min(1.0, math.sqrt(_HELD / (self.updates + 1)))

    def update(self, batch: Batch) -> float:
        """One update; its loss, nan where that was not finite and nothing was changed.

        Raises
        ------
        TrainingError
            If the loss has not been finite for many updates in a row.
        """
        self._block.forget()
        try:
            residual = self.propagator.residual(batch.start, batch.ends[0])
            loss = step_loss(self.config, residual, batch.ends[0], 1.0, None)
        except StateError:  # between two kicks
            return self._skip()
        value = float(loss.detach())
        if not math.isfinite(value):
            return self._skip()
        loss.backward()
        self._block.gather()
        if self.config.gradient_clip is not None:
            self._block.clip(self.config.gradient_clip)
        gradient = self._block.values.grad
        if gradient is None or not bool(torch.isfinite(gradient).all()):
            return self._skip()
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._optimizer.step()
        self._following.move(average_decay(self.config, self.updates))
        self.updates += 1
        self._skipped = 0
        return value

    def _skip(self) -> float:
        self._skipped += 1
        if self._skipped > _MOST_SKIPPED:
            raise TrainingError(
                f"the loss has not been finite for {self._skipped} updates in a row (learning rate "
                f"{self.learning_rate:.3g}); lower learning_rate, or look at what the engine says"
            )
        return math.nan

    def tensors(self) -> dict[str, Tensor]:
        """All that :meth:`restore` needs beside :attr:`updates`."""
        named = {f"weights/{name}": value for name, value in self.propagator.state_dict().items()}
        named |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        return named | self._block.moments(self._optimizer.state.get(self._block.values, {}))

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from :meth:`tensors`.

        Raises
        ------
        CheckpointError
            If a tensor is missing, too many, or of another shape or type.
        """
        weights = self.propagator.state_dict()
        expected: dict[str, Any] = {
            f"{group}/{name}": value for group in ("weights", "average") for name, value in weights.items()
        }
        for name, parameter in self.propagator.named_parameters():
            if f"step/{name}" in tensors:
                expected |= {f"step/{name}": torch.zeros(()), f"exp_avg/{name}": parameter}
                expected |= {f"exp_avg_sq/{name}": parameter}
        check_fit(dict(tensors), expected)
        self.propagator.load_state_dict(group_of(dict(tensors), "weights"))
        self.average.load_state_dict(group_of(dict(tensors), "average"))
        moments = {name: value for name, value in tensors.items() if name.split("/")[0] in MOMENTS}
        if moments:
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict({"state": {0: self._block.state(moments)}, "param_groups": groups})
        self.updates = updates
