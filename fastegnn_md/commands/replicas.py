"""``fastegnn-md run --replicas``: many simulations in one call of the network, a trajectory each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .verdict import became, speed

if TYPE_CHECKING:
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
    *,
    steps: int,
    every: int,
) -> None:
    """Step them together and say what became of the jumps of all."""
    from .._progress import progress_bar
    from ..engines.mdanalysis import RolloutWriter
    from ..integrators import SimulationEnsemble

    ensemble, begun = SimulationEnsemble(simulations), time.perf_counter()
    dt = every * simulations[0].integrator.getStepSize()._value
    with ExitStack() as stack:
        writers = [stack.enter_context(RolloutWriter(output, atoms, dt=dt)) for output in outputs]
        for step in progress_bar(range(steps + 1), desc="run", unit="step", total=steps + 1):
            if step:
                ensemble.step(1)
            if step % every == 0:
                for one, writer in zip(simulations, writers, strict=True):
                    writer.write(frame(one.context), time=one.context.getTime()._value)
    simulated = sum(one.context.getTime()._value for one in simulations)
    _tell([one.integrator.statistics for one in simulations], outputs, simulated, begun)


def run_ase_replicas(
    dynamics: Sequence[LearnedDynamics], outputs: Sequence[Path], atoms: AtomGroup, *, steps: int, every: int
) -> None:
    """The same of dynamics of ASE."""
    from .._progress import progress_bar
    from ..engines.mdanalysis import RolloutWriter
    from ..integrators import LearnedEnsemble

    ensemble, begun, spacing = LearnedEnsemble(dynamics), time.perf_counter(), dynamics[0].guarded.timestep
    with ExitStack() as stack:
        writers = [stack.enter_context(RolloutWriter(output, atoms, dt=every * spacing)) for output in outputs]
        for step in progress_bar(range(steps + 1), desc="run", unit="step", total=steps + 1):
            if step:
                ensemble.run(1)
            if step % every == 0:
                for one, writer in zip(dynamics, writers, strict=True):
                    writer.write(one.atoms, time=step * spacing)
    _tell([one.statistics for one in dynamics], outputs, len(dynamics) * steps * spacing, begun)


def _tell(parts: Sequence[JumpStatistics], outputs: Sequence[Path], simulated: float, begun: float) -> None:
    total = added(parts)
    typer.echo(f"{len(parts)} replicas: {total.tried} jumps, {became(total)}; saved {outputs[0]} to {outputs[-1].name}")
    typer.echo(speed(simulated, time.perf_counter() - begun))
    if total.too_many_redraws:
        typer.echo(f"warning: {total.of_redraws}", err=True)


def added(parts: Sequence[JumpStatistics]) -> JumpStatistics:
    """Counts of several simulations."""
    from ..integrators import JumpStatistics

    return JumpStatistics(
        tried=sum(one.tried for one in parts),
        accepted=sum(one.accepted for one in parts),
        rejected=dict(sum((Counter(one.rejected) for one in parts), Counter())),
        redrawn=dict(sum((Counter(one.redrawn) for one in parts), Counter())),
        fallback_steps=sum(one.fallback_steps for one in parts),
        relax_steps=sum(one.relax_steps for one in parts),
    )
