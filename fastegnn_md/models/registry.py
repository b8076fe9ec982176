"""Architectures by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from .fastegnn import FastEGNN

_MODELS: dict[str, type[nn.Module]] = {"fastegnn": FastEGNN}


def available_models() -> tuple[str, ...]:
    """Names that :func:`build_model` knows."""
    return tuple(sorted(_MODELS))


def build_model(name: str, **hyperparameters: Any) -> nn.Module:
    """Build an architecture by name.

    Parameters
    ----------
    name : str
        One of :func:`available_models`.
    **hyperparameters
        Keywords of the class. ``node_features``, ``edge_features``, ``hidden``, ``layers`` and ``virtual_nodes`` mean
        the same for every architecture.

    Raises
    ------
    ValueError
        If the name or a keyword is unknown; the message lists the known ones.
    """
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; available: {', '.join(available_models())}")
    model = _MODELS[name]
    known = inspect.signature(model).parameters
    unknown = sorted(set(hyperparameters) - set(known))
    if unknown:
        raise ValueError(f"{name} has no hyper-parameter {', '.join(unknown)}; it has: {', '.join(known)}")
    return model(**hyperparameters)
