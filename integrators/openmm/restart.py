"""Stopping and continuing simulations of OpenMM: a checkpoint, and what became of the jumps, in a restart file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.errors import CheckpointError, CompatibilityError

from ..restart_file import Content, load_replicas, load_restart, save_replicas, save_restart
from ..statistics import JumpStatistics

with naming_extras(__name__):
    import openmm

if TYPE_CHECKING:
    from .simulation import LearnedSimulation

_TIMES = ("jump_seconds", "classical_seconds", "classical_steps_taken")


def save_simulation(path: str | Path, simulation: LearnedSimulation, notes: dict[str, Any] | None = None) -> None:
    """Write all that decides the next steps of a simulation.

    Parameters
    ----------
    path : str or Path
        A previous file of that name survives whatever goes wrong.
    simulation : LearnedSimulation
        With a LearnedIntegrator.
    notes : dict, optional
        What the caller wants to find again, as JSON can hold it: ``notes`` of the header.

    Raises
    ------
    CheckpointError
        If the file cannot be written.
    """
    save_restart(path, *_content(simulation, notes))


def save_simulations(path: str | Path, simulations: Sequence[LearnedSimulation], notes: dict[str, Any]) -> None:
    """The same of several that move step by step together, in one file."""
    save_replicas(path, [_content(one, None) for one in simulations], notes)


def _content(simulation: LearnedSimulation, notes: dict[str, Any] | None) -> Content:
    context, integrator = simulation.context, simulation.integrator
    header = {
        "engine": "openmm",
        **_made_by(simulation),
        "particles": simulation.system.getNumParticles(),
        "propagator": integrator.propagator.identity(),
        "statistics": dataclasses.asdict(integrator.statistics),
        "times": {name: getattr(integrator, name) for name in _TIMES},
        "notes": notes or {},
    }
    return {"checkpoint": np.frombuffer(context.createCheckpoint(), dtype=np.uint8)}, header


def load_simulation(path: str | Path, simulation: LearnedSimulation) -> dict[str, Any]:
    """Continue from what :func:`save_simulation` wrote; return its header.

    Parameters
    ----------
    path : str or Path
    simulation : LearnedSimulation
        Of the same System, propagator and integrator, on the same platform. It is changed only if all is well.

    Raises
    ------
    CheckpointError
        If the file is truncated, foreign or damaged.
    CompatibilityError
        If it is of another engine, platform or release of OpenMM, another number of particles or another propagator.
    """
    return _take_up(path, load_restart(path), simulation)


def load_simulations(path: str | Path, simulations: Sequence[LearnedSimulation]) -> None:
    """Continue all from what :func:`save_simulations` wrote; errors are those of :func:`load_simulation`."""
    for content, simulation in zip(load_replicas(path, len(simulations)), simulations, strict=True):
        _take_up(path, content, simulation)


def _take_up(path: str | Path, content: Content, simulation: LearnedSimulation) -> dict[str, Any]:
    arrays, header = content
    if header.get("engine") != "openmm":
        raise CompatibilityError(f"the restart file {path} is not of OpenMM; continue it with ASE")
    integrator, made = simulation.integrator, _made_by(simulation)
    made["particles"] = simulation.system.getNumParticles()
    for name, value in made.items():
        if header.get(name) != value:
            raise CompatibilityError(
                f"the restart file {path} has {name} {header.get(name)!r}, this simulation {value!r}; continue with "
                "the same, or start from the last frame"
            )
    if integrator.propagator.identity() != header.get("propagator"):
        raise CompatibilityError("the restart file was written with another propagator; load the same model file")
    try:
        statistics, times = JumpStatistics(**header["statistics"]), {name: header["times"][name] for name in _TIMES}
        simulation.context.loadCheckpoint(arrays["checkpoint"].astype(np.uint8).tobytes())
    except (KeyError, TypeError, openmm.OpenMMException) as error:
        raise CheckpointError(f"the restart file {path} is damaged ({error}); take an earlier one") from error
    integrator.take_up(statistics, **times)
    return header


def _made_by(simulation: LearnedSimulation) -> dict[str, Any]:
    """What a checkpoint of OpenMM depends on."""
    return {"release": openmm.version.full_version, "platform": simulation.context.getPlatform().getName()}
