"""``fastegnn-md harvest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .._extras import check_installed
from ..errors import ConfigError
from ..units import parse_quantity
from .cluster import Processes, Scheduler, executor_of
from .forcefields import (
    CalculatorName,
    Constraints,
    Cutoff,
    ForceField,
    SystemFile,
    TrustSystem,
    calculator_factory,
    engine_components,
    openmm_system,
)
from .inputs import Bonds, Dt, Topology, Trajectories, file_components, open_universe
from .outputs import Overwrite, check_outputs


def harvest(
    topology: Topology,
    trajectory: Trajectories = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Store to write (.h5md).")] = Path("pairs.h5md"),
    engine: Annotated[
        str | None, typer.Option("--engine", help="openmm or ase. Default: ase with --calculator, else openmm.")
    ] = None,
    forcefield: ForceField = None,
    system: SystemFile = None,
    trust_system: TrustSystem = False,
    constraints: Constraints = "none",
    cutoff: Cutoff = "10 A",
    calculator: CalculatorName = None,
    burst: Annotated[str, typer.Option("--burst", help="Length of a burst.")] = "24 fs",
    interval: Annotated[str, typer.Option("--interval", help="Time between the stored frames of a burst.")] = "8 fs",
    timestep: Annotated[str, typer.Option("--timestep", help="Time step of the engine.")] = "0.5 fs",
    midpoint: Annotated[
        str | None,
        typer.Option("--midpoint", metavar="LAG", help="Forces for 'train --kind force-midpoint' with this lag, too."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Draw velocities at this temperature, K. Default: the stored.")
    ] = None,
    frames: Annotated[
        str | None, typer.Option("--frames", metavar="START:STOP:STEP", help="Frames to start from. Default: all.")
    ] = None,
    dt: Dt = None,
    bonds: Bonds = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the velocities.")] = 0,
    processes: Processes = None,
    scheduler: Scheduler = None,
    max_failed: Annotated[
        float,
        typer.Option(
            "--max-failed",
            min=0,
            max=1,
            help="Share of bursts that may be dropped: the engine failed, or energy is lost.",
        ),
    ] = 0.05,
    overwrite: Overwrite = False,
) -> None:
    """Make training pairs: short runs at constant energy, started from the frames of a trajectory.

    Trajectories are saved every picosecond or so, too rarely for steps of femtoseconds. Each burst is written with
    positions, velocities and forces. A harvest that was stopped continues when the command is given again.
    """
    needed = [*engine_components(calculator, forcefield, system), *file_components(topology, *(trajectory or []))]
    check_installed("fastegnn-md harvest", *needed, *(["distributed"] if scheduler else []))
    from ..data import Store
    from ..data.ase_files import ase_format, file_constraints
    from ..harvest import harvest as run_harvest

    if output.exists():  # a store of that name is looked into later: that of this very harvest is the result
        check_outputs([output], [topology, *(trajectory or []), system, *(forcefield or [])], overwrite=True)
    source: Any
    held: list[Any] = []
    engine = engine or ("ase" if calculator else "openmm")
    if engine == "openmm":
        if calculator is not None:
            raise ConfigError("--calculator is of ASE; leave --engine openmm out, or the calculator")
        source = openmm_system(topology, forcefield, system, constraints, cutoff, trust=trust_system)
    elif engine == "ase":
        if calculator is None:
            raise ConfigError("--engine ase needs a calculator; use --calculator emt, or module:callable")
        if constraints != "none":
            raise ConfigError("--constraints are those of an OpenMM force field; leave them out with --engine ase")
        if forcefield or system:
            raise ConfigError("--calculator and --forcefield (or --system) exclude each other; give one of them")
        source = calculator_factory(calculator)
        held = file_constraints(next((path for path in (*(trajectory or []), topology) if ase_format(path)), topology))
    else:
        raise ConfigError(f"unknown engine {engine!r}; expected openmm or ase")
    with executor_of(scheduler) as executor:
        store = run_harvest(
            open_universe(topology, trajectory, dt, bonds),
            source,
            store=output,
            burst=parse_quantity(burst, "time"),
            interval=parse_quantity(interval, "time"),
            timestep=parse_quantity(timestep, "time"),
            midpoint=midpoint,
            frames=_slice(frames),
            temperature=temperature,
            seed=seed,
            processes=processes,
            executor=executor,
            overwrite=overwrite,
            constraints=held,
            max_failed=max_failed,
        )
    made = Store(store).provenance
    if made["dropped bursts"]:
        failed = made.get("bursts in which the engine failed", 0)
        typer.echo(
            f"{made['dropped bursts']} of {made['bursts']} bursts were dropped; in {failed} the engine failed", err=True
        )
    kind = "" if midpoint is None else " --kind force-midpoint"
    typer.echo(f'saved {store}; next: fastegnn-md train {store} --lag "{midpoint or interval}"{kind}')


def _slice(text: str | None) -> slice | None:
    if text is None:
        return None
    try:
        parts = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) not in (2, 3):
        raise ConfigError(
            f"cannot read --frames {text!r}; expected START:STOP or START:STOP:STEP, for example 0:1000:10"
        )
    return slice(*parts)
