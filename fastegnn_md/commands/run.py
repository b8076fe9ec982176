"""``fastegnn-md run``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._extras import check_installed
from ..errors import ConfigError, DataError
from ..units import format_time, parse_quantity
from .continuing import Keeper, Place, StopSignals, restart_of
from .forcefields import CalculatorName, Constraints, Cutoff, ForceField, SystemFile, TrustSystem, engine_components
from .inputs import Bonds, Compile, ConserveEnergy, Members, Model, Select, open_model, open_universe
from .outputs import Overwrite, claimed
from .replicas import replica_outputs, run_ase_replicas
from .run_checks import check_pressure, check_redrawn, check_replicas, is_amber
from .run_openmm import run_openmm
from .starts import check_start, leave_box_out, own_start
from .stepping import ase_atoms, attach_engine, keep_constraints, keep_labels, set_velocities, trained_masses
from .verdict import became, speed, tell, tell_no_thermostat, tell_span, tell_volumes

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms


_FRICTION = "10/ps"
_CYCLE = 10  # classical steps between jumps, with --engine openmm


def run(
    context: typer.Context,
    model: Model,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps; with --engine openmm of both kinds.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Trajectory to write: .xtc, .trr, .dcd, .h5md, .extxyz, .traj …")
    ],
    start: Annotated[
        Path | None,
        typer.Argument(
            metavar="[START]",
            help="Structure or trajectory to start from. Default: that of the model, if it comes with the package.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="K: of the thermostat, and of velocities where START has none."),
    ] = None,
    friction: Annotated[
        str | None, typer.Option("--friction", help=f"Of the Langevin thermostat; default {_FRICTION}.")
    ] = None,
    tau: Annotated[
        str | None,
        typer.Option("--tau", help="Stochastic velocity rescaling with this time in place of Langevin (ase)."),
    ] = None,
    nve: Annotated[
        bool, typer.Option("--nve", help="No thermostat; --temperature then only draws missing velocities.")
    ] = False,
    conserve_energy: ConserveEnergy = False,
    pressure: Annotated[
        str | None,
        typer.Option("--pressure", help="Constant pressure, such as '1 bar': a Monte Carlo barostat (ase)."),
    ] = None,
    metropolis: Annotated[
        bool,
        typer.Option("--metropolis", help="Accept or reject jumps with the true energy: exact sampling (ase)."),
    ] = False,
    topology: Annotated[
        Path | None, typer.Option("--topology", help="Topology, where START has coordinates only.")
    ] = None,
    select: Select = "all",
    bond_source: Bonds = None,
    engine: Annotated[
        str, typer.Option("--engine", help="ase: learned steps alone; openmm: in turn with classical steps.")
    ] = "ase",
    classical_steps: Annotated[
        int | None,
        typer.Option(
            "--classical-steps", min=0, help="Classical steps of a cycle (openmm); default 10, none for kind flow."
        ),
    ] = None,
    jumps: Annotated[
        int, typer.Option("--jumps", min=0, help="Jumps of a cycle (openmm); 0 jumps until a guard refuses.")
    ] = 1,
    timestep: Annotated[
        str, typer.Option("--timestep", help="Of classical steps (openmm), and of those that relax draws of kind flow.")
    ] = "1 fs",
    relax_steps: Annotated[
        int | None,
        typer.Option("--relax-steps", min=0, help="Classical steps after each draw of kind flow; default 50."),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            "--replicas", min=1, help="Copies that share calls of the network, a trajectory each: OUTPUT-00 …"
        ),
    ] = 1,
    platform: Annotated[
        str | None, typer.Option("--platform", help="Of OpenMM; default: the fastest (openmm).")
    ] = None,
    frame: Annotated[int, typer.Option("--frame", help="Frame of START; -1 is the last.")] = 0,
    forcefield: ForceField = None,
    system: SystemFile = None,
    trust_system: TrustSystem = False,
    constraints: Constraints = "none",
    cutoff: Cutoff = "10 A",
    calculator: CalculatorName = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Write every n-th step.")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of velocities and thermostat; replica k has SEED + k.")
    ] = 0,
    translate: Compile = False,
    committee: Members = None,
    spread: Annotated[
        float | None,
        typer.Option("--spread", help="Refuse steps about which the committee differs by more, in residual scales."),
    ] = None,
    restart: Annotated[
        Path | None,
        typer.Option(
            "--restart",
            metavar="FILE",
            help="Continue the run that wrote this file, with its command: OUTPUT.restart, saved every 15 s and at the "
            "end, also when the run is stopped.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Step a molecule with a trained propagator, guarded.

    With a force field (or --calculator) a refused step is replaced by classical ones, and force-informed models get
    their forces; without, a refused step ends the run. With --metropolis (models of kind kick-drift) each jump is
    accepted or rejected with the true energy at --temperature instead. With --engine openmm classical steps and jumps
    take turns inside OpenMM, and only the atoms of --select jump.
    """
    import numpy as np
    import torch

    needed = engine_components(calculator, forcefield, system)
    check_installed("fastegnn-md run", "ase", *needed, *(["openmm"] if engine == "openmm" else []))
    from .._progress import progress_bar
    from ..data.ase_files import ase_format
    from ..data.frames import seek
    from ..data.topology import select_atoms
    from ..engines.ase.stepper import PICOSECOND, guess_bonds
    from ..engines.mdanalysis import RolloutWriter, state_from_universe
    from ..integrators import (
        Conserve,
        GuardSettings,
        Langevin,
        LearnedDynamics,
        MetropolizedDynamics,
        MonteCarloBarostat,
        Schedule,
        VelocityRescaling,
    )
    from ..integrators.ase.restart import resume_together

    if engine not in ("ase", "openmm"):
        raise ConfigError(f"unknown engine {engine!r}; expected ase or openmm")
    if tau is not None and (friction is not None or nve or temperature is None):
        raise ConfigError("--tau is another thermostat: give it with --temperature, without --friction and --nve")
    if tau is not None and engine == "openmm":
        raise ConfigError("--tau is for --engine ase: classical steps of OpenMM have no stochastic velocity rescaling")
    if friction is not None and (temperature is None or nve):
        raise ConfigError("--friction is that of the thermostat: give it with --temperature, without --nve")
    if start is None:
        start, temperature = own_start(model, topology, temperature)
    if spread is not None and not committee:
        raise ConfigError("--spread asks how far the members of a committee differ; give further ones by --committee")
    outputs = [output] if replicas == 1 else replica_outputs(output, replicas)
    place = Place(
        restart,
        output,
        steps,
        {
            "--engine": engine,
            "--temperature": temperature,
            "--friction": friction,
            "--tau": tau,
            "--nve": nve,
            "--conserve-energy": conserve_energy,
            "--pressure": pressure,
            "--metropolis": metropolis,
            "--select": select,
            "--classical-steps": classical_steps,
            "--jumps": jumps,
            "--timestep": timestep,
            "--relax-steps": relax_steps,
            "--forcefield": [Path(name).name for name in forcefield or []],
            "--system": system and system.name,
            "--constraints": constraints,
            "--cutoff": cutoff,
            "--calculator": calculator,
            "--every": every,
            "--spread": spread,
            "--replicas": replicas if replicas > 1 else None,
        },
        outputs,
    )
    inputs = [model, start, topology, system, *(committee or []), *(forcefield or [])]
    if replicas > 1 and metropolis:
        raise ConfigError("--replicas has no --metropolis: give them one by one")
    context.with_resource(claimed([*outputs, restart_of(output)], inputs, overwrite=overwrite or place.continues))
    guard = GuardSettings(spread=spread)
    propagator = open_model(model, committee)
    if translate:
        propagator.compile()
    check_redrawn(propagator, temperature, friction or tau, nve, relax_steps)
    if pressure is not None:
        check_pressure(engine, metropolis, nve or temperature is None)
    barostat = None if pressure is None else MonteCarloBarostat(pressure)
    if classical_steps is None:
        classical_steps = 0 if propagator.stochastic else _CYCLE
    if metropolis and (engine != "ase" or nve or temperature is None or not (calculator or forcefield or system)):
        raise ConfigError(
            "--metropolis needs --engine ase, --temperature and true energies (--forcefield, --system or "
            "--calculator), and excludes --nve"
        )
    if metropolis and (committee or spread is not None or tau is not None):
        raise ConfigError(
            "--metropolis takes one model and needs no guard, and refreshes velocities with --friction; leave out "
            "--committee, --spread and --tau"
        )
    if conserve_energy and (metropolis or engine != "ase" or not (calculator or forcefield or system)):
        raise ConfigError(
            "--conserve-energy needs --engine ase and true energies (--forcefield, --system or --calculator), and "
            "excludes --metropolis"
        )
    if engine == "openmm" and (calculator or not (forcefield or system or is_amber(topology or start))):
        raise ConfigError(
            "--engine openmm takes its forces from OpenMM: give --forcefield or --system, no --calculator"
        )
    if engine == "ase" and propagator.wants_forces and not (calculator or forcefield or system):
        raise ConfigError("this model is force-informed; give --forcefield (or --system, or --calculator)")
    universe = open_universe(topology or start, [start] if topology else None, bonds=bond_source)
    group = select_atoms(universe, select)
    frames = len(universe.trajectory)
    if not -frames <= frame < frames:
        raise DataError(f"{start} has {frames} frames, there is no frame {frame}")
    seek(universe.trajectory, frame)
    if propagator.stochastic and (engine == "ase" or len(group) == len(universe.atoms)):
        leave_box_out(group, start)
    moving = bool(universe.trajectory.ts.has_velocities)
    if replicas > 1:
        check_replicas(propagator, engine, moving and (nve or temperature is None))
    if engine == "openmm":
        run_openmm(
            propagator,
            group,
            state_from_universe(universe.atoms, velocities="stored" if moving else "zero"),
            moving,
            name=str(start),
            structure=topology or start,
            output=output,
            place=place,
            every=every,
            temperature=temperature,
            friction=friction or _FRICTION,
            nve=nve,
            classical_steps=classical_steps,
            relax_steps=relax_steps,
            replicas=replicas,
            jumps=jumps,
            timestep=timestep,
            forcefield=forcefield,
            system=system,
            trust=trust_system,
            constraints=constraints,
            cutoff=cutoff,
            platform=platform,
            seed=seed,
            guard=guard,
        )
        return
    state = state_from_universe(group, velocities="stored" if moving else "zero")
    if not (forcefield or system):  # which bring masses of their own
        state, moving = trained_masses(propagator, state, moving)
    rng = np.random.default_rng(seed)
    bonds = None if state.bonds is None else state.bonds.numpy()
    if bonds is None and propagator.uses_bonds and not (forcefield or system):
        bonds = guess_bonds(ase_atoms(state))
        typer.echo(f"{topology or start} has no bonds: {len(bonds)} are taken from the distances of atoms", err=True)
    known = bonds

    def atoms_with_engine(rng: np.random.Generator) -> tuple[Atoms, np.ndarray | None]:
        atoms = ase_atoms(state)
        bonds = attach_engine(
            atoms,
            known,
            topology or start,
            forcefield,
            system,
            constraints,
            cutoff,
            calculator,
            isolated=propagator.stochastic,
            trust=trust_system,
        )
        check_start(str(start), group, state, bonds, propagator)
        keep_constraints(atoms, start if ase_format(start) else topology or start, len(universe.atoms))
        keep_labels(atoms, start)
        set_velocities(atoms, state.velocities if moving else None, temperature, rng)
        return atoms, bonds

    if temperature is None and not nve and moving:
        tell_no_thermostat()
    rate = parse_quantity(friction or _FRICTION, "friction")
    thermostat: Langevin | VelocityRescaling | None = None
    if tau is not None:
        thermostat = VelocityRescaling(temperature, tau)
    elif temperature is not None and not nve and propagator.predicts_velocities:
        thermostat = Langevin(temperature, rate)

    def learned(rng: np.random.Generator) -> LearnedDynamics:
        atoms, bonds = atoms_with_engine(rng)
        return LearnedDynamics(
            atoms,
            propagator,
            thermostat=thermostat,
            temperature_K=None if propagator.predicts_velocities else temperature,
            rng=rng,
            bonds=bonds,
            guard=guard,
            conserve=Conserve(energy=conserve_energy),
            barostat=barostat,
            schedule=Schedule(relax_steps=relax_steps, classical=timestep) if propagator.stochastic else None,
        )

    if replicas > 1:
        generators = [np.random.default_rng(seed + k) for k in range(replicas)]
        if restart is None:
            several = [learned(one) for one in generators]
        else:
            several = resume_together(
                LearnedDynamics, restart, [atoms_with_engine(one)[0] for one in generators], propagator
            )
        run_ase_replicas(several, place, output, group, every=every)
        return
    dynamics: LearnedDynamics | MetropolizedDynamics
    if restart is not None:
        kind = MetropolizedDynamics if metropolis else LearnedDynamics
        dynamics = kind.restart(restart, atoms_with_engine(rng)[0], propagator)
    elif metropolis and temperature is not None:
        atoms, bonds = atoms_with_engine(rng)
        dynamics = MetropolizedDynamics(
            atoms, propagator, temperature_K=temperature, friction=rate / PICOSECOND, rng=rng, bonds=bonds
        )
    else:
        dynamics = learned(rng)
    atoms = dynamics.atoms
    watch = dynamics.jump.watch() if isinstance(dynamics, LearnedDynamics) else None
    temperatures: list[float] = []
    volumes: list[float] = []
    timestep_ps = dynamics.guarded.timestep if isinstance(dynamics, LearnedDynamics) else propagator.timestep
    first, begun = place.step + (restart is not None), time.perf_counter()
    with (
        StopSignals() as stop,
        RolloutWriter(output, group, dt=every * timestep_ps, after=place.after[0]) as writer,
        progress_bar(desc="run", unit="step", initial=place.step, total=steps) as bar,
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
                writer.write(atoms, time=step * timestep_ps)
            temperatures.append(dynamics.get_temperature())
            if barostat is not None:
                volumes.append(atoms.get_volume())
            if watch is not None:
                watch.record(torch.from_numpy(atoms.get_velocities() * PICOSECOND))
            if stop.given or step == steps:
                keeper.save(step)
                break
            keeper.step_done(step)
    if stop.given and step < steps:
        raise keeper.stopped(stop.given, step)
    settled = np.mean(temperatures[len(temperatures) // 2 :])
    typer.echo(
        f"{dynamics.statistics.tried} jumps of {format_time(propagator.timestep)}, {became(dynamics.statistics)}"
        f"; mean temperature of the second half {settled:.0f} K; saved {output} and {keeper.path.name}"
    )
    tell_span(place)
    if volumes and isinstance(dynamics, LearnedDynamics):
        tell_volumes(dynamics.statistics, volumes)
    if propagator.stochastic:
        typer.echo(speed((steps - place.step) * timestep_ps, time.perf_counter() - begun))
    if watch is not None:
        tell(watch.verdict(dynamics.statistics, dynamics.guarded.audits))
