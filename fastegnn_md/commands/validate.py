"""``fastegnn-md validate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._extras import check_installed
from ..errors import ConfigError, DataError
from ..units import parse_quantity
from .forcefields import CalculatorName, Constraints, Cutoff, ForceField, SystemFile, TrustSystem, engine_components
from .inputs import Bonds, Compile, ConserveEnergy, Dt, Members, Model, Select, open_model, open_universe
from .outputs import Overwrite, claimed_folder
from .starts import check_start, leave_box_out
from .stepping import ase_atoms, attach_engine, keep_constraints, set_velocities

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from MDAnalysis import AtomGroup

    from ..data import TrajectoryPairs
    from ..propagator.learned_map import LearnedMap


def validate(
    context: typer.Context,
    model: Model,
    reference: Annotated[
        Path, typer.Option("--reference", metavar="TOPOLOGY", help="Topology or structure of the reference.")
    ],
    trajectories: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[TRAJECTORY]...",
            help="Reference trajectories, each an independent run; a single one is cut into pieces.",
        ),
    ] = None,
    learned: Annotated[
        list[Path] | None,
        typer.Option("--learned", help="Learned trajectory that is there already; may be repeated."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Learned roll-outs to make, without --learned.")] = 4,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Jumps of a roll-out.")] = 2000,
    every: Annotated[int, typer.Option("--every", min=1, help="Save and analyse every n-th jump.")] = 1,
    nve_steps: Annotated[
        int | None,
        typer.Option("--nve-steps", min=0, help="Jumps of the roll-out at constant energy. Default: as --steps."),
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="K, of the Langevin thermostat.")] = None,
    friction: Annotated[str, typer.Option("--friction", help="Of the Langevin thermostat.")] = "10/ps",
    conserve_energy: ConserveEnergy = False,
    second_temperature: Annotated[
        float | None,
        typer.Option("--second-temperature", help="K, of one more roll-out for the row 'ensemble'."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="Store of pairs for one-step errors. Default: made of the reference."),
    ] = None,
    tica: Annotated[
        str | None, typer.Option("--tica", help="Lag of the slow components, as \"5 ps\"; asks for the row 'tica'.")
    ] = None,
    select: Select = "all",
    dt: Dt = None,
    bond_source: Bonds = None,
    forcefield: ForceField = None,
    system: SystemFile = None,
    trust_system: TrustSystem = False,
    constraints: Constraints = "none",
    cutoff: Cutoff = "10 A",
    calculator: CalculatorName = None,
    timestep: Annotated[str, typer.Option("--timestep", help="Of the classical dynamics jumps replace.")] = "1 fs",
    require: Annotated[
        list[str] | None,
        typer.Option("--require", help="Rows, with commas between them, that must be within; else the exit code is 1."),
    ] = None,
    spread_factor: Annotated[
        float,
        typer.Option("--spread-factor", help="How many times the spread of reference runs still counts as within it."),
    ] = 1.5,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report and of the roll-outs.")] = Path(
        "validation"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of roll-outs and confidence intervals.")] = 0,
    translate: Compile = False,
    committee: Members = None,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show progress bars.")] = True,
    overwrite: Overwrite = False,
) -> None:
    """Judge a propagator by a reference: what its dynamics samples, beside the spread of independent reference runs.

    Learned roll-outs start from frames of the reference; with a force field (or --calculator) refused jumps are
    replaced by classical steps and energies are known. Writes report.json and report.html.
    """
    needed = ["ase", "deeptime", "jinja2", "matplotlib", "physical_validation", "tidynamics"]
    check_installed("fastegnn-md validate", *needed, *engine_components(calculator, forcefield, system))

    from ..data.topology import select_atoms
    from ..engines.mdanalysis import state_from_universe
    from ..validation import CHECKS, Run, check_frames, roll_out
    from ..validation import validate as judge
    from ..validation.rollouts import rollout_names

    required = [name.strip() for one in require or [] for name in one.split(",")]
    unknown = sorted(set(required) - {check.name for check in CHECKS})
    if unknown:
        raise ConfigError(
            f"--require names {', '.join(unknown)}; expected some of {', '.join(check.name for check in CHECKS)}"
        )
    inputs = [model, reference, *(trajectories or []), *(learned or []), pairs, system, *(forcefield or [])]
    names = ["report.json", "report.html"]
    if not learned:
        names += [f"{name}.trr" for name in rollout_names(runs, second_temperature)]
    lag = None if tica is None else parse_quantity(tica, "time")
    classical, damping = parse_quantity(timestep, "time"), parse_quantity(friction, "friction")
    propagator = open_model(model, committee)
    if translate:
        propagator.compile()
    engine = bool(forcefield or system or calculator)
    if propagator.wants_forces and not engine and not learned:
        raise ConfigError("this model is force-informed; give --forcefield (or --system, or --calculator)")
    if conserve_energy and (learned or not engine):
        raise ConfigError(
            "--conserve-energy is of roll-outs with true energies: give --forcefield (or --system, or --calculator), "
            "and no --learned"
        )
    groups = [
        select_atoms(open_universe(reference, file, dt, bond_source), select)
        for file in ([[path] for path in trajectories] if trajectories else [None])
    ]
    if propagator.stochastic:
        for group, path in zip(groups, trajectories or [reference], strict=True):
            leave_box_out(group, path)
    atoms, bonds = _engine(
        groups[0],
        reference,
        forcefield,
        system,
        constraints,
        cutoff,
        calculator,
        isolated=propagator.stochastic,
        trust=trust_system,
    )
    for group, path in zip(groups, trajectories or [reference], strict=True):
        check_start(str(path), group, state_from_universe(group, velocities="zero"), bonds, propagator)
    keep_constraints(atoms, trajectories[0] if trajectories else reference, len(groups[0].universe.atoms))
    for group in groups:
        _inform(group, atoms.get_masses(), bonds)
    ours: Any = None
    if learned:
        ours = [_learned(groups[0], reference, path, select, dt) for path in learned]
        for group, path in zip(ours, learned, strict=True):
            if propagator.stochastic:
                leave_box_out(group, path)
            _inform(group, atoms.get_masses(), bonds)
    else:
        check_frames([Run.whole(group) for group in groups], progress)  # before minutes of roll-outs
    context.with_resource(claimed_folder(output, names, [*inputs, *(committee or [])], overwrite=overwrite))
    if ours is None:
        ours = roll_out(
            propagator,
            _starts(groups, atoms, runs, temperature, seed),
            output,
            group=groups[0],
            steps=steps,
            every=every,
            temperature=temperature,
            friction=damping,
            bonds=bonds,
            conserve_energy=conserve_energy,
            nve_steps=steps if nve_steps is None else nve_steps,
            second_temperature=second_temperature,
            seed=seed,
            progress=progress,
        )
    report = judge(
        propagator,
        groups,
        ours,
        pairs=partial(_pairs, propagator, pairs, groups, progress),
        atoms=atoms if engine else None,
        bonds=bonds,
        temperature=temperature,
        tica_lag=lag,
        classical_timestep=classical,
        factor=spread_factor,
        seed=seed,
        progress=progress,
    )
    _, page = report.write(output)
    typer.echo(report.to_text())
    typer.echo(f"saved {output / 'report.json'}, {page}")
    failed = report.failed(required)
    if failed:
        typer.echo(f"required and not within: {', '.join(row.name for row in failed)}", err=True)
        raise typer.Exit(1)


def _engine(
    group: AtomGroup,
    structure: Path,
    forcefield: list[str] | None,
    system: Path | None,
    constraints: str,
    cutoff: str,
    calculator: str | None,
    *,
    isolated: bool,
    trust: bool,
) -> tuple[Atoms, np.ndarray | None]:
    """The first frame as Atoms with the engine asked for, and all bonds known; guessed ones where there are none."""
    from ..engines.ase.stepper import guess_bonds
    from ..engines.mdanalysis import state_from_universe

    state = state_from_universe(group, velocities="zero")
    atoms = ase_atoms(state)
    bonds = None if state.bonds is None else state.bonds.numpy()
    # In a periodic box distances do not tell: every atom of a metal has neighbours as near as bonds.
    if bonds is None and not (forcefield or system or state.periodic):
        bonds = guess_bonds(atoms)
        typer.echo(f"{structure} has no bonds: {len(bonds)} are taken from the distances of atoms", err=True)
    return atoms, attach_engine(
        atoms,
        bonds,
        structure,
        forcefield,
        system,
        constraints,
        cutoff,
        calculator,
        isolated=isolated,
        trust=trust,
    )


def _inform(group: AtomGroup, masses: np.ndarray, bonds: np.ndarray | None) -> None:
    """Give a universe the masses and the bonds that the engine knows."""
    universe = group.universe
    if not hasattr(group, "masses"):
        universe.add_TopologyAttr("masses")
    group.masses = masses
    if bonds is not None:
        if not hasattr(group, "bonds"):
            universe.add_TopologyAttr("bonds", [])
        universe.add_bonds(group.ix[bonds])


def _starts(groups: list[AtomGroup], template: Atoms, runs: int, temperature: float | None, seed: int) -> list[Atoms]:
    """Frames of the reference, evenly spaced, with velocities stored or drawn."""
    import numpy as np

    from ..data.frames import seek
    from ..engines.mdanalysis import state_from_universe

    rng = np.random.default_rng(seed)
    starts = []
    for k in range(runs):
        group, place = groups[k % len(groups)], k // len(groups)
        reader = group.universe.trajectory
        seek(reader, len(reader) * place // -(-runs // len(groups)))
        moving = bool(reader.ts.has_velocities)
        state = state_from_universe(group, velocities="stored" if moving else "zero")
        atoms = template.copy()
        atoms.calc = template.calc
        atoms.set_positions(state.positions.numpy(), apply_constraint=False)
        if state.cell is not None:
            atoms.set_cell(state.cell[0].numpy())
        set_velocities(atoms, state.velocities if moving else None, temperature, rng)
        starts.append(atoms)
    return starts


def _learned(group: AtomGroup, topology: Path, path: Path, select: str, dt: str | None) -> AtomGroup:
    """Atoms of a learned trajectory, which holds all atoms of the topology or those of the selection only."""
    import MDAnalysis as mda

    from ..data.topology import quiet, select_atoms

    try:
        return select_atoms(open_universe(topology, [path], dt), select)
    except DataError:
        if select == "all" or not path.exists():
            raise
    with quiet():
        universe = mda.Merge(group)
        try:
            universe.load_new(str(path))
        except (ValueError, OSError) as error:
            raise DataError(f"{path} holds neither all atoms nor those of --select: {error}") from error
    return universe.atoms


def _pairs(propagator: LearnedMap, store: Path | None, groups: list[AtomGroup], progress: bool) -> TrajectoryPairs:
    """Pairs of a store, else of the reference."""
    from ..data import TrajectoryPairs

    return TrajectoryPairs(
        groups if store is None else store,
        lag=propagator.timestep,
        velocities="stored" if propagator.predicts_velocities else "none",
        isolated=propagator.stochastic,
        progress=progress,
    )
