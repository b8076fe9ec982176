"""``fastegnn-md run --replicas``: many simulations in one call of the network, a trajectory each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .verdict import became, speed, tell, tell_volumes

if TYPE_CHECKING:
    import numpy as np
    from MDAnalysis import AtomGroup

    from ..integrators import JumpStatistics, LearnedDynamics, LearnedSimulation
    from ..state import State


def replica_outputs(output: Path, replicas: int) -> list[Path]:
    """Names of the trajectories: ``out-00.xtc``, ``out-01.xtc`` … for ``out.xtc``."""
    digits = max(2, len(str(replicas - 1)))
    return [output.with_name(f"{output.stem}-{k:0{digits}d}{output.suffix}") for k in range(replicas)]


def run_replicas(
    simulations: Sequence[LearnedSimulation],
    outputs: Sequence[Path],
    atoms: AtomGroup,
    frame: Callable[[Any], State],
    part: slice | np.ndarray,
    *,
    steps: int,
    every: int,
) -> None:
    """Step them together and say what became of the jumps of all, and of the temperatures of the atoms that jump.

    ``frame`` reads a Context, ``part`` says which of its atoms jump.
    """
    import torch

    from .._progress import progress_bar
    from ..engines.mdanalysis import RolloutWriter
    from ..integrators import SimulationEnsemble

    ensemble, begun = SimulationEnsemble(simulations), time.perf_counter()
    dt, watch = every * simulations[0].integrator.getStepSize()._value, simulations[0].integrator.watch()
    with ExitStack() as stack:
        writers = [stack.enter_context(RolloutWriter(output, atoms, dt=dt)) for output in outputs]
        for step in progress_bar(range(steps + 1), desc="run", unit="step", total=steps + 1):
            if step:
                ensemble.step(1)
            if step % every == 0:
                frames = [frame(one.context) for one in simulations]
                for one, now, writer in zip(simulations, frames, writers, strict=True):
                    writer.write(now, time=one.context.getTime()._value)
                if step:
                    watch.record(torch.stack([now.velocities[part] for now in frames]))
    total = reduce(add, (one.integrator.statistics for one in simulations))
    _tell(total, outputs, sum(one.context.getTime()._value for one in simulations), begun)
    tell(watch.verdict(total, *(one.integrator.audits for one in simulations)))


def run_ase_replicas(
    dynamics: Sequence[LearnedDynamics], outputs: Sequence[Path], atoms: AtomGroup, *, steps: int, every: int
) -> None:
    """The same of dynamics of ASE."""
    import numpy as np
    import torch

    from .._progress import progress_bar
    from ..engines.ase.stepper import PICOSECOND
    from ..engines.mdanalysis import RolloutWriter
    from ..integrators import LearnedEnsemble

    ensemble, begun, spacing = LearnedEnsemble(dynamics), time.perf_counter(), dynamics[0].guarded.timestep
    watch = dynamics[0].jump.watch()
    volumes: list[float] = []
    with ExitStack() as stack:
        writers = [stack.enter_context(RolloutWriter(output, atoms, dt=every * spacing)) for output in outputs]
        for step in progress_bar(range(steps + 1), desc="run", unit="step", total=steps + 1):
            if step:
                ensemble.run(1)
            if step % every == 0:
                for one, writer in zip(dynamics, writers, strict=True):
                    writer.write(one.atoms, time=step * spacing)
            velocities = np.array([one.atoms.get_velocities() for one in dynamics])
            watch.record(torch.from_numpy(velocities * PICOSECOND))
            volumes += [one.atoms.get_volume() for one in dynamics if one.volume is not None]
    total = reduce(add, (one.statistics for one in dynamics))
    _tell(total, outputs, len(dynamics) * steps * spacing, begun)
    if volumes:
        tell_volumes(total, volumes)
    tell(watch.verdict(total, *(one.guarded.audits for one in dynamics)))


def _tell(total: JumpStatistics, outputs: Sequence[Path], simulated: float, begun: float) -> None:
    names = f"{outputs[0]} to {outputs[-1].name}"
    typer.echo(f"{len(outputs)} replicas: {total.tried} jumps, {became(total)}; saved {names}")
    typer.echo(speed(simulated, time.perf_counter() - begun))
