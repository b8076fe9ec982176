"""Models from weights of the published code (github.com/GLAD-RUC/FastEGNN), under their published names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .eghn import EGHN
from .egnn import EGNN
from .fastegnn import FastEGNN
from .fastrf import FastRF
from .fastschnet import FastSchNet
from .rf import RF

# Published name of each block of a layer -> ours; indices are those of the published nn.Sequential.
_LAYER_NAMES = {
    "edge_mlp.0": "edge.first",
    "edge_mlp.2": "edge.second",
    "att_mlp.0": "edge.attention.gate",
    "edge_mlp_virtual.0": "virtual.first",
    "edge_mlp_virtual.2": "virtual.second",
    "att_mlp_virtual.0": "virtual.attention.gate",
    "coord_mlp_r.0": "coordinate.first",
    "coord_mlp_r.2": "coordinate.second",
    "coord_mlp_r_virtual.0": "coordinate_virtual.first",
    "coord_mlp_r_virtual.2": "coordinate_virtual.second",
    "coord_mlp_v_virtual.0": "virtual.coordinate.first",
    "coord_mlp_v_virtual.2": "virtual.coordinate.second",
    "coord_mlp_vel.0": "velocity.first",
    "coord_mlp_vel.2": "velocity.second",
    "gravity_mlp.0": "gravity.first",
    "gravity_mlp.2": "gravity.second",
    "node_mlp.0": "node.first",
    "node_mlp.2": "node.second",
    "node_mlp_virtual.0": "virtual.feature.first",
    "node_mlp_virtual.2": "virtual.feature.second",
    "SchNetLayer.coord_updates.0": "pull.weights",
}

# The published perceptron of two linear layers.
_PERCEPTRON = {r"\.mlp\.0\.": ".first.", r"\.mlp\.2\.": ".second."}


def from_reference(name: str, state_dict: Mapping[str, Tensor], **hyperparameters: Any) -> nn.Module:
    """Build a model from weights of the published code, in its published form.

    Parameters
    ----------
    name : str
        Architecture: ``"fastegnn"``, ``"fastrf"``, ``"fastschnet"``, ``"egnn"``, ``"rf"`` or ``"eghn"``.
    state_dict : mapping of str to Tensor
        Weights under their published names. Widths, the number of layers and of virtual nodes are read from the
        shapes; the model takes the dtype of the weights.
    **hyperparameters
        Options that shapes do not show: of fastegnn ``attention``, ``tanh``, ``normalize`` and ``gravity``.

    Returns
    -------
    nn.Module
        The model with these weights.

    Raises
    ------
    ValueError
        If the architecture is unknown, or names or shapes do not fit it or the options given.
    """
    if name not in _BUILDERS:
        raise ValueError(f"no published weights are known for {name!r}; known: {', '.join(sorted(_BUILDERS))}")
    build, allowed = _BUILDERS[name]
    if set(hyperparameters) - allowed:
        unknown = ", ".join(sorted(set(hyperparameters) - allowed))
        known = ", ".join(sorted(allowed)) or "none"
        raise ValueError(f"unknown option {unknown}; widths are read from the weights, options of {name}: {known}")
    try:
        model, own = build(dict(state_dict), hyperparameters)
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"these are not weights of the published {name}: {error}") from error
    model.to(next(iter(own.values())).dtype)
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        given = hyperparameters or "given (none)"
        raise ValueError(f"the weights of {name} do not fit the options {given}: {error}") from error
    return model


Built = tuple[nn.Module, dict[str, Tensor]]


def _fastegnn(weights: dict[str, Tensor], options: dict[str, Any]) -> Built:
    return FastEGNN(**_fast_sizes(weights), form="published", **options), _fast_weights(weights)


def _fastrf(weights: dict[str, Tensor], options: dict[str, Any]) -> Built:
    return FastRF(**_fast_sizes(weights), form="published"), _fast_weights(weights)


def _fastschnet(weights: dict[str, Tensor], options: dict[str, Any]) -> Built:
    # The published network makes these and does not use them.
    unused = r"^W$|\.SchNetLayer\.(interactions|lin1|lin2|distance_expansion)\.|\.coord_mlp_(r|vel)\."
    weights = {key: value for key, value in weights.items() if not re.search(unused, key)}
    sizes = _fast_sizes(weights)
    gaussians = weights["gcl_0.SchNetLayer.coord_updates.0.weight"].shape[1] - 2 * sizes["hidden"]
    return FastSchNet(**sizes, form="published", gaussians=gaussians, cutoff=10.0), _fast_weights(weights)


def _fast_sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Widths and numbers that all Fast networks have."""
    _, hidden, channels = weights["virtual_node_feat"].shape
    return {
        "node_features": weights["embedding_in.weight"].shape[1],
        "edge_features": weights["gcl_0.edge_mlp.0.weight"].shape[1] - 2 * hidden - 1,
        "hidden": hidden,
        "layers": _count(weights, "gcl_"),
        "virtual_nodes": channels,
    }


def _fast_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    _, hidden, channels = weights["virtual_node_feat"].shape
    own = {_rename(key): value for key, value in weights.items()}
    own["virtual_features"] = weights["virtual_node_feat"][0].T
    for key in own:
        if key.endswith(".node.first.weight"):
            own[key] = _channel_first(own[key], hidden, channels)
    return own


