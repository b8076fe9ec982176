"""Batches of pairs or runs on their way from the data to a training or validation step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError
from ..state import State

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from ..propagator.config import PropagatorConfig


class Batch:
    """Start and ends of some pairs or runs. Not a tuple or dataclass, which Lightning would take apart and rebuild."""

    start: State
    ends: tuple[State, ...]

    __slots__ = ("ends", "start")

    def __init__(self, start: State, *ends: State):
        self.start, self.ends = start, ends

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The batch on another device and with another floating-point type; itself if nothing changes."""
        if self.start.device == device and self.start.dtype == dtype:
            return self
        return Batch(*(state.to(device, dtype) for state in (self.start, *self.ends)))


def pairs_for(config: PropagatorConfig, pairs: TrajectoryPairs) -> TrajectoryPairs:
    """The same pairs with what a configuration wants of the frames between them."""
    return pairs.with_middle_frames() if config.middle_frames and pairs.has_middle_frames else pairs


class Batches(Dataset[Batch]):
    """A data set whose items are whole batches, named by their list of indices."""

    def __init__(self, pairs: TrajectoryPairs):
        self.pairs = pairs

    def __getitem__(self, indices: list[int]) -> Batch:
        return Batch(*self.pairs.batch(indices))


def loader(pairs: TrajectoryPairs, sampler: Iterable[list[int]], workers: int) -> DataLoader[Batch]:
    """Batches of the indices that ``sampler`` gives, read by this process or by others ahead of it."""
    return DataLoader(
        Batches(pairs),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        # forking a process that has threads (torch, HDF5) can hang; starting one takes seconds, so it is kept
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # DataLoader would draw a seed from the global generator
    )


def shares(chosen: list[int], size: int, world: int, rank: int) -> list[list[int]]:
    """Pairs to validate in batches of about ``size``: of each the share of process ``rank`` of ``world``.

    Raises
    ------
    ConfigError
        If there are fewer pairs than processes.
    """
    if len(chosen) < world:
        raise ConfigError(f"{len(chosen)} validation pairs cannot be shared by {world} devices; take more pairs")
    # equal parts: every process must run the same number of steps, each with at least one pair
    parts = min(math.ceil(len(chosen) / size), len(chosen) // world)
    bounds = [len(chosen) * part // parts for part in range(parts + 1)]
    return [chosen[a:b][rank::world] for a, b in itertools.pairwise(bounds)]
