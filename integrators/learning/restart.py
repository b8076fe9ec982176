"""One file with a whole run that learns: atoms, pairs, weights, optimiser, exams, course, calls, random numbers."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastegnn_md.engines.ase.calculators import describe_calculator
from fastegnn_md.engines.ase.trajectory import check_frames, truncate_trajectory
from fastegnn_md.errors import CheckpointError, ConfigError, Remedy
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.propagator.base import load as load_model
from fastegnn_md.propagator.config import PropagatorConfig

from ..ase.description import described_barostat, described_thermostat, restored_barostat, restored_thermostat
from ..ase.restart import atoms_arrays, check_same_atoms, frames_before, put_back_on_error, set_atoms
from ..guards import GuardSettings
from ..restart_file import generator_state, load_restart, restart_value, restore_generator, save_restart
from ..statistics import JumpStatistics
from ..thermostats import Thermostat, in_unit
from .account import LEARNING, Account
from .course import Course, LearningWarning
from .options import thermostat_of
from .settings import Learning

if TYPE_CHECKING:
    from ase import Atoms

_KIND = "learning"
_ERRORS = ("error", "present", "newest")
_CHANGEABLE = ("timestep", "temperature_K", "friction", "thermostat", "barostat", "learning", "guard")


def save_run(dynamics: Any, path: str | Path, notes: dict[str, Any] | None) -> None:
    """See :meth:`LearningDynamics.save_restart`."""
    course: Course = dynamics.course
    learner, options = course.learner, course.options
    arrays = atoms_arrays(course.atoms)
    if options.bonds is not None:
        arrays["bonds"] = options.bonds
    if course.known_forces is not None:
        arrays["forces"] = course.known_forces
    arrays |= {f"pair/{name}": one for name, one in learner.memory.arrays().items()}
    arrays["calls"] = course.engine.durations
    for name, model in (("initial", learner.initial), ("jumps", course.propagator), ("learned", learner.model)):
        if model is not None:
            arrays[f"model/{name}"] = _bytes_of(model)
    if learner.trainer is not None:
        arrays |= {f"training/{name}": one.numpy() for name, one in learner.trainer.tensors().items()}
    header = {
        "what": _KIND,
        "nsteps": dynamics.nsteps,
        "seed": dynamics.seed,
        "rng": generator_state(course.rng),
        "frames": frames_before(dynamics),
        "constraints": [type(one).__name__ for one in course.atoms.constraints],
        "automatic": dynamics.restart_file is not None,
        "options": {
            "lag": options.lag,
            "timestep": options.timestep,
            "thermostat": described_thermostat(options.thermostat),
            "barostat": described_barostat(options.barostat),
            "learning": dataclasses.asdict(options.learning),
            "guard": dataclasses.asdict(options.guard),
            "config": options.config.model_dump(mode="json"),
            "loginterval": dynamics.loginterval,
            "restart_interval": dynamics.restart_interval,
            "log_energy": dynamics.log_energy,
        },
        "engine": describe_calculator(course.atoms.calc),
        "phase": course.phase,
        "learner": {**learner.record(), "rng": generator_state(learner.rng)},
        "account": course.account.state(),
        "errors": {name: getattr(course, name).state() for name in _ERRORS},
        "statistics": dataclasses.asdict(course.statistics),
        "audits": {
            "share": course.audit_share,
            "changes": course.audits.changes,
            "in a row": course.in_a_row,
        },
        "volume": None if course.volume is None else course.volume.moves.place(),
        "notes": notes or {},
    }
    save_restart(path, arrays, header)


def load_run(
    kind: type[Any],
    path: str | Path,
    atoms: Atoms,
    trajectory: Any,
    logfile: Any,
    restart_file: str | Path | None,
    changed: dict[str, Any],
) -> Any:
    """See :meth:`LearningDynamics.restart`."""
    arrays, header = load_restart(path)
    if header.get("what") != _KIND:
        raise CheckpointError(f"the restart file {path} is of other dynamics; continue it with the class that wrote it")
    if unknown := sorted(set(changed) - set(_CHANGEABLE)):
        raise ConfigError(f"{', '.join(unknown)} cannot be changed at a restart; {', '.join(_CHANGEABLE)} can be")
    with put_back_on_error(path, atoms):
        return _load(kind, path, arrays, header, atoms, trajectory, logfile, restart_file, changed)


def _load(
    kind: type[Any],
    path: str | Path,
    arrays: dict[str, np.ndarray],
    header: dict[str, Any],
    atoms: Atoms,
    trajectory: Any,
    logfile: Any,
    restart_file: str | Path | None,
    changed: dict[str, Any],
) -> Any:
    check_same_atoms(arrays, header["constraints"], atoms)
    options = header["options"]
    models = {name: _model_in(arrays[f"model/{name}"]) for name in _names(arrays, "model/")}
    settings, words = _settings(options, changed)
    if restart_file is None and header["automatic"]:
        restart_file = path
    frames = header["frames"]
    if trajectory is not None and frames is not None:
        check_frames(trajectory, frames)
    set_atoms(atoms, arrays)
    config = PropagatorConfig.model_validate(options["config"])
    made = kind(
        atoms,
        options["lag"],
        model=models.get("initial", config),
        bonds=arrays.get("bonds"),
        rng=restore_generator(header["rng"]),
        loginterval=restart_value(options, "loginterval", int, least=0),
        **settings,
    )
    made.changed = words + _engine(header.get("engine"), atoms)
    made.seed, made.nsteps = header["seed"], restart_value(header, "nsteps", int, least=0)
    made.log_energy = options["log_energy"]
    _fill(made.course, arrays, header, models)
    if trajectory is not None and frames is not None:
        truncate_trajectory(trajectory, frames)
    if trajectory is not None:
        made.attach_trajectory(trajectory)
    if logfile:
        made.attach_logfile(logfile, header=False)
    if restart_file is not None:
        interval = restart_value(options, "restart_interval", int, least=1)
        # What was left to the dynamics stays so: an interval by default is one that costs little.
        made.attach_restart(restart_file, None if interval == max(1, made.loginterval) else interval)
    return made


def _fill(course: Course, arrays: dict[str, np.ndarray], header: dict[str, Any], models: dict[str, Propagator]) -> None:
    """Give a course that was made anew what the interrupted one knew."""
    learner = course.learner
    learner.rng = restore_generator(header["learner"]["rng"])
    pairs = {name: arrays[f"pair/{name}"] for name in _names(arrays, "pair/")}
    learner.memory.restore(pairs, learner.rng)
    tensors = {name: torch.from_numpy(arrays[f"training/{name}"]) for name in _names(arrays, "training/")}
    # NumPy's side of the file format knows no array without dimensions
    tensors = {name: one.reshape(()) if name.startswith("step/") else one for name, one in tensors.items()}
    learner.restore(models.get("learned"), tensors, header["learner"])
    course.engine.restore(arrays["calls"])
    course.account = Account.of(header["account"])
    for name in _ERRORS:
        getattr(course, name).restore(header["errors"][name])
    audits = header["audits"]
    for change in audits["changes"]:
        course.audits.record(float(change), 0.0)
    course.audit_share, course.in_a_row = float(audits["share"]), int(audits["in a row"])
    # Moves of another barostat begin anew; files of runs before there were any say nothing.
    if course.volume is not None and course.options.barostat == restored_barostat(header["options"].get("barostat")):
        course.volume.moves.take(header.get("volume"))
    course.phase = str(header["phase"])
    course.propagator = models.get("jumps", course.propagator)
    course.restore(course.phase != LEARNING, JumpStatistics(**header["statistics"]), arrays.get("forces"))


def _settings(options: dict[str, Any], changed: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keywords of the constructor, and in words what is not as it was."""
    step, learning = float(options["timestep"]), Learning(**options["learning"])
    guard, thermostat = GuardSettings(**options["guard"]), restored_thermostat(options["thermostat"])
    barostat = restored_barostat(options.get("barostat"))
    now: dict[str, Any] = {
        "timestep": step,
        "thermostat": thermostat,
        "barostat": barostat,
        "learning": learning,
        "guard": guard,
    }
    for name in ("timestep", "barostat", "learning", "guard"):
        if changed.get(name) is not None:
            now[name] = changed[name]
    bath = [changed.get(name) for name in ("temperature_K", "friction", "thermostat")]
    if any(name in changed for name in ("temperature_K", "friction", "thermostat")):
        given = thermostat_of(*bath)
        now["thermostat"] = thermostat if _alike(given, thermostat) else given
    words = []
    if isinstance(now["learning"], Learning):
        words += learning.differences(now["learning"])
    own = float(in_unit(now["timestep"], "time"))
    if not math.isclose(own, step):
        words.append(f"timestep was {1e3 * step:g} fs, is now {1e3 * own:g} fs")
    for name, before in (("guard", guard), ("barostat", barostat), ("thermostat", thermostat)):
        if now[name] != before:
            words.append(f"{name} was {before}, is now {now[name]}")
    return now, tuple(words)


