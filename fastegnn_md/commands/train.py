"""``fastegnn-md train``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from .._extras import check_installed
from ..errors import ConfigError
from .inputs import Bonds, Dt, Select, StorePath, Topology, Trajectories, Velocities, file_components, open_pairs
from .outputs import Overwrite, check_outputs


def train(
    context: typer.Context,
    topology: Topology,
    lag: Annotated[str, typer.Option("--lag", help='Time step to learn, with its unit: "10 fs".')],
    trajectory: Trajectories = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the trained model.")] = Path(
        "model.safetensors"
    ),
    select: Select = "all",
    dt: Dt = None,
    velocities: Velocities = None,
    store: StorePath = None,
    bonds: Bonds = None,
    friction: Annotated[
        str | None,
        typer.Option(
            "--friction", help='Langevin friction of the trajectory, as "1/ps" (0/ps: none): the noise floor.'
        ),
    ] = None,
    stride: Annotated[int, typer.Option("--stride", min=1, help="Keep every n-th frame.")] = 1,
    split: Annotated[
        str, typer.Option("--split", help="Shares of training, validation and test; blocks of time.")
    ] = "0.8,0.1,0.1",
    config: Annotated[Path | None, typer.Option("--config", help="Settings as YAML (see TrainingConfig).")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")
    ] = None,
    initial: Annotated[
        Path | None, typer.Option("--from", metavar="MODEL", help="Fine-tune this model; its network is taken over.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Name of the network (fastegnn); see docs/models.md.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="force-free (the default); force-start or force-midpoint: the force at x or at x + v lag/2 is an "
            "input, too (see 'harvest --midpoint'); position: x to x', v' redrawn; kick-drift: exact with a Metropolis "
            "test; symplectic: gradients of a learned potential and one force of the engine, for low friction; "
            "conservative: without the engine; flow: x' drawn from what x leads to, for a molecule and lags of "
            "picoseconds.",
        ),
    ] = None,
    kicks: Annotated[
        int | None,
        typer.Option("--kicks", help="Kicks per jump, kinds kick-drift (4), symplectic and conservative (3)"),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="K, of the trajectory, where it has no velocities that tell it."),
    ] = None,
    updates: Annotated[int | None, typer.Option("--updates", help="Optimiser updates (1200; kind flow 20000).")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Pairs per update (32).")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and order.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a propagator on a trajectory.

    Frames a lag apart are the pairs it learns from. At lags of femtoseconds they come from a harvest (see
    'fastegnn-md harvest'), whose store can be given in place of the topology. With --from the training goes on from a
    trained model, for example on several successive jumps: --set unroll=2 --set learning_rate=1e-3. Kind flow takes one
    molecule without its solvent and box (--select protein): --kind flow --lag "10 ps".
    """
    check_installed("fastegnn-md train", "lightning", *file_components(topology, *(trajectory or [])))
    from ..data.flow_lag import transitions_note
    from ..data.noise import thermostat_note
    from ..propagator.base import Propagator
    from ..training import TrainingConfig, fit
    from ..training.one_step import error_table, one_step_errors, ratios
    from ..training.processes import is_main_process
    from ..training.start import check_bonds

    flags = {
        "propagator.architecture": architecture,
        "propagator.kind": kind,
        "propagator.kicks": kicks,
        "temperature": temperature,
        "updates": updates,
        "batch_size": batch_size,
        "seed": seed,
    }
    overrides = [*(settings or []), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    chosen = TrainingConfig.from_yaml(config, overrides) if config else TrainingConfig.from_mapping({}, overrides)
    main = is_main_process(chosen.num_nodes)
    if not main:  # what the first process warns of is true of all
        warnings.simplefilter("ignore")
    if main and output.exists():
        read = [topology, *(trajectory or []), config, initial]
        check_outputs([output], read, overwrite=overwrite or resume, hint="continue with --resume")
    model = None if initial is None else Propagator.load(initial)
    if model is not None and "propagator" not in chosen.model_fields_set:
        chosen = TrainingConfig(**{**chosen.model_dump(), "propagator": model.config})
    pairs = open_pairs(
        topology,
        trajectory,
        lag=lag,
        select=select,
        dt=dt,
        velocities=velocities or ("stored" if chosen.propagator.predicts_velocities else "none"),
        store=store,
        stride=stride,
        bonds=bonds,
        friction=friction,
        isolated=chosen.propagator.stochastic,
        progress=main,
        time_reversal=chosen.time_reversal and velocities != "forward",
    )
    if main and any("cell" in store.provenance for store in pairs.stores):
        typer.echo("the box is left out: kind flow learns the molecule alone, put together across it", err=True)
    check_bonds(pairs, chosen.propagator)  # fit does, too, but after what is said here
    if main and pairs.friction is None and (note := thermostat_note(pairs)):
        typer.echo(f"{note}; --friction tells how much (0/ps: there was none), a harvest makes pairs without", err=True)
    if main and chosen.propagator.stochastic and (note := transitions_note(pairs)):
        typer.echo(note, err=True)
    training, validation, test = pairs.split(_fractions(split))
    result = fit(training, validation, chosen, output, initial=model, resume=resume)
    if not main:
        return
    errors = one_step_errors(result.propagator, test, progress=True)
    typer.echo(f"{result.propagator.describe()}, {result.updates} updates; {len(test)} test pairs:")
    typer.echo(error_table(errors))
    typer.echo(f"saved {output}")
    if max(ratios(errors).values()) >= 1.0:
        typer.echo("the model is no better than the best of the predictors that learn nothing: do not use it", err=True)


def _fractions(text: str) -> tuple[float, ...]:
    try:
        fractions = tuple(float(part) for part in text.split(","))
    except ValueError:
        fractions = ()
    if len(fractions) != 3:
        raise ConfigError(f"cannot read --split {text!r}; expected three shares, for example 0.8,0.1,0.1")
    return fractions
