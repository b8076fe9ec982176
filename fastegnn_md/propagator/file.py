"""Saved propagators: safetensors for the weights, a JSON manifest in its header for everything else.

The manifest is checked against a schema, and weights are loaded into a fresh model, so a file that is truncated,
foreign, newer or tampered with gives an error and nothing half-loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._files import TensorFormat
from ..errors import CheckpointError, brief
from .config import PropagatorConfig
from .domain import MASS_TOLERANCE, Domain
from .limits import JumpLimits
from .migration import with_kind
from .provenance import Provenance
from .surroundings import Surroundings, SurroundingsShape


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    if content["config"].get("mode", "full") == "full":
        raise CheckpointError(
            f"was trained by fastegnn_md {content['package_version']}, whose propagators of positions and velocities "
            "were not smooth where atoms cross the cutoff: train it again"
        )
    return content


def _from_2(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "config": with_kind(content["config"])}


def _from_3(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "provenance": None, "surroundings_reach": None}


def _as_it_is(content: dict[str, Any]) -> dict[str, Any]:
    return content  # what came to it has defaults


def _without(key: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give models of kind "flow" a key that they did not have, and whose default is another value now."""

    def migrate(content: dict[str, Any]) -> dict[str, Any]:
        config = content["config"]
        if isinstance(config, dict) and config.get("kind") == "flow":
            return {**content, "config": {key: value, **config}}
        return content

    return migrate


FORMAT = TensorFormat(
    name="fastegnn_md propagator",
    # 2: smooth at the cutoff; 3: config.kind; 4: provenance and surroundings; 5: environments, torsions; 6: handedness;
    # 7: covariances; 8: corrections
    version=8,
    key="manifest",
    what="model file",
    advice="copy or train the model again",
    migrations={
        1: _from_1,
        2: _from_2,
        3: _from_3,
        4: _as_it_is,
        5: _without("handedness", False),
        6: _as_it_is,
        7: _without("corrections", 0),
    },
)


_Positive = Annotated[float, Field(gt=0)]
_Element = Annotated[int, Field(ge=0, le=999)]  # beyond the periodic table: beads of a coarse model


class Manifest(BaseModel):
    """The JSON header of a saved propagator."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: str
    format_version: int
    package_version: str
    config: PropagatorConfig
    timestep_ps: _Positive
    units: dict[str, str]
    species: list[_Element]
    masses_amu: dict[_Element, tuple[_Positive, _Positive]]
    masses_policy: str
    limits: dict[str, Any]
    periodic: bool
    bonds: bool
    conserves_momentum: bool
    average_neighbours: _Positive
    velocity_scale: _Positive
    force_scale: _Positive
    environments: dict[int, _Positive] = {}  # of kind "flow"
    covariances: list[tuple[int, int, int, float]] = []  # likewise
    dtype: str
    training_data: str
    metrics: dict[str, Any]
    provenance: Provenance | None
    surroundings_reach: Annotated[float, Field(gt=0, le=100)] | None


_UNITS = {"length": "Å", "time": "ps", "mass": "amu", "force": "amu Å/ps²"}
_MASSES_POLICY = f"within {MASS_TOLERANCE:.0%} of the range seen in training, per element"


def manifest_of(
    config: PropagatorConfig,
    timestep: float,
    domain: Domain,
    dtype: torch.dtype,
    fingerprint: str = "",
    metrics: dict[str, Any] | None = None,
    provenance: Provenance | None = None,
    surroundings_reach: float | None = None,
) -> Manifest:
    """Everything about a propagator but its weights."""
    return Manifest(
        format=FORMAT.name,
        format_version=FORMAT.version,
        package_version=package_version(),
        config=config,
        timestep_ps=timestep,
        units=_UNITS,
        species=list(domain.species),
        masses_amu=domain.masses,
        masses_policy=_MASSES_POLICY,
        limits=domain.limits.to_dict(),
        periodic=domain.periodic,
        bonds=domain.bonds,
        conserves_momentum=domain.conserves_momentum,
        average_neighbours=domain.neighbours,
        velocity_scale=domain.velocity_scale,
        force_scale=domain.force_scale,
        environments=domain.environments,
        covariances=[(*name, value) for name, value in sorted(domain.covariances.items())],
        dtype=str(dtype).removeprefix("torch."),
        training_data=fingerprint,
        metrics=metrics or {},
        provenance=provenance,
        surroundings_reach=surroundings_reach,
    )


def package_version() -> str:
    """Version of the installed package."""
    try:
        return version("fastegnn-md")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"


def write_model(path: str | Path, manifest: Manifest, weights: Mapping[str, Tensor]) -> None:
    """Write a propagator; the previous file of that name survives whatever goes wrong.

    Raises
    ------
    CheckpointError
        If the folder is missing or read-only, or the disk is full.
    """
    try:
        FORMAT.write(path, weights, manifest.model_dump(mode="json"))
    except OSError as error:
        raise CheckpointError(f"cannot write the model to {path}: {error.strerror or error}") from error


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest of a saved propagator, without its weights.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, not a propagator, of a newer format, or its manifest was changed.
    """
    return _manifest(path, FORMAT.read_header(path))


