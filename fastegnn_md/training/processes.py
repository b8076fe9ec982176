"""Several processes that train one propagator: which of them writes, what they add up, and that they agree."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed

from ..errors import ConfigError


def is_main_process(nodes: int = 1) -> bool:
    """False in the further processes of a run on several devices, which write and print nothing.

    Parameters
    ----------
    nodes : int
        Nodes of the run.
    """
    rank = int(getattr(rank_zero_only, "rank", 0))
    if rank == 0 and nodes > 1:  # until there is a Trainer Lightning may count the processes of one node only
        rank = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")))
    return rank == 0


def total(values: Sequence[Any], device: torch.device) -> Tensor:
    """Sums of numbers (nested sequences of them) over all processes, float64; every process must call it."""
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(summed)
    return summed


def check_agreement(text: str, device: torch.device) -> None:
    """Refuse to go on unless all processes give the same text; every process must call it.

    Raises
    ------
    ConfigError
        In all processes, if they differ.
    """
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
    extremes = torch.tensor([digest, -digest], device=device)
    distributed.all_reduce(extremes, op=distributed.ReduceOp.MAX)
    if int(extremes[0]) != -int(extremes[1]):
        raise ConfigError(
            "the processes of this run have other settings, other data, or another training checkpoint than each "
            "other; start them with the same arguments, with data and output in a folder that all nodes share"
        )