def _rf(weights: dict[str, Tensor], options: dict[str, Any]) -> Built:
    hidden, inputs = weights["gcl_0.phi.0.weight"].shape
    model = RF(edge_features=inputs - 1, hidden=hidden, layers=_count(weights, "gcl_"))
    return model, _renamed(
        weights,
        {
            r"gcl_(\d+)\.": r"layers.\1.",
            r"phi\.": "radial.",
            r"coord_mlp_vel\.": "velocity.",
            r"\.0\.(weight|bias)$": r".first.\1",
            r"\.2\.(weight|bias)$": r".second.\1",
        },
    )


def _egnn(weights: dict[str, Tensor], options: dict[str, Any]) -> Built:
    hidden, node_features = weights["embedding.weight"].shape
    first = weights["layers.0.edge_message_net.scalar_net.mlp.0.weight"]
    model = EGNN(
        node_features=node_features,
        edge_features=first.shape[1] - 2 * hidden - 1,
        hidden=hidden,
        layers=_count(weights, "layers."),
        form="published",
    )
    return model, _egnn_weights(weights)


def _egnn_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    own = _renamed(
        weights,
        {
            r"\.edge_message_net\.scalar_net\.": ".edge.",
            r"\.coord_net\.": ".coordinate.",
            r"\.node_net\.": ".node.",
            r"\.node_v_net\.": ".velocity.",
            **_PERCEPTRON,
        },
    )
    for key in own:
        if key.endswith("edge.first.weight"):
            own[key] = _invariants_last(own[key], 1, len(own[key]))
    return own


def _eghn(weights: dict[str, Tensor], options: dict[str, Any]) -> Built:
    hidden, node_features = weights["embedding.weight"].shape
    first = weights["low_force_net.layers.0.edge_message_net.scalar_net.mlp.0.weight"]
    model = EGHN(
        node_features=node_features,
        edge_features=first.shape[1] - 2 * hidden - 1,
        hidden=hidden,
        layers=_count(weights, "low_force_net.layers."),
        clusters=weights["low_pooling.pooling.2.weight"].shape[0],
        pooling_layers=_count(weights, "low_pooling.layers."),
        decoder_layers=max(1, _count(weights, "kinematics_net.layers.")),
        form="published",
    )
    own: dict[str, Tensor] = {}
    for prefix, part in (("low_force_net.", "low."), ("high_force_net.", "high.")):
        inside = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        own |= {f"{part}{key}": value for key, value in _egnn_weights(inside).items()}
    rest = _renamed(
        {key: value for key, value in weights.items() if "_force_net." not in key},
        {
            r"^low_pooling\.pooling\.": "score.",
            r"^low_pooling\.layers\.": "pool.",
            r"\.edge_message_net\.in_scalar_net\.": ".edge.",
            r"\.edge_message_net\.out_vector_net\.": ".matrix.",
            r"\.node_net\.": ".node.",
            r"^kinematics_net\.layers\.": "up.",
            r"^kinematics_net\.": "up.0.",
            r"\.in_scalar_net\.": ".inward.",
            r"\.out_vector_net\.": ".vector.",
            r"\.out_scalar_net\.": ".scalar.",
            **_PERCEPTRON,
        },
    )
    for key in rest:
        if key.endswith("edge.first.weight"):
            rest[key] = _invariants_last(rest[key], 9, hidden)
    return model, own | rest


def _invariants_last(weight: Tensor, invariants: int, hidden: int) -> Tensor:
    """Columns [invariants, h_i, h_j, rest] of the published code in our order [h_i, h_j, invariants, rest]."""
    first, nodes, rest = weight.split([invariants, 2 * hidden, weight.shape[1] - invariants - 2 * hidden], dim=1)
    return torch.cat([nodes, first, rest], dim=1)


def _renamed(weights: dict[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights under names in which each pattern is replaced."""
    own = {}
    for key, value in weights.items():
        for pattern, replacement in names.items():
            key = re.sub(pattern, replacement, key)
        own[key] = value
    return own


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """Number of layers whose names begin with a prefix and a number."""
    return len({key.removeprefix(prefix).split(".")[0] for key in weights if key.startswith(prefix)})


def _rename(key: str) -> str:
    if key == "virtual_node_feat":
        return "virtual_features"
    if key.startswith("embedding_in."):
        return key.replace("embedding_in", "embedding")
    layer, _, rest = key.partition(".")
    block, _, parameter = rest.rpartition(".")
    if not layer.startswith("gcl_") or block not in _LAYER_NAMES:
        raise ValueError(f"unknown name {key!r} in the weights of a published Fast network")
    return f"layers.{layer.removeprefix('gcl_')}.{_LAYER_NAMES[block]}.{parameter}"


def _channel_first(weight: Tensor, hidden: int, channels: int) -> Tensor:
    """Reorder the columns of φh: the published code flattens virtual messages as (H, C), we as (C, H)."""
    plain, virtual = weight.split([2 * hidden, channels * hidden], dim=1)
    return torch.cat([plain, virtual.view(-1, hidden, channels).transpose(1, 2).flatten(1)], dim=1)


# How to build a model from published weights, and the options that shapes do not show.
_BUILDERS: Mapping[str, tuple[Callable[[dict[str, Tensor], dict[str, Any]], Built], set[str]]] = {
    "eghn": (_eghn, set()),
    "egnn": (_egnn, set()),
    "fastegnn": (_fastegnn, {"attention", "tanh", "normalize", "gravity"}),
    "fastrf": (_fastrf, set()),
    "fastschnet": (_fastschnet, set()),
    "rf": (_rf, set()),
}
