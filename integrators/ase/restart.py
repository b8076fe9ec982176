"""Stopping and continuing dynamics of ASE that jump without a trace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from fastegnn_md.engines.ase.trajectory import check_frames, count_frames, truncate_trajectory
from fastegnn_md.errors import CheckpointError, CompatibilityError, FastEGNNMDError, brief

from ..restart_file import (
    Content,
    generator_state,
    load_replicas,
    load_restart,
    restart_array,
    restart_value,
    restore_generator,
    save_replicas,
    save_restart,
)
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
    save_restart(path, *_content(dynamics, notes))


def save_together(path: str | Path, dynamics: Sequence[Restartable], notes: dict[str, Any]) -> None:
    """The same of several that move step by step together, in one file."""
    save_replicas(path, [_content(one, None) for one in dynamics], notes)


def _content(dynamics: Restartable, notes: dict[str, Any] | None) -> Content:
    atoms = dynamics.atoms
    arrays = atoms_arrays(atoms)
    arrays |= {name: value for name, value in dynamics.restart_arrays().items() if value is not None}
    header = {
        "nsteps": dynamics.nsteps,
        "rng": generator_state(dynamics.rng),
        "seed": dynamics.seed,
        "frames": frames_before(dynamics),
        "constraints": [type(constraint).__name__ for constraint in atoms.constraints],
        "statistics": dataclasses.asdict(dynamics.statistics),
        "propagator": dynamics.propagator.identity(),
        "automatic": dynamics.restart_file is not None,
        "options": {**dynamics.restart_options(), "restart_interval": dynamics.restart_interval},
        "place": dynamics.restart_place(),
        "notes": notes or {},
    }
    return arrays, header


def atoms_arrays(atoms: Atoms) -> dict[str, np.ndarray]:
    """What is written of atoms."""
    arrays = {
        "positions": atoms.get_positions(),
        "momenta": atoms.get_momenta(),
        "cell": np.array(atoms.cell),
        "pbc": atoms.get_pbc(),
        "numbers": atoms.get_atomic_numbers(),
        "masses": atoms.get_masses(),
    }
    for index, constraint in enumerate(atoms.constraints):
        lengths = getattr(constraint, "bondlengths", None)
        if lengths is not None:  # ASE's own description of the constraint leaves them out
            arrays[f"bondlengths_{index}"] = np.asarray(lengths, dtype=float)
    return arrays


def resume(
    kind: type[Kind],
    path: str | Path,
    atoms: Atoms,
    propagator: LearnedMap,
    classical: Any,
    trajectory: str | Path | None,
    logfile: IO[str] | str | Path | None,
    restart_file: str | Path | None,
) -> Kind:
    """Read what :func:`save` wrote; see :meth:`JumpDynamics.restart`."""
    arrays, header = load_restart(path)
    with put_back_on_error(path, atoms):
        return _resume(kind, path, arrays, header, atoms, propagator, classical, trajectory, logfile, restart_file)


def resume_together(kind: type[Kind], path: str | Path, several: Sequence[Atoms], propagator: LearnedMap) -> list[Kind]:
    """Read what :func:`save_together` wrote, for atoms of each."""
    made = []
    for atoms, (arrays, header) in zip(several, load_replicas(path, len(several)), strict=True):
        with put_back_on_error(path, atoms):
            made.append(_resume(kind, path, arrays, header, atoms, propagator, None, None, None, None))
    return made


@contextmanager
def put_back_on_error(path: str | Path, atoms: Atoms) -> Iterator[None]:
    """Leave atoms as they were where a restart fails, and say of a file with broken content that it is damaged.

    Raises
    ------
    CheckpointError
        If what is done inside misses a value, or finds one it cannot use.
    """
    before = _Before(atoms)
    try:
        yield
    except FastEGNNMDError:
        before.restore(atoms)
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        before.restore(atoms)
        raise CheckpointError(
            f"the restart file {path} lacks or garbles {brief(error, quoted=False)}; it is damaged"
        ) from error
    except BaseException:
        before.restore(atoms)
        raise


class _Before:
    """What a restart changes of atoms, to be put back if it fails."""

    def __init__(self, atoms: Atoms):
        self._copy = atoms.copy()
        self._lengths = [getattr(constraint, "bondlengths", None) for constraint in atoms.constraints]

    def restore(self, atoms: Atoms) -> None:
        atoms.cell[:] = self._copy.cell
        atoms.arrays.pop("momenta", None)
        atoms.arrays.update(self._copy.arrays)
        for constraint, lengths in zip(atoms.constraints, self._lengths, strict=True):
            if hasattr(constraint, "bondlengths"):
                constraint.bondlengths = lengths


def _resume(
    kind: type[Kind],
    path: str | Path,
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    atoms: Atoms,
    propagator: LearnedMap,
    classical: Any,
    trajectory: str | Path | None,
    logfile: IO[str] | str | Path | None,
    restart_file: str | Path | None,
) -> Kind:
    # All is read and checked before anything is set.
    _check_header(header)
    _check_same(arrays, header, atoms, propagator)
    rng = restore_generator(header["rng"])
    options = migrated(header["options"], header["format_version"])
    if restart_file is None and header["automatic"]:
        restart_file = path
    frames = header["frames"]
    if trajectory is not None and frames is not None:
        check_frames(trajectory, frames)
    set_atoms(atoms, arrays)
    dynamics: Kind = kind.from_restart(
        atoms, propagator, options, bonds=arrays.get("bonds"), rng=rng, classical=classical
    )
    dynamics.continue_from(header, arrays)
    dynamics.seed, dynamics.nsteps = header["seed"], header["nsteps"]
    if trajectory is not None and frames is not None:
        truncate_trajectory(trajectory, frames)
    if trajectory is not None:
        dynamics.attach_trajectory(trajectory)
    if logfile:
        dynamics.attach_logfile(logfile, header=False)
    if restart_file is not None:
        dynamics.attach_restart(restart_file, options["restart_interval"])
    return dynamics


def frames_before(dynamics: Restartable) -> int | None:
    """Frames of the trajectory that the continued run will not write itself."""
    frames = count_frames(dynamics.trajectory)
    # A run continued from step 0 begins with the frame of step 0, which this one may have written already.
    return frames - 1 if frames and dynamics.nsteps == 0 and dynamics.begun else frames


def set_atoms(atoms: Atoms, arrays: dict[str, np.ndarray]) -> None:
    """Positions, momenta, cell and bond lengths that are held, as they were written."""
    for index, constraint in enumerate(atoms.constraints):
        if f"bondlengths_{index}" in arrays:
            constraint.bondlengths = arrays[f"bondlengths_{index}"].copy()
    atoms.set_cell(arrays["cell"])
    atoms.set_positions(arrays["positions"], apply_constraint=False)
    atoms.set_momenta(arrays["momenta"], apply_constraint=False)


def _check_arrays(arrays: dict[str, np.ndarray], atoms: Atoms) -> None:
    n = len(atoms)
    for name in ("positions", "momenta"):
        restart_array(arrays, name, (n, 3))
    restart_array(arrays, "cell", (3, 3))
    restart_array(arrays, "numbers", (n,), "iu")
    restart_array(arrays, "masses", (n,))
    restart_array(arrays, "pbc", (3,), "b")
    if "energy" in arrays:
        restart_array({"energy": np.atleast_1d(arrays["energy"])}, "energy", (1,))
    if "forces" in arrays:
        restart_array(arrays, "forces", (n, 3))
    if "bonds" in arrays:
        bonds = restart_array(arrays, "bonds", (None, 2), "iu")
        if len(bonds) and not (bonds.min() >= 0 and bonds.max() < n):
            raise CheckpointError(f"bonds of the restart file name atoms beyond the {n} there are; it is damaged")
    for index, constraint in enumerate(atoms.constraints):
        if f"bondlengths_{index}" in arrays:
            restart_array(arrays, f"bondlengths_{index}", (len(getattr(constraint, "pairs", ())),))


def _check_header(header: dict[str, Any]) -> None:
    restart_value(header, "nsteps", int, least=0)
    restart_value(header, "seed", (int, type(None)))
    restart_value(header, "frames", (int, type(None)), least=0)
    restart_value(header, "automatic", bool)
    restart_value(header, "constraints", list)
    options = restart_value(header, "options", dict)
    restart_value(options, "loginterval", int, least=0)
    restart_value(options, "restart_interval", int, least=0)
    statistics = restart_value(header, "statistics", dict)
    for name, value in statistics.items():
        counts = value if isinstance(value, dict) else {name: value}
        for count in counts:
            restart_value(counts, count, (int, float), least=-math.inf)
    place = header.get("place", {})
    for name, kinds in (("time", (int, float)), ("pending", (int,))):
        if not isinstance(place, dict) or name in place:
            restart_value(place, name, kinds, least=0)


def _check_same(arrays: dict[str, np.ndarray], header: dict[str, Any], atoms: Atoms, propagator: LearnedMap) -> None:
    check_same_atoms(arrays, header["constraints"], atoms)
    if propagator.identity() != header["propagator"]:
        raise CompatibilityError("the restart file was written with another propagator; load the same model file")


def check_same_atoms(arrays: dict[str, np.ndarray], constraints: list[str], atoms: Atoms) -> None:
    """Refuse atoms that are not those of a restart file.

    Raises
    ------
    CheckpointError
        If an array of the file is none of these atoms.
    CompatibilityError
        If elements, masses, boundaries or constraints are others.
    """
    _check_arrays(arrays, atoms)
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
    if kinds != constraints:
        raise CompatibilityError(
            f"the atoms have the constraints {kinds}, those of the restart file {constraints}; set the same"
        )
