"""Everything of a run that depends on the update alone: learning rate, averaging, order of the pairs, random draws.

Nothing here has a state. A resumed run therefore continues as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from .config import TrainingConfig


def learning_rate(config: TrainingConfig, update: int) -> float:
    """Learning rate of update 0, 1, …: a linear rise over the warm-up, then half a cosine to the final share."""
    peak, floor = config.learning_rate, config.final_learning_rate
    rise = min(1.0, (update + 1) / config.warmup) if config.warmup else 1.0
    span = max(1, config.updates - 1)
    fall = floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, update / span)))
    return peak * rise * fall


def average_decay(config: TrainingConfig, updates: int) -> float:
    """Decay of the moving average of the weights after ``updates`` updates (small first, or it keeps the start)."""
    return min(config.ema_decay, (1 + updates) / (10 + updates))


def draw_generator(seed: int, update: int, rank: int) -> torch.Generator:
    """Generator of the random draws of one update on one process."""
    state = np.random.SeedSequence([seed, update, rank]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def spread(n_pairs: int, most: int | None) -> list[int]:
    """Evenly spaced indices, at most ``most`` of them."""
    count = n_pairs if most is None else min(n_pairs, most)
    return [n_pairs * i // count for i in range(count)]


class BatchOrder:
    """The pairs of every update: epoch after epoch in a new order, cut into batches.

    Batch ``update`` is a function of (``seed``, ``update``) alone. A batch may span two epochs, so no pair is left
    out and all batches have the same size.

    Parameters
    ----------
    n_pairs : int
        Pairs of the data set.
    batch_size : int
        Pairs per update.
    seed : int
        Seed of the orders.
    """

    n_pairs: int
    batch_size: int
    seed: int

    def __init__(self, n_pairs: int, batch_size: int, seed: int):
        self.n_pairs, self.batch_size, self.seed = n_pairs, batch_size, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __getitem__(self, update: int) -> list[int]:
        first, last = update * self.batch_size, (update + 1) * self.batch_size
        indices: list[int] = []
        while first < last:
            epoch, offset = divmod(first, self.n_pairs)
            part = self._permutation(epoch)[offset : offset + last - first]
            indices.extend(part.tolist())
            first += len(part)
        return indices

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:  # the last one is kept: a new one costs as much as many batches
            self._order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.n_pairs)
            self._epoch = epoch
        return self._order


class UpdateSampler(Sampler[list[int]]):
    """Index lists of one process from the current update to the next validation.

    Parameters
    ----------
    order : BatchOrder
        The global batches.
    position : callable
        Returns the update to start from, asked for at the beginning of each pass.
    validate_every, updates : int
        A pass ends at the next multiple of ``validate_every``, or when ``updates`` are done.
    rank, world : int
        This process takes every ``world``-th pair of a batch, beginning with ``rank``.
    """

    order: BatchOrder
    position: Callable[[], int]
    validate_every: int
    updates: int
    rank: int
    world: int

    def __init__(
        self,
        order: BatchOrder,
        position: Callable[[], int],
        validate_every: int,
        updates: int,
        rank: int = 0,
        world: int = 1,
    ):
        self.order, self.position = order, position
        self.validate_every, self.updates = validate_every, updates
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position()
        end = min(self.updates, (start // self.validate_every + 1) * self.validate_every)
        for update in range(start, end):
            yield self.order[update][self.rank :: self.world]