def _manifest(path: str | Path, header: dict[str, Any]) -> Manifest:
    try:
        manifest = Manifest.model_validate(header)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"the manifest of {path} is damaged at {brief(where)}: {brief(first['msg'], quoted=False)}"
        ) from error
    if manifest.units != _UNITS:
        raise CheckpointError(f"{path} is in the units {brief(manifest.units)}; this package reads {_UNITS}")
    if manifest.species != sorted(manifest.masses_amu):
        raise CheckpointError(
            f"the manifest of {path} is damaged: the elements are {brief(manifest.species)}, masses are given of "
            f"{brief(sorted(manifest.masses_amu))}"
        )
    return manifest


Module = TypeVar("Module", bound=nn.Module)


def read_model(
    path: str | Path, build: Callable[[PropagatorConfig, float, Domain], Module]
) -> tuple[Module, Surroundings | None, Manifest]:
    """Build a module from the manifest of a file and give it the weights; and the surroundings, where it has them.

    Parameters
    ----------
    path : str or Path
    build : callable
        Makes the module of a configuration, a time step (ps) and a domain.

    Raises
    ------
    CheckpointError
        As :func:`read_manifest`; or if names, shapes or types of the tensors are not those the manifest asks for.
    """
    tensors, header = FORMAT.read(path)
    manifest = _manifest(path, header)
    try:
        domain = Domain(
            masses=manifest.masses_amu,
            limits=JumpLimits.from_dict(manifest.limits),
            periodic=manifest.periodic,
            bonds=manifest.bonds,
            conserves_momentum=manifest.conserves_momentum,
            neighbours=manifest.average_neighbours,
            velocity_scale=manifest.velocity_scale,
            force_scale=manifest.force_scale,
            environments=manifest.environments,
            covariances={(a, b, hops): value for a, b, hops, value in manifest.covariances},
        )
        dtype = {"float32": torch.float32, "float64": torch.float64}[manifest.dtype]
        with torch.device("meta"), _NoValues():  # shapes without memory: the manifest may ask for any size
            shapes = build(manifest.config, manifest.timestep_ps, domain).to(dtype).state_dict()
            shape = None
            if manifest.surroundings_reach is not None:
                shape = SurroundingsShape(domain.species, manifest.surroundings_reach)
                shapes = shapes | Surroundings(shape).to(dtype).tensors()
        _check_tensors(path, tensors, shapes)
        module = build(manifest.config, manifest.timestep_ps, domain).to(dtype)
        surroundings = None
        if shape is not None:
            surroundings = Surroundings(shape).to(dtype)
            surroundings.take(tensors)
        module.load_state_dict({name: tensors[name] for name in module.state_dict()})
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        # RuntimeError: sizes that PyTorch cannot count
        raise CheckpointError(f"{path} cannot be loaded: {brief(error, quoted=False)}") from error
    return module, surroundings, manifest


_DRAWING = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class _NoValues(TorchFunctionMode):
    """Shapes alone, on the device "meta": for values there torch would import its compiler, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in _DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        if func is torch.randn:
            return torch.empty(*args)
        if func is torch.arange:
            start, end, step = args if len(args) == 3 else (0, args[0], 1)
            whole = all(isinstance(one, int) for one in args)
            return torch.empty(max(0, math.ceil((end - start) / step)), dtype=torch.int64 if whole else None)
        return func(*args, **(kwargs or {}))


def _check_tensors(path: str | Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(set(expected) ^ set(tensors)):
        raise CheckpointError(f"{path}: tensor {brief(name)} is {'missing' if name in expected else 'unknown'}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(value.shape)} and type {value.dtype}; the manifest asks "
                f"for {tuple(expected[name].shape)} and {expected[name].dtype}"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: tensor {name!r} has values that are not finite")
