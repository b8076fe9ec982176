"""``fastegnn-md learn``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._extras import check_installed
from ..errors import ConfigError
from ..units import parse_quantity
from .continuing import Keeper, Place, StopSignals, restart_of
from .forcefields import CalculatorName, Constraints, Cutoff, ForceField, SystemFile, TrustSystem, engine_components
from .inputs import Bonds, open_model, open_universe
from .outputs import Overwrite, claimed
from .starts import check_start
from .stepping import ase_atoms, attach_engine, keep_constraints, keep_labels, set_velocities, trained_masses
from .verdict import tell_no_thermostat

if TYPE_CHECKING:
    from ..integrators import LearningDynamics
    from ..propagator.config import PropagatorConfig
    from ..propagator.learned_map import LearnedMap

_FRICTION = "10/ps"
_TELL = 30.0  # seconds between two lines


def learn(
    start: Annotated[Path, typer.Argument(metavar="START", help="Structure or trajectory to start from.")],
    context: typer.Context,
    duration: Annotated[str, typer.Option("--time", help='Time to simulate in all, as "100 ps".')],
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory to write: .xtc, .trr, .extxyz, .traj …")],
    lag: Annotated[
        str | None, typer.Option("--lag", help='Time of a jump, as "20 fs"; default: that of --model.')
    ] = None,
    calculator: CalculatorName = None,
    forcefield: ForceField = None,
    system: SystemFile = None,
    trust_system: TrustSystem = False,
    constraints: Constraints = "none",
    cutoff: Cutoff = "10 A",
    timestep: Annotated[str, typer.Option("--timestep", help="Of classical steps; divides the lag.")] = "1 fs",
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="K: of the thermostat, and of velocities START lacks.")
    ] = None,
    friction: Annotated[
        str | None, typer.Option("--friction", help=f"Of the Langevin thermostat; default {_FRICTION}.")
    ] = None,
    nve: Annotated[
        bool, typer.Option("--nve", help="No thermostat; --temperature then only draws missing velocities.")
    ] = False,
    pressure: Annotated[
        str | None,
        typer.Option("--pressure", help="Constant pressure, such as '1 bar': a Monte Carlo barostat."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Trained model to go on from; default: a new one.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="Of a new model: force-free (the default); force-start, force-midpoint or symplectic ask the engine "
            "once a jump.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the new model, as cutoff=4.5; may be repeated."),
    ] = None,
    target: Annotated[
        float | None, typer.Option("--target", help="Error of v in % of the thermal velocity to jump with (3).")
    ] = None,
    updates: Annotated[int | None, typer.Option("--updates", help="Of the weights for each new segment (20).")] = None,
    freeze_after: Annotated[
        str | None,
        typer.Option("--freeze-after", help='End learning after so much time of jumps in a row, as "5 ps".'),
    ] = None,
    bond_source: Bonds = None,
    frame: Annotated[int, typer.Option("--frame", help="Frame of START; -1 is the last.")] = 0,
    every: Annotated[int, typer.Option("--every", min=1, help="Write every n-th step of a lag.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of velocities, thermostat and learning.")] = 0,
    restart: Annotated[
        Path | None,
        typer.Option(
            "--restart",
            metavar="FILE",
            help="Continue the run that wrote this file (OUTPUT.restart); --target, --updates, --temperature, "
            "--friction, --pressure, --timestep, --freeze-after and the engine may be others.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Run dynamics that learn to jump while they run.

    Begins with classical steps of your engine, learns a propagator from them, and jumps once its error on steps it has
    not seen is below the target. Some jumps, drawn by chance, are audited by the engine. At the end the model stands in
    OUTPUT.safetensors and the course of the run in OUTPUT.html.
    """
    needed = engine_components(calculator, forcefield, system)
    check_installed("fastegnn-md learn", "ase", "jinja2", "matplotlib", *needed)
    import numpy as np

    from .._progress import progress_bar
    from ..engines.ase.stepper import PICOSECOND, guess_bonds
    from ..engines.mdanalysis import RolloutWriter, state_from_universe
    from ..integrators import LearningDynamics, MonteCarloBarostat

    if not (calculator or forcefield or system):
        raise ConfigError("learning needs an engine: give --calculator, or --forcefield or --system")
    if nve and friction is not None:
        raise ConfigError("--friction is that of the thermostat: leave it out, or --nve")
    if friction is not None and temperature is None:
        raise ConfigError("--friction is that of the thermostat: give it with --temperature")
    if pressure is not None and restart is None and (nve or temperature is None):
        raise ConfigError("--pressure needs a thermostat: give --temperature, without --nve")
    barostat = None if pressure is None else MonteCarloBarostat(pressure)
    if model is not None and (kind or settings):
        raise ConfigError("--kind and --set are of a new model: leave them out, or --model")
    trained = None if model is None else open_model(model)
    length = _lag(lag, trained)
    steps = round(parse_quantity(duration, "time") / length)
    if steps < 1:
        raise ConfigError(f"--time {duration!r} is shorter than a step of {1e3 * length:g} fs")
    place = Place(
        restart,
        output,
        steps,
        {
            "learn": True,
            "--lag": f"{1e3 * length:.6g} fs",
            "--constraints": constraints,
            "--every": every,
            "--nve": nve,
        },
        engine={
            "--calculator": calculator,
            "--forcefield": [Path(name).name for name in forcefield or []],
            "--system": system and system.name,
            "--cutoff": cutoff,
        },
    )
    page, saved = (output.with_name(output.name + suffix) for suffix in (".html", ".safetensors"))
    written = [output, restart_of(output), page, saved]
    inputs = [start, model, system, *(forcefield or [])]
    context.with_resource(claimed(written, inputs, overwrite=overwrite or place.continues))
    universe = open_universe(start, None, bonds=bond_source)
    group = universe.atoms
    _seek(universe, start, frame)
    moving = bool(universe.trajectory.ts.has_velocities)
    state = state_from_universe(group, velocities="stored" if moving else "zero")
    if trained is not None and calculator:
        state, moving = trained_masses(trained, state, moving)
    rng = np.random.default_rng(seed)
    atoms = ase_atoms(state)
    bonds = None if state.bonds is None else state.bonds.numpy()
    if bonds is None and not state.periodic and calculator:
        bonds = guess_bonds(atoms)
    bonds = attach_engine(atoms, bonds, start, forcefield, system, constraints, cutoff, calculator, trust=trust_system)
    check_start(str(start), group, state, bonds, trained)
    keep_constraints(atoms, start, len(atoms))
    keep_labels(atoms, start)
    set_velocities(atoms, state.velocities if moving else None, temperature, rng)
    if temperature is None and not nve and restart is None:
        tell_no_thermostat()
    learning = _learning(target, updates, freeze_after, length, seed)
    rate = parse_quantity(friction or _FRICTION, "friction") / PICOSECOND
    bath: dict[str, Any] = {} if nve or temperature is None else {"temperature_K": temperature, "friction": rate}
    if barostat is not None:
        bath["barostat"] = barostat
    if restart is not None:
        dynamics = LearningDynamics.restart(restart, atoms, learning=learning, timestep=timestep, **bath)
        for words in [*place.changed, *dynamics.changed]:
            typer.echo(f"changed: {words}", err=True)
    else:
        dynamics = LearningDynamics(
            atoms,
            length,
            timestep=timestep,
            model=trained or _new(kind, settings, state.periodic),
            learning=learning,
            bonds=bonds,
            rng=rng,
            **bath,
        )
    first = place.step + (restart is not None)
    told, phase = time.monotonic(), dynamics.phase
    with (
        StopSignals() as stop,
        RolloutWriter(output, group, dt=every * length, after=place.after[0]) as writer,
        progress_bar(desc="learn", unit="step", initial=place.step, total=steps) as bar,
    ):
        keeper = Keeper(place, output, [writer], dynamics.save_restart)
        for step in range(first, steps + 1):
            if step:
                try:
                    dynamics.run(1)
                except Exception:  # the atoms are as they were before the step
                    keeper.rescue(step - 1)
                    raise
                bar.update()
            if step % every == 0:
                writer.write(atoms, time=step * length)
            if dynamics.phase != phase or time.monotonic() - told > _TELL:
                bar.write(dynamics.report_line(), file=sys.stderr)
                told, phase = time.monotonic(), dynamics.phase
            if stop.given or step == steps:
                keeper.save(step)
                break
            keeper.step_done(step)
    _finish(dynamics, page, saved)
    if stop.given and step < steps:
        raise keeper.stopped(stop.given, step)


