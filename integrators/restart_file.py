"""Restart files of a simulation: arrays in full precision and a JSON header, in one safetensors file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastegnn_md._files import TensorFormat
from fastegnn_md.errors import CheckpointError, brief


def _as_it_is(header: dict[str, Any]) -> dict[str, Any]:
    """Formats differ in the options of dynamics, which know of their own."""
    return header


# 2: stochastic velocity rescaling, conserved angular momentum and energy. 3: thermostat, schedule and what is conserved
# are values; the place in a schedule. 4: a barostat. 5: several replicas in one file.
FORMAT = TensorFormat(
    name="fastegnn_md restart",
    version=5,
    key="header",
    what="restart file",
    advice="take an earlier one, or start anew",
    migrations={1: _as_it_is, 2: _as_it_is, 3: _as_it_is, 4: _as_it_is},
)

Content: TypeAlias = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays and header of one simulation

# Bit generators of NumPy whose state can be put back.
_BIT_GENERATORS = {"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}


def save_restart(path: str | Path, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
    """Write a restart file; the previous file of that name survives whatever goes wrong.

    Parameters
    ----------
    path : str or Path
    arrays : dict of str to ndarray
        Kept bit for bit.
    header : dict
        What JSON can hold; floats are kept bit for bit.

    Raises
    ------
    CheckpointError
        If the folder is missing or read-only, or the disk is full.
    """
    try:
        FORMAT.write(path, arrays, header)
    except OSError as error:
        raise CheckpointError(f"cannot write the restart file {path}: {error.strerror or error}") from error


def load_restart(path: str | Path) -> Content:
    """Read what :func:`save_restart` wrote, with the format it was written in under ``format_version``.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, foreign or of a newer format.
    """
    return FORMAT.read(path, numpy=True)


def save_replicas(path: str | Path, replicas: Sequence[Content], notes: dict[str, Any]) -> None:
    """Write several simulations, which are at one step, into one restart file: they are continued together or not.

    Raises
    ------
    CheckpointError
        As :func:`save_restart`.
    """
    arrays = {f"{k}/{name}": value for k, (content, _) in enumerate(replicas) for name, value in content.items()}
    save_restart(path, arrays, {"replicas": [header for _, header in replicas], "notes": notes})


def load_replicas(path: str | Path, count: int) -> list[Content]:
    """Read what :func:`save_replicas` wrote, each as :func:`load_restart` would give it.

    Raises
    ------
    CheckpointError
        As :func:`load_restart`; or if the file has another number of simulations.
    """
    arrays, header = load_restart(path)
    headers = restart_value(header, "replicas", list)
    if len(headers) != count or not all(isinstance(one, dict) for one in headers):
        raise CheckpointError(f"the restart file {path} has {len(headers)} replicas; expected {count}")
    parts: list[dict[str, np.ndarray]] = [{} for _ in headers]
    for name, value in arrays.items():
        number, _, own = name.partition("/")
        if not number.isdecimal() or int(number) >= count:
            raise CheckpointError(f"the restart file {path} has an array {brief(name)} of no replica; it is damaged")
        parts[int(number)][own] = value
    return [
        (part, {**one, "format_version": header["format_version"]}) for part, one in zip(parts, headers, strict=True)
    ]


def generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """State of a NumPy generator as JSON can hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, np.ndarray):
            return {"__array__": value.tolist(), "dtype": str(value.dtype)}
        return int(value) if isinstance(value, np.integer) else value

    return plain(rng.bit_generator.state)


def restore_generator(state: dict[str, Any]) -> np.random.Generator:
    """Undo :func:`generator_state`.

    Raises
    ------
    CheckpointError
        If it is not the state of one of NumPy's generators.
    """

    def rich(value: Any) -> Any:
        if isinstance(value, dict):
            if "__array__" in value:
                return np.array(value["__array__"], dtype=np.dtype({"uint32": "u4", "uint64": "u8"}[value["dtype"]]))
            return {key: rich(item) for key, item in value.items()}
        return value

    name = state.get("bit_generator") if isinstance(state, dict) else None
    if not isinstance(name, str) or name not in _BIT_GENERATORS:
        raise CheckpointError(
            f"the random state is of {brief(name)}; expected one of {', '.join(sorted(_BIT_GENERATORS))}"
        )
    rng = np.random.Generator(getattr(np.random, name)())
    try:
        rng.bit_generator.state = rich(state)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"the random state of {name} is damaged: {brief(error, quoted=False)}") from error
    return rng


def restart_array(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...], kind: str = "f"
) -> np.ndarray:
    """An array of a restart file that can be used as it is.

    Parameters
    ----------
    arrays : dict
        As read.
    name : str
    shape : tuple of int or None
        None stands for any length.
    kind : str
        NumPy's letters for the kind of numbers: ``"f"``, ``"i"``, ``"b"``.

    Raises
    ------
    CheckpointError
        If it is missing, of another shape or kind, or not finite.
    """
    if name not in arrays:
        raise CheckpointError(f"the restart file lacks {name!r}; it is damaged")
    value = arrays[name]
    fits = len(value.shape) == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
    if not fits or value.dtype.kind not in kind:
        expected = tuple("any" if one is None else one for one in shape)
        raise CheckpointError(
            f"{name} of the restart file has shape {value.shape} and type {value.dtype}; expected {expected} and a "
            f"type of kind {kind!r}: it is damaged, or of another system"
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise CheckpointError(f"{name} of the restart file has values that are not finite; take an earlier one")
    return value


def restart_value(values: Any, name: str, kinds: type | tuple[type, ...], *, least: float | None = None) -> Any:
    """A value of the header of a restart file.

    Parameters
    ----------
    values : dict
        The header, or a part of it.
    name : str
    kinds : type or tuple of types
        What it may be; True is no int here.
    least : float, optional
        Lowest number.

    Raises
    ------
    CheckpointError
        If it is missing, of another type, too low or not finite.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(values, dict) or name not in values:
        raise CheckpointError(f"the restart file lacks {name!r}; it is damaged")
    value = values[name]
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
    if not fits or (numeric and not (math.isfinite(value) and (least is None or value >= least))):
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        bound = "" if least is None else f" of at least {least:g}"
        raise CheckpointError(f"{name} of the restart file is {brief(value)}; expected {names}{bound}: it is damaged")
    return value
