"""Architectures by name."""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import nn

from .architecture import Architecture
from .eghn import EGHN
from .egnn import EGNN
from .fastegnn import FastEGNN
from .fastrf import FastRF
from .fastschnet import FastSchNet
from .fasttfn import FastTFN
from .gmn import GMN
from .gvp import GVP
from .linear import Linear
from .mpnn import MPNN
from .rf import RF
from .schnet import SchNet
from .se3_transformer import SE3Transformer
from .tfn import TFN
from .vn_egnn import VNEGNN

_MODELS: dict[str, type[Architecture]] = {
    "eghn": EGHN,
    "egnn": EGNN,
    "fastegnn": FastEGNN,
    "fastrf": FastRF,
    "fastschnet": FastSchNet,
    "fasttfn": FastTFN,
    "gmn": GMN,
    "gvp": GVP,
    "linear": Linear,
    "mpnn": MPNN,
    "rf": RF,
    "schnet": SchNet,
    "se3-transformer": SE3Transformer,
    "tfn": TFN,
    "vn-egnn": VNEGNN,
}


def available_models() -> tuple[str, ...]:
    """Names that :func:`build_model` knows."""
    return tuple(sorted(_MODELS))


def architectures_for(use: Literal["full", "periodic", "handed"]) -> tuple[str, ...]:
    """Names of the architectures that can be used in a certain way.

    Parameters
    ----------
    use : {"full", "periodic", "handed"}
        "full": with ``vector_channels`` they predict velocities as well. "periodic": they see positions through edge
        vectors alone (``virtual_geometry=False`` for those that have it), and so make sense for periodic systems.
        "handed": they can learn forces that change under reflection.
    """
    if use == "full":
        return tuple(name for name in available_models() if "vector_channels" in hyperparameters_of(name))
    if use == "handed":
        return tuple(name for name in available_models() if _MODELS[name].handed)
    return tuple(name for name in available_models() if not _MODELS[name].isolated_only)


def hyperparameters_of(name: str) -> tuple[str, ...]:
    """Keywords that :func:`build_model` takes for an architecture.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    return tuple(inspect.signature(_known(name)).parameters)


def inputs_of(name: str) -> tuple[str, ...]:
    """Keywords that the call of an architecture takes: those of :meth:`Architecture.forward`, and further ones.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    return tuple(inspect.signature(_known(name).forward).parameters)[1:]


def build_model(name: str, **hyperparameters: Any) -> nn.Module:
    """Build an architecture by name.

    Parameters
    ----------
    name : str
        One of :func:`available_models`.
    **hyperparameters
        Keywords of the class. ``node_features``, ``edge_features``, ``hidden``, ``layers`` and ``virtual_nodes`` mean
        the same for every architecture that has them.

    Raises
    ------
    ValueError
        If the name or a keyword is unknown; the message lists the known ones.
    """
    known = hyperparameters_of(name)
    unknown = sorted(set(hyperparameters) - set(known))
    if unknown:
        raise ValueError(f"{name} has no hyper-parameter {', '.join(unknown)}; it has: {', '.join(known) or 'none'}")
    return _MODELS[name](**hyperparameters)


def _known(name: str) -> type[Architecture]:
    if name not in _MODELS:
        raise ValueError(f"unknown model {name!r}; available: {', '.join(available_models())}")
    return _MODELS[name]