def _finish(dynamics: LearningDynamics, page: Path, saved: Path) -> None:
    typer.echo(dynamics.report_line())
    error, target = dynamics.course.error, dynamics.course.learning.target
    if not dynamics.course.account.jumps and len(error):
        typer.echo(
            f"there was no jump yet, as the error is not surely below {target:g} %: simulate longer, or if it no "
            "longer falls take a shorter --lag, or a larger --target and look at the temperature"
        )
    files = []
    if dynamics.propagator is not None or dynamics.course.learner.model is not None:
        dynamics.save_model(saved)
        files.append(str(saved))
    dynamics.report(page)
    typer.echo(f"saved {', '.join([*files, str(page)])}")


def _new(kind: str | None, settings: list[str] | None, periodic: bool) -> PropagatorConfig:
    """Configuration of a new model, with the defaults of dynamics that learn."""
    from ..integrators.learning.options import PERIODIC
    from ..training.config import TrainingConfig

    given = [f"propagator.{one.removeprefix('propagator.')}" for one in settings or []]
    if kind is not None:
        given.append(f"propagator.kind={kind}")
    return TrainingConfig.from_mapping({"propagator": PERIODIC if periodic else {}}, given).propagator


def _lag(lag: str | None, trained: LearnedMap | None) -> float:
    if lag is not None:
        return parse_quantity(lag, "time")
    if trained is not None:
        return trained.timestep
    raise ConfigError('a new model needs the time of a jump: give --lag "20 fs", say')


def _learning(target: float | None, updates: int | None, freeze_after: str | None, lag: float, seed: int) -> Any:
    from ..integrators import Learning

    given: dict[str, Any] = {"target": target, "updates": updates}
    if freeze_after is not None:
        given["freeze_after"] = max(1, round(parse_quantity(freeze_after, "time") / lag))
    return Learning(seed=seed, **{name: value for name, value in given.items() if value is not None})


def _seek(universe: Any, start: Path, frame: int) -> None:
    from ..data.frames import seek
    from ..errors import DataError

    frames = len(universe.trajectory)
    if not -frames <= frame < frames:
        raise DataError(f"{start} has {frames} frames, there is no frame {frame}")
    seek(universe.trajectory, frame)
