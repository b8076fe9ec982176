"""Saved propagators: safetensors for the weights, a JSON manifest in its header for everything else.

The manifest is checked against a schema before any tensor is read, and weights are loaded into a fresh model, so a file
that is truncated, foreign, newer or tampered with gives an error and nothing half-loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .._files import write_atomically
from ..errors import CheckpointError, ConfigError
from .config import PropagatorConfig
from .domain import MASS_TOLERANCE, Domain
from .limits import JumpLimits
from .migration import with_kind

FORMAT_VERSION = 3
FORMAT_NAME = "fastegnn_md propagator"


class Manifest(BaseModel):
    """The JSON header of a saved propagator."""

    model_config = ConfigDict(extra="forbid")

    format: str
    format_version: int
    package_version: str
    config: PropagatorConfig
    timestep_ps: float
    units: dict[str, str]
    species: list[int]
    masses_amu: dict[int, tuple[float, float]]
    masses_policy: str
    limits: dict[str, Any]
    periodic: bool
    bonds: bool
    conserves_momentum: bool
    average_neighbours: float
    velocity_scale: float
    force_scale: float
    dtype: str
    training_data: str
    metrics: dict[str, Any]


_UNITS = {"length": "Å", "time": "ps", "mass": "amu", "force": "amu Å/ps²"}
_MASSES_POLICY = f"within {MASS_TOLERANCE:.0%} of the range seen in training, per element"


def manifest_of(
    config: PropagatorConfig,
    timestep: float,
    domain: Domain,
    dtype: torch.dtype,
    fingerprint: str = "",
    metrics: dict[str, Any] | None = None,
) -> Manifest:
    """Everything about a propagator but its weights."""
    return Manifest(
        format=FORMAT_NAME,
        format_version=FORMAT_VERSION,
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
        dtype=str(dtype).removeprefix("torch."),
        training_data=fingerprint,
        metrics=metrics or {},
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
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    try:
        write_atomically(path, save(tensors, {"manifest": manifest.model_dump_json()}))
    except OSError as error:
        raise CheckpointError(f"cannot write the model to {path}: {error.strerror or error}") from error


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest of a saved propagator, without its weights.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, not a propagator, of a newer format, or its manifest was changed.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"no model file at {path}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); copy or train the model again"
        ) from error
    if "manifest" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file but not a propagator of fastegnn_md: it has no manifest")
    try:
        content = json.loads(metadata["manifest"])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"the manifest of {path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise CheckpointError(f"the manifest of {path} is not that of a propagator of fastegnn_md")
    found = content.get("format_version")
    if not isinstance(found, int) or found > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}, written by fastegnn_md {content.get('package_version')}; this version "
            f"({package_version()}) reads up to {FORMAT_VERSION}: upgrade fastegnn-md"
        )
    try:
        for version in range(found, FORMAT_VERSION):
            content = _MIGRATIONS[version](content)
        return Manifest.model_validate(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the manifest of {path} is damaged: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"the manifest of {path} is damaged at {where!r}: {first['msg']}") from error


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    if content["config"].get("mode", "full") == "full":
        raise CheckpointError(
            f"was trained by fastegnn_md {content['package_version']}, whose propagators of positions and velocities "
            "were not smooth where atoms cross the cutoff: train it again"
        )
    return content


def _from_2(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "config": with_kind(content["config"])}


# What makes a manifest of one format version one of the next.
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}


Module = TypeVar("Module", bound=nn.Module)


def read_model(path: str | Path, build: Callable[[PropagatorConfig, float, Domain], Module]) -> tuple[Module, Manifest]:
    """Build a module from the manifest of a file and give it the weights.

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
    manifest = read_manifest(path)
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
        )
        dtype = {"float32": torch.float32, "float64": torch.float64}[manifest.dtype]
        module = build(manifest.config, manifest.timestep_ps, domain).to(dtype)
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        _check_tensors(path, tensors, module.state_dict())
        module.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be loaded: {error}") from error
    return module, manifest


def _check_tensors(path: str | Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(set(expected) ^ set(tensors)):
        raise CheckpointError(f"{path}: tensor {name!r} is {'missing' if name in expected else 'unknown'}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {tuple(value.shape)} and type {value.dtype}; the manifest asks "
                f"for {tuple(expected[name].shape)} and {expected[name].dtype}"
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: tensor {name!r} has values that are not finite")
