"""Stopping and continuing a :class:`~fastegnn_md.integrators.ase.LearnedDynamics` without a trace."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch

from fastegnn_md.engines.ase_trajectory import check_frames, count_frames, truncate_trajectory
from fastegnn_md.errors import CheckpointError, CompatibilityError
from fastegnn_md.restart import generator_state, load_restart, restore_generator, save_restart

from .guarded import JumpStatistics
from .guards import GuardSettings

if TYPE_CHECKING:
    from ase import Atoms

    from fastegnn_md.propagator import Propagator

    from .ase import LearnedDynamics


def save(dynamics: LearnedDynamics, path: str | Path) -> None:
    """Write all that decides the next steps; see :meth:`LearnedDynamics.save_restart`."""
    atoms, guarded = dynamics.atoms, dynamics.guarded
    arrays = {
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "cell": np.array(atoms.cell),
        "pbc": atoms.get_pbc(),
        "numbers": atoms.get_atomic_numbers(),
        "masses": atoms.get_masses(),
    }
    jump = dynamics.jump
    for name, value in (("bonds", jump.bonds), ("types", jump.types), ("forces", jump.known_forces())):
        if value is not None:
            arrays[name] = value
    for index, constraint in enumerate(atoms.constraints):
        lengths = getattr(constraint, "bondlengths", None)
        if lengths is not None:  # ASE's own description of the constraint leaves them out
            arrays[f"bondlengths_{index}"] = np.asarray(lengths, dtype=float)
    header = {
        "nsteps": dynamics.nsteps,
        "rng": generator_state(dynamics.rng),
        "seed": dynamics.seed,
        "frames": _frames(dynamics),
        "constraints": [type(constraint).__name__ for constraint in atoms.constraints],
        "statistics": dataclasses.asdict(guarded.statistics),
        "propagator": _identity(dynamics.propagator),
        "automatic": dynamics.restart_file is not None,
        "energy": None if guarded.energy is None else guarded.energy.target,
        "options": {
            "temperature_K": dynamics.temperature_K,
            "friction": dynamics.friction,
            "taut": dynamics.taut,
            "guard": None if guarded.guard is None else dataclasses.asdict(guarded.guard),
            "fallback": guarded.fallback,
            "fallback_timestep": dynamics.fallback_timestep,
            "relax_steps": guarded.relax_steps,
            "conserve_momentum": guarded.momentum,
            "conserve_angular_momentum": guarded.angular_momentum,
            "conserve_energy": guarded.energy is not None,
            "log_energy": dynamics.log_energy,
            "loginterval": dynamics.loginterval,
            "restart_interval": dynamics.restart_interval,
        },
    }
    save_restart(path, arrays, header)


def resume(
    kind: type[LearnedDynamics],
    path: str | Path,
    atoms: Atoms,
    propagator: Propagator,
    trajectory: str | Path | None,
    logfile: IO | str | Path | None,
    restart_file: str | Path | None,
) -> LearnedDynamics:
    """Read what :func:`save` wrote; see :meth:`LearnedDynamics.restart`."""
    arrays, header = load_restart(path)
    try:
        return _resume(kind, path, arrays, header, atoms, propagator, trajectory, logfile, restart_file)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the restart file {path} lacks or garbles {error}; it is damaged") from error


def _resume(
    kind: type[LearnedDynamics],
    path: str | Path,
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    atoms: Atoms,
    propagator: Propagator,
    trajectory: str | Path | None,
    logfile: IO | str | Path | None,
    restart_file: str | Path | None,
) -> LearnedDynamics:
    _check_same(arrays, header, atoms, propagator)
    rng = restore_generator(header["rng"])
    # Files of format 1 know nothing of angular momentum: their runs did not conserve it.
    options = {"conserve_angular_momentum": False, **header["options"]}
    guard = options.pop("guard")
    statistics = JumpStatistics(**header["statistics"])
    if restart_file is None and header["automatic"]:
        restart_file = path
    nsteps, seed, frames = header["nsteps"], header["seed"], header["frames"]
    if trajectory is not None and frames is not None:
        check_frames(trajectory, frames)
    earlier = atoms.copy()
    _set_atoms(atoms, arrays)
    try:
        dynamics = kind(
            atoms,
            propagator,
            rng=rng,
            bonds=arrays.get("bonds"),
            types=arrays.get("types"),
            guard=False if guard is None else GuardSettings(**guard),
            trajectory=trajectory,
            append_trajectory=True,
            **options,
        )
        if trajectory is not None and frames is not None:
            truncate_trajectory(trajectory, frames)
    except BaseException:
        atoms.cell[:] = earlier.cell
        atoms.arrays.pop("momenta", None)
        atoms.arrays.update(earlier.arrays)
        raise
    dynamics.seed, dynamics.nsteps, dynamics.guarded.statistics = seed, nsteps, statistics
    if dynamics.guarded.energy is not None:
        dynamics.guarded.energy.target = header["energy"]
    if "forces" in arrays:
        dynamics.jump.remember_forces(arrays["forces"])
    if logfile:
        dynamics.attach_logfile(logfile, header=False)
    if restart_file is not None:
        dynamics.attach_restart(restart_file)
    return dynamics


def _frames(dynamics: LearnedDynamics) -> int | None:
    """Frames of the trajectory that the continued run will not write itself."""
    frames = count_frames(dynamics.trajectory)
    # A run continued from step 0 begins with the frame of step 0, which this one may have written already.
    return frames - 1 if frames and dynamics.nsteps == 0 and dynamics.begun else frames


def _set_atoms(atoms: Atoms, arrays: dict[str, np.ndarray]) -> None:
    for index, constraint in enumerate(atoms.constraints):
        if f"bondlengths_{index}" in arrays:
            constraint.bondlengths = arrays[f"bondlengths_{index}"].copy()
    atoms.set_cell(arrays["cell"])
    atoms.set_positions(arrays["positions"], apply_constraint=False)
    atoms.set_momenta(arrays["momenta"], apply_constraint=False)


def _check_same(arrays: dict[str, np.ndarray], header: dict[str, Any], atoms: Atoms, propagator: Propagator) -> None:
    present = {
        "numbers": atoms.get_atomic_numbers(),
        "masses": atoms.get_masses(),
        "pbc": atoms.get_pbc(),
    }
    for name, value in present.items():
        if not np.array_equal(arrays[name], value):
            raise CompatibilityError(
                f"the atoms have other {name} than those of the restart file; give the same system"
            )
    kinds = [type(constraint).__name__ for constraint in atoms.constraints]
    if kinds != header["constraints"]:
        raise CompatibilityError(
            f"the atoms have the constraints {kinds}, those of the restart file {header['constraints']}; set the same"
        )
    if _identity(propagator) != header["propagator"]:
        raise CompatibilityError("the restart file was written with another propagator; load the same model file")


def _identity(propagator: Propagator) -> dict[str, Any]:
    """What makes two propagators the same map: time step and weights."""
    digest = hashlib.sha256()
    if isinstance(propagator, torch.nn.Module):
        for name, value in propagator.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return {"timestep": propagator.timestep, "training-data": propagator.fingerprint, "weights": digest.hexdigest()}
