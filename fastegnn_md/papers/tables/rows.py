"""What a table consists of: rows, each one network on one data set, with the figure of the paper beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Settings:
    """How a row is trained, after the published code.

    Attributes
    ----------
    epochs : int
        Epochs of the paper; training stops earlier where validation stops improving.
    batch_size : int
    learning_rate, weight_decay : float
        Of Adam.
    evaluate_every : int
        Epochs from validation to validation.
    patience : int
        Epochs without improvement after which training stops.
    mmd_weight, mmd_sigma : float
        Weight λ of the MMD between real and virtual nodes and the width of its kernel; networks without virtual nodes
        have none.
    mmd_samples : int
        Real nodes drawn for each virtual node.
    connectivity_weight : float
        Weight of the connectivity loss of networks that pool.
    seed : int
        Of weights, order and draws.
    """

    epochs: int = 2500
    batch_size: int = 100
    learning_rate: float = 5e-4
    weight_decay: float = 1e-12
    evaluate_every: int = 5
    patience: int = 100
    mmd_weight: float = 0.01
    mmd_sigma: float = 1.5
    mmd_samples: int = 3
    connectivity_weight: float = 1.0
    seed: int = 43


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes
    ----------
    name : str
        Of its files and in the table.
    data : str
        Data set, by its name in :mod:`fastegnn_md.papers.tables.data`.
    model : str
        Architecture, by its name in :func:`~fastegnn_md.models.build_model`.
    options : mapping
        Hyper-parameters of the architecture.
    dropped : float
        Edge dropping rate p.
    paper : float or None
        Mean squared error in the paper; None where it is not known to us.
    settings : Settings
    """

    name: str
    data: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: float = 0.0
    paper: float | None = None
    settings: Settings = field(default_factory=Settings)

    def with_settings(self, **changes: Any) -> Row:
        """The same row, trained in another way."""
        return replace(self, settings=replace(self.settings, **changes))

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the numbers: a checkpoint of another one is not continued."""
        known = asdict(self)
        for irrelevant in ("name", "paper"):
            del known[irrelevant]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
