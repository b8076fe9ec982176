"""Options of ``fastegnn-md run`` that do not go together, or not with the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..propagator.learned_map import LearnedMap


def check_pressure(engine: str, metropolis: bool, no_bath: bool) -> None:
    """What has no barostat of ours."""
    if engine == "openmm":
        raise ConfigError(
            "--pressure is for --engine ase: in OpenMM add its own barostat to the System (openmm.MonteCarloBarostat, "
            "saved with XmlSerializer) and give that by --system; it acts between jumps as well"
        )
    if metropolis:
        raise ConfigError("--pressure and --metropolis exclude each other: exact sampling is at constant volume")
    if no_bath:
        raise ConfigError("--pressure needs a thermostat: give --temperature, without --nve")


def check_replicas(propagator: LearnedMap, engine: str, alike: bool) -> None:
    """Replicas in which nothing is drawn; ``alike`` says that all have the same velocities and no thermostat."""
    if propagator.stochastic:
        return
    if alike:
        raise ConfigError(
            "--replicas without a thermostat, from the velocities of START, are one run several times: give "
            "--temperature, without --nve"
        )
    if engine == "ase" and not propagator.predicts_velocities:
        raise ConfigError(
            "--replicas of a model of kind 'position' are one run several times, its jumps draw nothing: leave "
            "--replicas out"
        )


def check_redrawn(
    propagator: LearnedMap, temperature: float | None, bath: str | None, nve: bool, relax_steps: int | None
) -> None:
    """Options that do not fit a propagator that redraws velocities, or that only one that draws takes."""
    if relax_steps is not None and not propagator.stochastic:
        raise ConfigError("--relax-steps is for models of kind 'flow', whose draws are relaxed: leave it out")
    if propagator.predicts_velocities:
        return
    if nve:
        raise ConfigError("--nve needs a propagator that predicts velocities; this one redraws them at --temperature")
    if bath is not None:
        raise ConfigError("this propagator redraws velocities at --temperature: leave --friction and --tau out")
    if temperature is None:
        raise ConfigError("this propagator redraws velocities: give --temperature, that of its training data")


def is_amber(structure: Path) -> bool:
    """Whether a file brings its force field along."""
    return structure.suffix.lower() in (".prmtop", ".parm7")
