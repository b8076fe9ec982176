"""Hyper-parameters of a propagator: their one place, stored in every saved model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from .migration import FORMER_KEYS, with_kind
from .settings import Settings

Kind = Literal[
    "force-free", "force-start", "force-midpoint", "position", "kick-drift", "symplectic", "conservative", "flow"
]
WantedForces = Literal["start", "midpoint"]

# Options that one kind alone has.
_OPTIONS = {
    "kicks": ("kick-drift", "symplectic", "conservative"),
    "edge_dropping": ("position",),
    "mollify": ("symplectic",),
    "sampling_steps": ("flow",),
    "corrections": ("flow",),
    "handedness": ("flow",),
    "collective": ("flow",),
}
_WANTED: dict[str, WantedForces] = {"force-start": "start", "force-midpoint": "midpoint", "symplectic": "midpoint"}
# Defaults of a kind that are not those of the keys.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "symplectic": {"kicks": 3},
    "conservative": {"kicks": 3},
    "flow": {"cutoff": 12.0, "layers": 3, "vector_channels": 6, "corrections": 2, "handedness": True},
}
_WIDEST, _MOST = 100_000, 10_000  # far beyond sense; a slip or a damaged file is found before anything is built


class PropagatorConfig(Settings):
    """What a propagator is built from.

    The defaults were chosen on alanine dipeptide at 8 fs, for the error after a few minutes of training on one core;
    the short cutoff mattered most. Other systems and longer lags may want a longer one.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is out of range.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Kind = Field(
        default="force-free",
        description="'force-free' maps (x, v) to (x', v'); 'force-start' and 'force-midpoint' see the forces at x or "
        "at x + v Δt/2, too; 'position' maps x to x' and redraws v'; 'kick-drift' maps (x, v) to (x', v') by kicks and "
        "drifts, reversible and volume preserving; 'symplectic' too, by kicks along gradients of a learned potential "
        "and one along the force of the engine half a jump ahead; 'conservative' likewise without an engine; 'flow' "
        "draws x' from what x leads to at lags of picoseconds, and redraws v'",
    )
    architecture: str = Field(default="fastegnn", description="name of the network, see models.available_models()")
    architecture_options: dict[str, Any] = Field(
        default={}, description="further keywords of that architecture, see models.hyperparameters_of()"
    )
    hidden: int = Field(default=64, ge=1, le=_WIDEST, description="width of messages and node features")
    layers: int = Field(default=4, ge=1, le=_MOST, description="number of message-passing layers")
    virtual_nodes: int = Field(default=3, ge=1, le=_MOST, description="virtual nodes per system (C in the paper)")
    vector_channels: int = Field(
        default=4, ge=2, le=_MOST, description="equivariant vectors per atom, not in kind 'position'"
    )
    radial_functions: int = Field(
        default=12, ge=1, le=_MOST, description="Bessel functions of the distance as edge features"
    )
    cutoff: float = Field(default=3.5, gt=0, description="radius of the real graph, Å")
    edge_dropping: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the longest edges dropped, kind 'position': elsewhere a map would be discontinuous",
    )
    kicks: int = Field(
        default=4,
        ge=1,
        le=_MOST,
        description="kicks per jump: learned ones of kinds 'kick-drift' and 'conservative' (3 by default); of kind "
        "'symplectic' (3 by default) an odd number, with the force of the engine in the middle one",
    )
    mollify: float | None = Field(
        default=None,
        ge=100,
        le=100_000,
        description="wavenumber in 1/cm about which vibrations are taken out of the correction by the engine, kind "
        "'symplectic': for time steps longer than half the period of the fastest vibration",
    )
    sampling_steps: int = Field(
        default=7, ge=1, le=1000, description="steps of Heun's method from noise to positions, kind 'flow'"
    )
    corrections: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="times that a draw gets some noise again and loses it, kind 'flow' (2 by default): bonds get their "
        "width, and fewer are far off",
    )
    handedness: bool = Field(
        default=False,
        description="atoms with four neighbours see whether a sample has them on the side where they stood, and where "
        "neighbours along bonds lay, kind 'flow' (true by default): centres turn over far less often",
    )
    collective: bool = Field(
        default=False,
        description="noise and the weight of errors follow how the atoms of a molecule move together at the lag, "
        "kind 'flow': turns of half a molecule are learned sooner; the model then knows the molecules of its training "
        "and no others of the same pieces",
    )
    use_bonds: bool = Field(default=True, description="bonds enter as edge features where the training data has them")

    @property
    def wants_forces(self) -> WantedForces | None:
        """Where the force is taken that is an input: at the start of a jump, half a jump ahead, nowhere."""
        return _WANTED.get(self.kind)

    @property
    def middle_frames(self) -> bool:
        """Whether training pairs are to bring along the frame halfway between them."""
        return self.kind == "symplectic"

    @property
    def predicts_velocities(self) -> bool:
        """Whether velocities are an input and predicted, or redrawn."""
        return self.kind not in ("position", "flow")

    @property
    def stochastic(self) -> bool:
        """Whether positions are drawn, so that a jump from the same state ends elsewhere each time."""
        return self.kind == "flow"

    @property
    def vector_network(self) -> bool:
        """Whether the network is one of vectors about atoms that stay where they are, as all but the papers'."""
        return self.kind != "position"

    @model_validator(mode="before")
    @classmethod
    def _no_former_words(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.keys().isdisjoint(FORMER_KEYS):
            kind = with_kind(values)["kind"]
            raise ValueError(f"mode, forces and midpoint are one key now: write kind={kind!r} in their place")
        if isinstance(values, dict) and values.get("kind") in _DEFAULTS:
            return {**_DEFAULTS[values["kind"]], **values}
        return values

    @model_validator(mode="after")
    def _options_fit_kind(self) -> PropagatorConfig:
        for option, kinds in _OPTIONS.items():
            if self.kind not in kinds and getattr(self, option) != PropagatorConfig.model_fields[option].default:
                known = " and ".join(
                    [", ".join(map(repr, kinds[:-1])), repr(kinds[-1])] if kinds[1:] else map(repr, kinds)
                )
                raise ValueError(f"{option} is an option of kind {known}, the kind is {self.kind!r}: leave it out")
        if self.handedness and self.vector_channels < 5:
            raise ValueError(
                f"vector_channels is {self.vector_channels}; handedness needs 5 or more, or set it to false"
            )
        if self.kind == "symplectic" and (self.kicks < 3 or self.kicks % 2 == 0):
            raise ValueError(
                f"kicks is {self.kicks}; kind 'symplectic' needs an odd number from 3, its middle is the engine's"
            )
        return self
