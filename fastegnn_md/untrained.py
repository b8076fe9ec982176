"""Untrained propagators whose scales and ranges are those of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import PropagatorConfig
from .domain import Domain, representative
from .errors import DataError
from .kick_drift import KickDriftPropagator
from .propagator import Propagator
from .units import format_time

if TYPE_CHECKING:
    from .data import TrajectoryPairs


def propagator_class(config: PropagatorConfig) -> type[Propagator]:
    """The class that a configuration asks for by its mode."""
    return KickDriftPropagator if config.mode in KickDriftPropagator.modes else Propagator


def check_forces(pairs: TrajectoryPairs, config: PropagatorConfig) -> None:
    """Refuse pairs without the forces that a configuration asks for."""
    if config.midpoint and not pairs.has_midpoint_forces:
        lag = format_time(pairs.lag)
        raise DataError(
            f"midpoint=True needs forces half a lag of {lag} before and after each frame, these pairs have none: "
            f"harvest bursts with midpoint={lag!r} (--midpoint), or set midpoint=False"
        )
    if config.forces and not config.midpoint and not pairs.has_forces:
        raise DataError(
            "forces=True needs forces at each frame, these pairs have none: harvest bursts (they carry forces), or set "
            "forces=False"
        )


def untrained_propagator(pairs: TrajectoryPairs, config: PropagatorConfig, *, seed: int, sample: int) -> Propagator:
    """See :meth:`fastegnn_md.Propagator.from_pairs`."""
    if config.mode != "position" and not pairs.has_velocities:
        raise DataError(
            f"mode {config.mode!r} needs velocities, these pairs have none: harvest bursts, or use mode 'position'"
        )
    check_forces(pairs, config)
    start, end = pairs.batch(representative(pairs, sample, seed))
    propagator = propagator_class(config)(config, pairs.lag, Domain.from_pairs(start, end, config), seed=seed)
    propagator.measure(start, end)
    propagator.fingerprint = pairs.fingerprint
    return propagator
