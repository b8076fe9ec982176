"""Classical segments of one lag: the very map that a jump stands for, and a pair to learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fastegnn_md.errors import CompatibilityError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.verlet import velocity_verlet
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.state import State

from .memory import Pair


def steps_of(lag: float, timestep: float, config: PropagatorConfig) -> int:
    """Small steps of a segment.

    Parameters
    ----------
    lag, timestep : float
        ps.
    config : PropagatorConfig
        Of the model that learns from it.

    Raises
    ------
    CompatibilityError
        If they do not add up to the lag, or to half of it where the model learns from the middle.
    """
    steps = round(lag / timestep)
    if steps < 2 or abs(steps * timestep - lag) > 1e-6 * lag:
        raise CompatibilityError(
            f"steps of {1e3 * timestep:g} fs do not add up to a lag of {1e3 * lag:g} fs; choose a time step that "
            "divides it, at most half of it"
        )
    if config.middle_frames and steps % 2:
        raise CompatibilityError(
            f"a lag of {1e3 * lag:g} fs has {steps} steps of {1e3 * timestep:g} fs, kind {config.kind!r} learns from "
            "the middle of it; choose a time step of which an even number fits"
        )
    return steps


@dataclass(frozen=True)
class Segments:
    """Classical segments of a system.

    Parameters
    ----------
    lag : float
        ps.
    steps : int
        Of velocity Verlet.
    config : PropagatorConfig
        What the pairs are for.
    forces : callable
        Positions (N, 3) in Å → forces (N, 3) in amu Å/ps².
    """

    lag: float
    steps: int
    config: PropagatorConfig
    forces: Callable[[Tensor], Tensor]

    def run(self, state: State, constraints: Constraints) -> tuple[State, Pair]:
        """The state a lag later without thermostat, with its forces; and the pair, with the forces a model asks for.

        Parameters
        ----------
        state : State
            One system in float64, after half a step of the thermostat; with forces at its positions if they are known.
        constraints : Constraints

        Raises
        ------
        StateError, ConstraintError, EngineError
            If the engine fails, or atoms fly apart.
        """
        begun = state if state.forces is not None else state.replace(forces=self.forces(state.positions))
        begun = begun.replace(midpoint_forces=None, midpoint_positions=None)
        first, timestep = self.steps // 2, self.lag / self.steps
        middle = velocity_verlet(begun, self.forces, timestep, first, constraints)
        ended = velocity_verlet(middle, self.forces, timestep, self.steps - first, constraints)
        pair = {
            "positions_0": begun.positions,
            "velocities_0": begun.velocities,
            "positions_1": ended.positions,
            "velocities_1": ended.velocities,
        }
        if self.config.wants_forces == "start":
            assert begun.forces is not None and ended.forces is not None  # computed above
            pair |= {"forces_0": begun.forces, "forces_1": ended.forces}
        elif self.config.middle_frames:
            assert middle.forces is not None  # velocity Verlet leaves them
            pair |= {"ahead": middle.forces, "behind": middle.forces, "middle": middle.positions}
        elif self.config.wants_forces == "midpoint":
            flight = 0.5 * self.lag
            pair["ahead"] = self.forces(begun.positions + flight * begun.velocities)
            pair["behind"] = self.forces(ended.positions - flight * ended.velocities)
        arrays = {name: one.numpy().astype(np.float32) for name, one in pair.items()}
        if begun.cell is not None:
            arrays["cell"] = begun.cell[0].numpy().astype(np.float32)
        return ended, arrays
