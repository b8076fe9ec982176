"""Stopping and continuing dynamics of ASE that jump without a trace."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from fastegnn_md.engines.ase.trajectory import check_frames, count_frames, truncate_trajectory
from fastegnn_md.errors import CheckpointError, CompatibilityError

from ..restart_file import generator_state, load_restart, restore_generator, save_restart
from .description import migrated

if TYPE_CHECKING:
    from ase import Atoms

    from fastegnn_md.propagator.learned_map import LearnedMap


class Restartable(Protocol):
    """What is asked of dynamics; :class:`~fastegnn_md.integrators.ase.base.JumpDynamics` are such."""

    atoms: Any
    propagator: Any
    trajectory: Any
    nsteps: int
    rng: np.random.Generator
    seed: int | None
    begun: bool
    restart_file: str | Path | None
    restart_interval: int

    @property
    def statistics(self) -> Any: ...  # noqa: D102

    def restart_options(self) -> dict[str, Any]: ...  # noqa: D102

    def restart_arrays(self) -> dict[str, np.ndarray | None]: ...  # noqa: D102

    def restart_place(self) -> dict[str, Any]: ...  # noqa: D102

    @classmethod
    def from_restart(cls, atoms: Any, propagator: Any, options: dict[str, Any], **keywords: Any) -> Any: ...  # noqa: D102

    def continue_from(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None: ...  # noqa: D102

    def attach_trajectory(self, trajectory: str | Path) -> None: ...  # noqa: D102

    def attach_logfile(self, logfile: Any, header: bool = True) -> None: ...  # noqa: D102

    def attach_restart(self, restart_file: str | Path, interval: int | None = None) -> None: ...  # noqa: D102


Kind = TypeVar("Kind", bound=Restartable)


def save(dynamics: Restartable, path: str | Path, notes: dict[str, Any] | None) -> None:
    """Write all that decides the next steps; see :meth:`JumpDynamics.save_restart`."""
    atoms = dynamics.atoms
    arrays = {
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "cell": np.array(atoms.cell),
        "pbc": atoms.get_pbc(),
        "numbers": atoms.get_atomic_numbers(),
        "masses": atoms.get_masses(),
    }
    arrays |= {name: value for name, value in dynamics.restart_arrays().items() if value is not None}
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
        "statistics": dataclasses.asdict(dynamics.statistics),
        "propagator": dynamics.propagator.identity(),
        "automatic": dynamics.restart_file is not None,
        "options": {**dynamics.restart_options(), "restart_interval": dynamics.restart_interval},
        "place": dynamics.restart_place(),
        "notes": notes or {},
    }
    save_restart(path, arrays, header)


def resume(
    kind: type[Kind],
    path: str | Path,
    atoms: Atoms,
    propagator: LearnedMap,
    classical: Any,
    trajectory: str | Path | None,
    logfile: IO | str | Path | None,
    restart_file: str | Path | None,
) -> Kind:
    """Read what :func:`save` wrote; see :meth:`JumpDynamics.restart`."""
    arrays, header = load_restart(path)
    try:
        return _resume(kind, path, arrays, header, atoms, propagator, classical, trajectory, logfile, restart_file)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the restart file {path} lacks or garbles {error}; it is damaged") from error


def _resume(
    kind: type[Kind],
    path: str | Path,
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    atoms: Atoms,
    propagator: LearnedMap,
    classical: Any,
    trajectory: str | Path | None,
    logfile: IO | str | Path | None,
    restart_file: str | Path | None,
) -> Kind:
    _check_same(arrays, header, atoms, propagator)
    rng = restore_generator(header["rng"])
    options = migrated(header["options"], header["format_version"])
    if restart_file is None and header["automatic"]:
        restart_file = path
    nsteps, seed, frames = header["nsteps"], header["seed"], header["frames"]
    if trajectory is not None and frames is not None:
        check_frames(trajectory, frames)
    earlier = atoms.copy()
    _set_atoms(atoms, arrays)
    try:
        dynamics: Kind = kind.from_restart(
            atoms, propagator, options, bonds=arrays.get("bonds"), rng=rng, classical=classical
        )
        dynamics.continue_from(header, arrays)
        if trajectory is not None and frames is not None:
            truncate_trajectory(trajectory, frames)
    except BaseException:
        atoms.cell[:] = earlier.cell
        atoms.arrays.pop("momenta", None)
        atoms.arrays.update(earlier.arrays)
        raise
    dynamics.seed, dynamics.nsteps = seed, nsteps
    if trajectory is not None:
        dynamics.attach_trajectory(trajectory)
    if logfile:
        dynamics.attach_logfile(logfile, header=False)
    if restart_file is not None:
        dynamics.attach_restart(restart_file, options["restart_interval"])
    return dynamics


def _frames(dynamics: Restartable) -> int | None:
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


def _check_same(arrays: dict[str, np.ndarray], header: dict[str, Any], atoms: Atoms, propagator: LearnedMap) -> None:
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
    if propagator.identity() != header["propagator"]:
        raise CompatibilityError("the restart file was written with another propagator; load the same model file")
