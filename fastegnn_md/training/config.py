"""The settings of a training run: typed, checked on construction, written to and read from YAML."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, field_validator, model_validator

from .._files import write_atomically
from ..errors import ConfigError, brief
from ..propagator.config import Kind, PropagatorConfig
from ..propagator.migration import FORMER_KEYS, with_kind
from ..propagator.settings import Settings
from .yaml_text import read_yaml

# Defaults of a kind that are not those of the keys: a distribution takes longer to learn than its mean, and pairs
# turned round in time are right of equilibrium data only.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "flow": {
        "updates": 20_000,
        "learning_rate": 2e-3,
        "ema_decay": 0.999,
        "time_reversal": False,
        "validate_every": 1000,
        "checkpoint_every": 1000,
    }
}
_MOST = 10**12  # of what is counted; a slip of the hand is longer


class TrainingConfig(Settings):
    """How a propagator is trained.

    Every key is checked; an unknown one is refused with the nearest known name. The budget is counted in optimiser
    updates, so that the same numbers mean the same work for every size of data set.

    Parameters
    ----------
    propagator : PropagatorConfig
        Kind and architecture.
    updates : int
        Optimiser updates of the whole run. The learning rate falls along this number, so it belongs to the result.
    batch_size : int
        Pairs per update, over all devices together.
    learning_rate : float
        Peak learning rate of Adam.
    warmup : int
        Updates over which the learning rate rises linearly.
    final_learning_rate : float
        End of the cosine schedule, as a share of ``learning_rate``.
    weight_decay : float
        L2 penalty inside Adam (published value 1e-12).
    gradient_clip : float or None
        Largest norm of the gradient; None does not clip.
    ema_decay : float
        Decay of the exponential moving average of the weights, min(``ema_decay``, (1 + n)/(10 + n)) after n updates.
        The average is what is evaluated and exported; 0 evaluates the weights themselves.
    temperature : float or None
        K, of the run that the data come from, for a model to remember: where frames have no velocities that tell it.
    time_reversal : bool
        Train on the reversed pairs (x', -v') -> (x, -v) too. Read where the data set is built.
    unroll : int
        Successive jumps that the loss is the mean over, with gradients through all of them; the data must have
        segments of as many lags. For force-free propagators.
    noise : float
        Noise on the states that training jumps begin from, as a share of the residual scale of each element:
        :func:`~fastegnn_md.training.unrolling.perturbed`. For force-free propagators.
    force_updates : int
        Updates, the first ones, on the forces of the pairs alone instead of the pairs, kinds "kick-drift", "symplectic"
        and "conservative": one call of the network each in place of one per kick.
    velocity_weight : float
        Weight of the velocity residual beside the position residual.
    mmd_weight : float
        Weight λ of the MMD between real and virtual nodes. Published: 0.03 (N-body), 0.5 (protein), 0.01 (water).
    mmd_sigma : float
        Width σ of its kernel, Å. Published: 1.5 (N-body), 1.0 (protein), 1.5 (water).
    mmd_samples : int
        Real nodes drawn per system for the MMD.
    connectivity_weight : float
        Weight λ of the connectivity loss of EGHN.
    validate_every : int
        Updates between two validations.
    validation_pairs : int or None
        Validate on at most this many held-out pairs, evenly spaced; None takes all.
    patience : int or None
        Stop after this many validations without a better score; None never stops early.
    checkpoint_every : int
        Updates between two training checkpoints.
    precision : {"32-true", "64-true", "bf16-mixed", "16-mixed"}
        Lightning's names.
    accelerator, devices, num_nodes : str, int or "auto", int
        As in Lightning's ``Trainer``; ``devices`` are those of one node.
    strategy : {"auto", "ddp"}
        "ddp": one process per device, each with its share of every batch (docs/training.md). "auto": this where there
        is more than one device, which is to be preferred. It does not change the result.
    seed : int
        Decides initial weights, order of the pairs, noise and MMD samples.
    logger : {"csv", "tensorboard", "none"}
        What is written beside the output: ``history.csv``, TensorBoard events as well, or nothing.
    num_workers : int
        Processes that read pairs ahead of the training step; 0 reads in the training process.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is out of range.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    propagator: PropagatorConfig = PropagatorConfig.model_validate({})
    updates: int = Field(default=1200, ge=1, le=_MOST)
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    learning_rate: float = Field(default=4e-3, gt=0)
    warmup: int = Field(default=50, ge=0, le=_MOST)
    final_learning_rate: float = Field(default=0.02, ge=0, le=1)
    weight_decay: float = Field(default=1e-12, ge=0)
    gradient_clip: float | None = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    temperature: float | None = Field(default=None, gt=0, le=1e6)
    time_reversal: bool = True
    unroll: int = Field(default=1, ge=1, le=10_000)
    noise: float = Field(default=0.0, ge=0)
    force_updates: int = Field(default=0, ge=0, le=_MOST)
    velocity_weight: float = Field(default=1.0, ge=0)
    mmd_weight: float = Field(default=0.0, ge=0)
    mmd_sigma: float = Field(default=1.5, gt=0)
    mmd_samples: int = Field(default=50, ge=1, le=1_000_000)
    connectivity_weight: float = Field(default=0.0, ge=0)
    validate_every: int = Field(default=100, ge=1, le=_MOST)
    validation_pairs: int | None = Field(default=1024, ge=1)
    patience: int | None = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=100, ge=1, le=_MOST)
    precision: Literal["32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = Field(default=1, ge=1, le=100_000)
    strategy: Literal["auto", "ddp"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    logger: Literal["csv", "tensorboard", "none"] = "csv"
    num_workers: int = Field(default=0, ge=0, le=256)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        propagator = values.get("propagator", {})
        kind = propagator.get("kind") if isinstance(propagator, dict) else getattr(propagator, "kind", None)
        return {**_DEFAULTS.get(kind, {}), **values} if isinstance(kind, str) else values

    @field_validator("devices")
    @classmethod
    def _some_devices(cls, devices: int | str) -> int | str:
        if isinstance(devices, int) and devices < 1 and devices != -1:  # -1 is Lightning's for all there are
            raise ValueError('expected a number of devices >= 1, or "auto" for all of a node')
        if isinstance(devices, int) and devices > 1024:
            raise ValueError("expected at most 1024 devices of one node")
        return devices

    @field_validator("strategy", mode="before")
    @classmethod
    def _no_shards(cls, strategy: Any) -> Any:
        if isinstance(strategy, str) and strategy.startswith(("fsdp", "deepspeed", "model_parallel")):
            raise ValueError(
                "it spreads the weights of networks that do not fit on one device; those of a propagator take some MB, "
                "so every process has them all: use 'ddp'"
            )
        return strategy

    @model_validator(mode="after")
    def _fits_kind(self) -> TrainingConfig:
        if self.propagator.wants_forces and (self.unroll > 1 or self.noise):
            raise ValueError(
                "unroll > 1 and noise are for force-free propagators: the data have no forces at predicted or "
                "perturbed states; set unroll=1 and noise=0, or propagator.kind=force-free"
            )
        if self.propagator.stochastic and (self.unroll > 1 or self.noise or self.mmd_weight):
            raise ValueError(
                "kind 'flow' is trained on single jumps whose noise it draws itself: leave unroll, noise and "
                "mmd_weight out"
            )
        if self.force_updates and self.propagator.kind not in ("kick-drift", "symplectic", "conservative"):
            raise ValueError(
                "force_updates needs kind 'kick-drift', 'symplectic' or 'conservative', the kind is "
                f"{self.propagator.kind!r}: set it to 0"
            )
        return self

    @classmethod
    def explain_unknown(cls, path: list[str]) -> str:
        """The nearest known key; it may belong to the other level."""
        below = len(path) > 1 and path[0] == "propagator"
        inside = {name: f"propagator.{name}" for name in PropagatorConfig.model_fields}
        outside = {name: name for name in TrainingConfig.model_fields}
        message = f"unknown key {brief('.'.join(path))}"
        if path[-1] in FORMER_KEYS:
            return f"{message}: mode, forces and midpoint are one key now, propagator.kind={'|'.join(get_args(Kind))}"
        # The level it was written at first.
        for known in (inside, outside) if below else (outside, inside):
            nearest = difflib.get_close_matches(path[-1][:100], known, n=1)
            if nearest:
                return f"{message}, did you mean {known[nearest[0]]!r}?"
        return f"{message}; known keys: {', '.join((inside if below else outside).values())}"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], overrides: Iterable[str] = ()) -> TrainingConfig:
        """Build a configuration from nested mappings and ``key=value`` strings.

        Parameters
        ----------
        values : mapping
            Keys of this class; ``propagator`` holds a mapping of its own, which older versions may have written.
        overrides : iterable of str
            ``"batch_size=32"``, ``"propagator.hidden=32"``; values are read as YAML. They win over ``values``.
            The prefix ``training.`` is allowed and means nothing.

        Raises
        ------
        ConfigError
            If a key is unknown, a value is out of range, or an override is not of the form ``key=value``.
        """
        merged: dict[str, Any] = {
            key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
        }
        if isinstance(merged.get("propagator"), dict):
            merged["propagator"] = with_kind(merged["propagator"])
        for override in overrides:
            _set(merged, override)
        return cls(**merged)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> TrainingConfig:
        """Read a configuration from a YAML file.

        Parameters
        ----------
        path : str or Path
            File with the keys of this class.
        overrides : iterable of str
            See :meth:`from_mapping`.

        Raises
        ------
        ConfigError
            If the file is missing or is not a YAML mapping, or a value is refused.
        """
        path = Path(path)
        try:
            if path.exists() and not path.is_file():
                raise ConfigError(f"the configuration {path} is not a file")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {_reason(error)}") from None
        values = read_yaml(text, str(path))
        if values is None:
            values = {}
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ConfigError(f"{path} must hold keys and values such as 'updates: 1200', not {type(values).__name__}")
        return cls.from_mapping(values, overrides)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Write this configuration as YAML; returns the text, and writes it to ``path`` if one is given."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        if path is not None:
            write_atomically(path, text.encode())
        return text


def _set(values: dict[str, Any], override: str) -> None:
    """Apply one ``a.b=value`` to nested dictionaries."""
    key, separator, text = override.partition("=")
    path = key.strip().removeprefix("training.").split(".")
    if not separator or not all(path):
        raise ConfigError(f"cannot read the setting {brief(override)}; expected key=value, for example batch_size=32")
    target = values
    for name in path[:-1]:
        below = target.setdefault(name, {})
        if not isinstance(below, dict):
            raise ConfigError(f"cannot set {brief(key.strip())}: {brief(name)} has no keys below it")
        target = below
    target[path[-1]] = read_yaml(text, f"the value of the setting {brief(override)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
