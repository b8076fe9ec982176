"""``fastegnn-md seeds``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .._extras import check_installed
from ..errors import ConfigError
from .cluster import Processes, Scheduler, executor_of
from .forcefields import (
    CalculatorName,
    Constraints,
    ForceField,
    SystemFile,
    TrustSystem,
    calculator_factory,
    engine_components,
    openmm_system,
)
from .inputs import Bonds, Model, Trajectories, open_model, open_universe
from .outputs import check_outputs
from .starts import leave_box_out


def seeds(
    model: Model,
    topology: Annotated[
        Path, typer.Argument(metavar="START", help="Structure that jumps start from, or topology of the trajectories.")
    ],
    trajectory: Trajectories = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")] = Path("seeds"),
    temperature: Annotated[float | None, typer.Option("--temperature", help="K.")] = None,
    forcefield: ForceField = None,
    system: SystemFile = None,
    trust_system: TrustSystem = False,
    constraints: Constraints = "none",
    calculator: CalculatorName = None,
    jumps: Annotated[int, typer.Option("--jumps", min=1, help="Jumps of each replica.")] = 200,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Chains of jumps.")] = 16,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Clusters of what was visited, a start each.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Bursts from each start; may grow later.")] = 1,
    burst: Annotated[str, typer.Option("--burst", help="Length of a burst.")] = "50 ps",
    interval: Annotated[str, typer.Option("--interval", help="Time between frames of a burst.")] = "1 ps",
    burn_in: Annotated[str, typer.Option("--burn-in", help="What is dropped at the beginning of a burst.")] = "5 ps",
    lag: Annotated[
        str | None,
        typer.Option("--lag", help="Of the Markov state model. Default: a fifth of a burst after burn-in."),
    ] = None,
    timestep: Annotated[str, typer.Option("--timestep", help="Time step of the engine.")] = "2 fs",
    friction: Annotated[str, typer.Option("--friction", help="Of the Langevin dynamics.")] = "1/ps",
    platform: Annotated[str | None, typer.Option("--platform", help="OpenMM platform.")] = None,
    reference: Annotated[
        list[Path] | None,
        typer.Option("--reference", help="Trajectory of the same atoms to compare with; may be repeated."),
    ] = None,
    bonds: Bonds = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of jumps, velocities and random forces.")] = 0,
    processes: Processes = None,
    scheduler: Scheduler = None,
) -> None:
    """Populations and time scales from short bursts, started where a flow model jumped.

    The jumps say where to look and nothing else: a Markov state model of the bursts alone gives the numbers, with
    intervals (extra 'kinetics'). Given again after a stop, or with more --repeats, another --lag or --reference, the
    command keeps the bursts there are.
    """
    needed = ["deeptime", "jinja2", "matplotlib", *engine_components(calculator, forcefield, system)]
    check_installed("fastegnn-md seeds", *needed, *(["distributed"] if scheduler else []))
    from ..harvest import seeds as run_seeds
    from ..harvest.seeds_page import write_page

    engine: Any
    held: list[Any] = []
    if calculator is not None and (forcefield or system):
        raise ConfigError("--calculator and --forcefield (or --system) exclude each other; give one of them")
    if temperature is None:
        raise ConfigError("bursts run at a temperature; give --temperature")
    if output.exists() and not output.is_dir():
        check_outputs([output], [model, topology, *(trajectory or [])], overwrite=False)
    propagator = open_model(model)
    universe = open_universe(topology, trajectory, bonds=bonds)
    leave_box_out(universe.atoms, trajectory[0] if trajectory else topology)
    if calculator is not None:
        if constraints != "none":
            raise ConfigError("--constraints are those of an OpenMM force field; leave them out with --calculator")
        from ..data.ase_files import ase_format, file_constraints

        engine = calculator_factory(calculator)
        held = file_constraints(topology) if ase_format(topology) else []
    elif forcefield or system or topology.suffix.lower() in (".prmtop", ".parm7"):
        engine = openmm_system(topology, forcefield, system, constraints, "10 A", isolated=True, trust=trust_system)
    else:
        raise ConfigError("bursts need an engine; give --forcefield, --system or --calculator")
    references = [open_universe(topology, [path]) for path in reference or []]
    for one, path in zip(references, reference or [], strict=True):
        leave_box_out(one.atoms, path)
    with executor_of(scheduler) as executor:
        found = run_seeds(
            propagator,
            universe,
            engine,
            output=output,
            temperature=temperature,
            jumps=jumps,
            replicas=replicas,
            starts=starts,
            repeats=repeats,
            burst=burst,
            interval=interval,
            burn_in=burn_in,
            lag=lag,
            timestep=timestep,
            friction=friction,
            constraints=held,
            platform=platform,
            reference=references,
            seed=seed,
            processes=processes,
            executor=executor,
        )
    data, page = write_page(found)
    kinetics = found.kinetics
    shares = ", ".join(f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in kinetics.populations)
    slow = ", ".join(
        f"{one.value * found.interval:.3g} ({one.low * found.interval:.3g} to {one.high * found.interval:.3g})"
        for one in kinetics.timescales
    )
    typer.echo(
        f"{found.bursts} bursts, {found.nanoseconds:.3g} ns; populations {shares}; "
        f"time scales {f'{slow} ps' if slow else 'none'}"
    )
    typer.echo(f"saved {page} and {data}")
