"""``fastegnn-md run --engine openmm``: classical steps and jumps inside a Context."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .._extras import naming_extras
from ..errors import ConfigError, DataError
from ..units import format_time, parse_quantity
from .continuing import Keeper, Place, StopSignals
from .forcefields import openmm_structure, openmm_system
from .replicas import run_replicas
from .starts import check_start
from .verdict import became, speed, tell, tell_span

if TYPE_CHECKING:
    import numpy as np
    from MDAnalysis import AtomGroup

    from ..integrators import GuardSettings
    from ..propagator.learned_map import LearnedMap
    from ..state import State


_PIECE = 100  # steps


def run_openmm(
    propagator: LearnedMap,
    group: AtomGroup,
    start: State,
    moving: bool,
    *,
    name: str,
    structure: Path,
    output: Path,
    place: Place,
    every: int,
    temperature: float | None,
    friction: str,
    nve: bool,
    classical_steps: int,
    relax_steps: int | None,
    replicas: int,
    jumps: int,
    timestep: str,
    forcefield: list[str] | None,
    system: Path | None,
    trust: bool,
    constraints: str,
    cutoff: str,
    platform: str | None,
    seed: int,
    guard: GuardSettings,
) -> None:
    """Hybrid steps of a whole system, of which the atoms of ``group`` jump; ``start`` is the state of all atoms.

    ``name`` is that of its file, ``structure`` that of the topology.
    """
    import numpy as np

    from .._progress import progress_bar
    from ..data.topology import join_bonds
    from ..engines.mdanalysis import RolloutWriter
    from ..engines.openmm.calculator import platform_named, reduced_box
    from ..engines.openmm.system import NM, system_bonds

    with naming_extras("fastegnn-md run --engine openmm"):
        import openmm
        from openmm import unit

        from ..integrators import LearnedIntegrator, LearnedSimulation, Schedule
        from ..integrators.openmm.restart import load_simulation, save_simulation

    if temperature is None and not (nve and moving):
        raise ConfigError("--engine openmm needs --temperature: of the thermostat, or to draw missing velocities")
    if not jumps and not classical_steps:
        raise ConfigError("--jumps 0 takes classical steps after a refused jump: give --classical-steps of 1 or more")
    box = turn = None
    if start.cell is not None:
        box, turn = reduced_box(start.cell[0].numpy())
        box = box / NM
    built = openmm_system(
        structure,
        forcefield,
        system,
        constraints,
        cutoff,
        box,
        isolated=propagator.stochastic and box is None,
        trust=trust,
    )
    topology = openmm_structure(structure).topology
    if built.getNumParticles() != start.n_atoms:
        raise DataError(
            f"the force field describes {built.getNumParticles()} particles, the frame has {start.n_atoms} atoms; "
            "give a structure of this system"
        )
    universe = group.universe
    part = None if len(group) == len(universe.atoms) else group.indices
    bonds = join_bonds(None if start.bonds is None else start.bonds.numpy(), system_bonds(built, start.numbers.numpy()))
    if bonds is not None:
        bonds = bonds[np.isin(bonds, group.indices).all(axis=1)]
    check_start(name, universe.atoms, start, bonds, propagator)

    def simulation_of(seed: int) -> LearnedSimulation:
        step = parse_quantity(timestep, "time")
        classical: Any
        if propagator.stochastic and not classical_steps:
            classical = step  # draws are relaxed, and those that are refused replaced, by Langevin dynamics of our own
        elif nve:
            classical = openmm.VerletIntegrator(step)
        else:
            classical = openmm.LangevinMiddleIntegrator(temperature, parse_quantity(friction, "friction"), step)
            classical.setRandomNumberSeed(seed + 1)  # zero means a random seed to OpenMM
        integrator = LearnedIntegrator(
            propagator,
            temperature=None if propagator.predicts_velocities else temperature,
            schedule=Schedule(classical_steps, jumps or None, classical=classical, relax_steps=relax_steps),
            guard=guard,
            seed=seed,
        )
        made = LearnedSimulation(topology, built, integrator, platform_named(openmm, platform), atoms=part)
        context = made.context
        if box is not None:
            context.setPeriodicBoxVectors(*box)
        context.setPositions(_turned(start.positions.numpy(), turn) / NM)
        context.applyConstraints(1e-6)
        if moving:
            context.setVelocities(_turned(start.velocities.numpy(), turn) / NM)
            context.applyVelocityConstraints(1e-6)
        else:
            context.setVelocitiesToTemperature(temperature * unit.kelvin, seed + 1)
        return made

    if replicas > 1:
        several = [simulation_of(seed + k) for k in range(replicas)]
        run_replicas(
            several,
            place,
            output,
            universe.atoms,
            partial(frame_of, start=start),
            slice(None) if part is None else part,
            every=every,
        )
        return
    simulation = simulation_of(seed)
    context, integrator = simulation.context, simulation.integrator
    if place.restart is not None:
        load_simulation(place.restart, simulation)
    watch = integrator.watch()
    first, begun = context.getTime()._value, time.perf_counter()
    steps, mean = place.steps, integrator.getStepSize().value_in_unit(unit.picosecond)
    with (
        StopSignals() as stop,
        RolloutWriter(output, universe.atoms, dt=every * mean, after=place.after[0]) as writer,
        progress_bar(total=steps, initial=place.step, desc="run", unit="step") as bar,
    ):
        keeper = Keeper(place, output, [writer], lambda path, notes: save_simulation(path, simulation, notes))
        if place.restart is None:
            writer.write(frame_of(context, start), time=0.0)
        done = place.step
        while done < steps and not stop.given:
            # to the next frame, in pieces between which a signal is heard
            count = min(every - done % every, steps - done, _PIECE)
            try:
                simulation.step(count)
            except Exception:
                keeper.rescue(simulation.currentStep)
                raise
            done += count
            bar.update(count)
            if done % every == 0:
                writer.write(now := frame_of(context, start), time=context.getTime()._value)
                watch.record(now.velocities if part is None else now.velocities[part])
            keeper.step_done(done)
        keeper.save(done)
    if done < steps and stop.given:
        raise keeper.stopped(stop.given, done)
    statistics = integrator.statistics
    typer.echo(
        f"{steps} steps, {context.getTime()._value:g} ps: {statistics.tried} jumps of "
        f"{format_time(propagator.timestep)}, {became(statistics)}"
        f"; {1e3 * integrator.jump_seconds / max(1, statistics.tried):.3g} ms per jump, "
        f"{1e3 * integrator.classical_seconds / max(1, integrator.classical_steps_taken):.3g} ms per classical step; "
        f"saved {output} and {keeper.path.name}"
    )
    tell_span(place)
    if propagator.stochastic:
        typer.echo(speed(context.getTime()._value - first, time.perf_counter() - begun))
    tell(watch.verdict(statistics, integrator.audits))


def _turned(vectors: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    return vectors if turn is None else vectors @ turn.T


def frame_of(context: Any, start: State) -> State:
    """Positions, velocities and box of a Context, for the atoms of a state."""
    import torch

    from ..engines.openmm.system import NM

    state = context.getState(positions=True, velocities=True)
    cell = None
    if start.cell is not None:
        cell = torch.tensor(NM * state.getPeriodicBoxVectors(asNumpy=True)._value)[None]
    return start.replace(
        positions=torch.tensor(NM * state.getPositions(asNumpy=True)._value),
        velocities=torch.tensor(NM * state.getVelocities(asNumpy=True)._value),
        cell=cell,
    )
