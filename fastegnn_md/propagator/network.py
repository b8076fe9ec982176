"""The network of a propagator: which settings an architecture takes, and what it can be used for."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ConfigError, Remedy
from ..models import architectures_for, build_model, hyperparameters_of
from .config import PropagatorConfig
from .domain import Domain

# Settings that people choose, which not every architecture has.
_CHOSEN = ("hidden", "layers", "virtual_nodes", "edge_dropping")


def build_network(config: PropagatorConfig, domain: Domain, *, node_features: int, edge_features: int) -> nn.Module:
    """Build the architecture that a configuration names, with the keywords it has.

    Parameters
    ----------
    config : PropagatorConfig
    domain : Domain
        Periodic systems get virtual nodes without coordinates; the average number of neighbours is the constant that
        sums over neighbours are divided by, but not in kind "position".
    node_features, edge_features : int
        Widths of the inputs.

    Returns
    -------
    nn.Module

    Raises
    ------
    ConfigError
        If the architecture or one of its options is unknown or out of range; if it cannot predict velocities (any kind
        but "position"), or needs positions that periodic systems do not have; if a setting was changed that it does
        not have, or ``architecture_options`` names one that the propagator sets.
    """
    try:
        return _build(config, domain, node_features, edge_features)
    except ValueError as error:
        raise ConfigError(Remedy.after("", error)) from error


def _build(config: PropagatorConfig, domain: Domain, node_features: int, edge_features: int) -> nn.Module:
    name, full = config.architecture, config.vector_network
    known = hyperparameters_of(name)
    if full and name not in architectures_for("full"):
        able = ", ".join(architectures_for("full"))
        raise ConfigError(
            Remedy(
                f"{name} predicts no velocities: for kind {config.kind!r} take one of {able}, or ",
                "set kind='position'",
                "give --kind position",
            )
        )
    if domain.periodic and name not in architectures_for("periodic"):
        able = ", ".join(architectures_for("periodic"))
        raise ConfigError(f"{name} needs the positions of isolated systems, these are periodic: take one of {able}")
    for setting in _CHOSEN:
        default = PropagatorConfig.model_fields[setting].default
        if setting not in known and getattr(config, setting) != default:
            raise ConfigError(f"{name} has no {setting}: leave it at {default}, or take another architecture")
    shared: dict[str, Any] = {
        "node_features": node_features,
        "edge_features": edge_features,
        "hidden": config.hidden,
        "layers": config.layers,
        "virtual_nodes": config.virtual_nodes,
        "edge_dropping": config.edge_dropping,
        "cutoff": config.cutoff,
        "vector_channels": config.vector_channels if full else 0,
        "virtual_geometry": not domain.periodic,
        "average_neighbours": domain.neighbours if full else None,
    }
    for option in config.architecture_options:
        if option in shared:
            raise ConfigError(f"architecture_options has {option!r}, which the propagator sets: leave it out there")
    return build_model(
        name, **{key: value for key, value in shared.items() if key in known}, **config.architecture_options
    )
