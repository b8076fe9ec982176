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

from .continuing import Keeper, Place, StopSignals
from .verdict import became, speed, tell, tell_span, tell_volumes

if TYPE_CHECKING:
    import numpy as np
    from MDAnalysis import AtomGroup

    from ..engines.mdanalysis import RolloutWriter
    from ..integrators import JumpStatistics, LearnedDynamics, LearnedSimulation
    from ..state import State


def replica_outputs(output: Path, replicas: int) -> list[Path]:
    """Names of the trajectories: ``out-00.xtc``, ``out-01.xtc`` … for ``out.xtc``."""
    digits = max(2, len(str(replicas - 1)))
    return [output.with_name(f"{output.stem}-{k:0{digits}d}{output.suffix}") for k in range(replicas)]


def run_replicas(
    simulations: Sequence[LearnedSimulation],
    place: Place,
    output: Path,
    atoms: AtomGroup,
    frame: Callable[[Any], State],
    part: slice | np.ndarray,
    *,
    every: int,
) -> None:
    """Step them together and say what became of the jumps of all, and of the temperatures of the atoms that jump.

    ``frame`` reads a Context, ``part`` says which of its atoms jump.
    """
    import torch

    from ..integrators import SimulationEnsemble
    from ..integrators.openmm.restart import load_simulations, save_simulations

    if place.restart is not None:
        load_simulations(place.restart, simulations)
    ensemble, watch, begun = SimulationEnsemble(simulations), simulations[0].integrator.watch(), time.perf_counter()

    def times() -> list[float]:
        return [float(one.context.getTime()._value) for one in simulations]

    def record(step: int, writers: Sequence[RolloutWriter]) -> None:
        if step % every:
            return
        frames = [frame(one.context) for one in simulations]
        for now, then, writer in zip(frames, times(), writers, strict=True):
            writer.write(now, time=then)
        if step:
            watch.record(torch.stack([now.velocities[part] for now in frames]))

    before, dt = sum(times()), every * simulations[0].integrator.getStepSize()._value
    keeper = _run(
        place,
        output,
        atoms,
        dt,
        lambda: ensemble.step(1),
        record,
        lambda path, notes: save_simulations(path, simulations, notes),
    )
    total = reduce(add, (one.integrator.statistics for one in simulations))
    _tell(total, place, output, keeper, sum(times()) - before, begun)
    tell(watch.verdict(total, *(one.integrator.audits for one in simulations)))


def run_ase_replicas(
    dynamics: Sequence[LearnedDynamics], place: Place, output: Path, atoms: AtomGroup, *, every: int
) -> None:
    """The same of dynamics of ASE, which are those of the restart file already where there is one."""
    import numpy as np
    import torch

    from ..engines.ase.stepper import PICOSECOND
    from ..integrators import LearnedEnsemble
    from ..integrators.ase.restart import save_together

    ensemble, begun, spacing = LearnedEnsemble(dynamics), time.perf_counter(), dynamics[0].guarded.timestep
    watch = dynamics[0].jump.watch()
    volumes: list[float] = []

    def record(step: int, writers: Sequence[RolloutWriter]) -> None:
        if step % every == 0:
            for one, writer in zip(dynamics, writers, strict=True):
                writer.write(one.atoms, time=step * spacing)
        velocities = np.array([one.atoms.get_velocities() for one in dynamics])
        watch.record(torch.from_numpy(velocities * PICOSECOND))
        volumes.extend(one.atoms.get_volume() for one in dynamics if one.volume is not None)

    keeper = _run(
        place,
        output,
        atoms,
        every * spacing,
        lambda: ensemble.run(1),
        record,
        lambda path, notes: save_together(path, dynamics, notes),
    )
    total = reduce(add, (one.statistics for one in dynamics))
    _tell(total, place, output, keeper, len(dynamics) * (place.steps - place.step) * spacing, begun)
    if volumes:
        tell_volumes(total, volumes)
    tell(watch.verdict(total, *(one.guarded.audits for one in dynamics)))


def _run(
    place: Place,
    output: Path,
    atoms: AtomGroup,
    dt: float,
    advance: Callable[[], None],
    record: Callable[[int, Sequence[RolloutWriter]], None],
    save: Callable[[Path, dict[str, Any]], None],
) -> Keeper:
    """Steps of all replicas until the last one or a signal.

    A step that fails leaves some replicas ahead of the others: the restart file before it stays as it is. That of the
    start is there from the beginning.
    """
    from .._progress import progress_bar
    from ..engines.mdanalysis import RolloutWriter

    steps, first = place.steps, place.step + (place.restart is not None)
    outputs = replica_outputs(output, len(place.after))
    with StopSignals() as stop, ExitStack() as stack:
        writers = [
            stack.enter_context(RolloutWriter(one, atoms, dt=dt, after=after))
            for one, after in zip(outputs, place.after, strict=True)
        ]
        keeper = Keeper(place, output, writers, save)
        bar = stack.enter_context(progress_bar(desc="run", unit="step", initial=place.step, total=steps))
        for step in range(first, steps + 1):
            if step:
                advance()
                bar.update()
            record(step, writers)
            if stop.given or step == steps:
                keeper.save(step)
                break
            if not step:
                keeper.save(step)
            keeper.step_done(step)
    if stop.given and step < steps:
        raise keeper.stopped(stop.given, step)
    return keeper


def _tell(total: JumpStatistics, place: Place, output: Path, keeper: Keeper, simulated: float, begun: float) -> None:
    outputs = replica_outputs(output, len(place.after))
    names = f"{outputs[0]} to {outputs[-1].name} and {keeper.path.name}"
    typer.echo(f"{len(outputs)} replicas: {total.tried} jumps, {became(total)}; saved {names}")
    tell_span(place)
    typer.echo(speed(simulated, time.perf_counter() - begun))
