"""Hyper-parameters of a propagator: their one place, stored in every saved model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class PropagatorConfig(BaseModel):
    """What a propagator is built from.

    The defaults were chosen on alanine dipeptide at 8 fs, for the error after a few minutes of training on one core;
    the short cutoff mattered most. Other systems and longer lags may want a longer one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = Field(default="fastegnn", description="name of the network, see models.available_models()")
    architecture_options: dict[str, Any] = Field(
        default={}, description="further keywords of that architecture, see models.hyperparameters_of()"
    )
    hidden: int = Field(default=64, ge=1, description="width of messages and node features")
    layers: int = Field(default=4, ge=1, description="number of message-passing layers")
    virtual_nodes: int = Field(default=3, ge=1, description="virtual nodes per system (C in the paper)")
    vector_channels: int = Field(default=4, ge=2, description="equivariant vectors per atom, not in mode 'position'")
    radial_functions: int = Field(default=12, ge=1, description="Bessel functions of the distance as edge features")
    cutoff: float = Field(default=3.5, gt=0, description="radius of the real graph, Å")
    edge_dropping: float = Field(
        default=0.0, ge=0, le=1, description="share of the longest edges dropped, mode 'position'"
    )
    mode: Literal["full", "position", "kick-drift"] = Field(
        default="full",
        description="'full' maps (x, v) to (x', v'); 'position' maps x to x' and redraws v'; 'kick-drift' maps (x, v) "
        "to (x', v') by kicks and drifts, reversible and volume preserving",
    )
    kicks: int = Field(default=4, ge=1, description="learned kicks per jump, mode 'kick-drift'")
    forces: bool = Field(default=False, description="force-informed: the force at the start is an input")
    midpoint: bool = Field(default=False, description="the force at x + v Δt/2 in place of that at the start")
    use_bonds: bool = Field(default=True, description="bonds enter as edge features where the training data has them")

    @property
    def kind(self) -> str:
        """``force-free``, ``force-informed``, ``position-only`` or ``kick-drift``."""
        if self.mode != "full":
            return "position-only" if self.mode == "position" else self.mode
        return "force-informed" if self.forces else "force-free"

    @model_validator(mode="after")
    def _fits_mode(self) -> PropagatorConfig:
        if self.mode == "position" and self.forces:
            raise ValueError("forces needs mode 'full': at the lags of mode 'position' a force says nothing")
        if self.mode == "kick-drift" and self.forces:
            raise ValueError("forces needs mode 'full': kicks see positions alone, or the map could not be inverted")
        if self.midpoint and not self.forces:
            raise ValueError("midpoint says where the force of a force-informed propagator is taken: set forces too")
        if self.mode != "kick-drift" and self.kicks != PropagatorConfig.model_fields["kicks"].default:
            raise ValueError(f"kicks needs mode 'kick-drift', the mode is {self.mode!r}: leave kicks out")
        if self.mode != "position" and self.edge_dropping:
            raise ValueError("edge_dropping needs mode 'position': it makes the map discontinuous, use cutoff instead")
        return self
