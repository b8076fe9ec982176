"""Hyper-parameters of a propagator: their one place, stored in every saved model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PropagatorConfig(BaseModel):
    """What a propagator is built from.

    The defaults are those that gave the lowest error per training minute on alanine dipeptide at 8 fs: a short cutoff,
    since at such lags the bonded terms carry nearly all of the force and virtual nodes the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = Field("fastegnn", description="name of the network, see models.available_models()")
    hidden: int = Field(64, ge=1, description="width of messages and node features")
    layers: int = Field(4, ge=1, description="number of message-passing layers")
    virtual_nodes: int = Field(3, ge=1, description="virtual nodes per system (C in the paper)")
    vector_channels: int = Field(4, ge=2, description="equivariant vectors per atom, mode 'full'")
    radial_functions: int = Field(12, ge=1, description="Bessel functions of the distance as edge features")
    cutoff: float = Field(3.5, gt=0, description="radius of the real graph, Å")
    edge_dropping: float = Field(0.0, ge=0, le=1, description="share of the longest edges dropped, mode 'position'")
    mode: Literal["full", "position"] = Field(
        "full", description="'full' maps (x, v) to (x', v'); 'position' maps x to x' and redraws v'"
    )
    forces: bool = Field(False, description="force-informed: the force at the start is an input")
    use_bonds: bool = Field(True, description="bonds enter as edge features where the training data has them")
