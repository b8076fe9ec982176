"""Models from weights of the published code (github.com/GLAD-RUC/FastEGNN), under their published names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .fastegnn import FastEGNN

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
}


def from_reference(name: str, state_dict: Mapping[str, Tensor], **hyperparameters: Any) -> nn.Module:
    """Build a model from weights of the published code, in its published form.

    Parameters
    ----------
    name : str
        Architecture; ``"fastegnn"``.
    state_dict : mapping of str to Tensor
        Weights under their published names. Widths, the number of layers and of virtual nodes are read from the
        shapes; the model takes the dtype of the weights.
    **hyperparameters
        Options that shapes do not show: ``attention``, ``tanh``, ``normalize``, ``gravity``.

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
    return _BUILDERS[name](dict(state_dict), hyperparameters)


def _fastegnn(weights: dict[str, Tensor], options: dict[str, Any]) -> FastEGNN:
    allowed = {"attention", "tanh", "normalize", "gravity"}
    if set(options) - allowed:
        unknown = ", ".join(sorted(set(options) - allowed))
        raise ValueError(f"unknown option {unknown}; widths are read from the weights, options are {sorted(allowed)}")
    try:
        _, hidden, channels = weights["virtual_node_feat"].shape
        node_features = weights["embedding_in.weight"].shape[1]
        edge_features = weights["gcl_0.edge_mlp.0.weight"].shape[1] - 2 * hidden - 1
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"these are not weights of the published FastEGNN: {error}") from error
    layers = len({key.split(".")[0] for key in weights if key.startswith("gcl_")})
    model = FastEGNN(
        node_features=node_features,
        edge_features=edge_features,
        hidden=hidden,
        layers=layers,
        virtual_nodes=channels,
        form="published",
        **options,
    ).to(weights["embedding_in.weight"].dtype)
    own = {_rename(key): value for key, value in weights.items()}
    own["virtual_features"] = weights["virtual_node_feat"][0].T
    for layer in range(layers):
        key = f"layers.{layer}.node.first.weight"
        own[key] = _channel_first(own[key], hidden, channels)
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the options {options or 'given (none)'}: {error}") from error
    return model


def _rename(key: str) -> str:
    if key == "virtual_node_feat":
        return "virtual_features"
    if key.startswith("embedding_in."):
        return key.replace("embedding_in", "embedding")
    layer, _, rest = key.partition(".")
    block, _, parameter = rest.rpartition(".")
    if not layer.startswith("gcl_") or block not in _LAYER_NAMES:
        raise ValueError(f"unknown name {key!r} in the weights of a published FastEGNN")
    return f"layers.{layer.removeprefix('gcl_')}.{_LAYER_NAMES[block]}.{parameter}"


def _channel_first(weight: Tensor, hidden: int, channels: int) -> Tensor:
    """Reorder the columns of φh: the published code flattens virtual messages as (H, C), we as (C, H)."""
    plain, virtual = weight.split([2 * hidden, channels * hidden], dim=1)
    return torch.cat([plain, virtual.view(-1, hidden, channels).transpose(1, 2).flatten(1)], dim=1)


_BUILDERS = {"fastegnn": _fastegnn}