def _alike(given: Thermostat | None, before: Thermostat | None) -> bool:
    """Whether they differ by no more than units that were converted."""
    if given is None or before is None or type(given) is not type(before):
        return given is before
    return all(math.isclose(value, vars(before)[name], rel_tol=1e-9) for name, value in vars(given).items())


def _engine(before: str | None, atoms: Atoms) -> tuple[str, ...]:
    """In words, if the engine is another one; files of runs before it was noted say nothing."""
    now = describe_calculator(atoms.calc, before or "")
    if before in (None, now):
        return ()
    told = f"engine was {before}, is now {now}"
    warnings.warn(
        Remedy(
            f"{told}: the model would learn from pairs of both; begin another run from the model instead (",
            "model=)",
            "--model OUTPUT.safetensors)",
        ),
        LearningWarning,
        stacklevel=6,
    )
    return (told,)


def _names(arrays: dict[str, np.ndarray], group: str) -> list[str]:
    return [name.removeprefix(group) for name in arrays if name.startswith(group)]


def _bytes_of(model: Propagator) -> np.ndarray:
    """The file of a model as an array."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return np.frombuffer(path.read_bytes(), dtype=np.uint8)


def _model_in(content: np.ndarray) -> Propagator:
    if content.dtype != np.uint8 or content.ndim != 1:
        raise CheckpointError("a model in the restart file is damaged; take an earlier one")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content.tobytes())
        return load_model(path)
