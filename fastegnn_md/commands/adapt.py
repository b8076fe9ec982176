"""``fastegnn-md adapt``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._extras import check_installed
from ..errors import ConfigError
from .forcefields import calculator_factory, engine_components
from .inputs import Model, open_model, open_universe
from .outputs import Overwrite, check_outputs
from .starts import check_start
from .stepping import ase_atoms, keep_constraints, keep_labels, trained_masses
from .verdict import DOUBTFUL

if TYPE_CHECKING:
    from ..harvest import Adapted


def adapt(
    model: Model,
    start: Annotated[Path, typer.Argument(metavar="START", help="Structure that sampling starts from.")],
    calculator: Annotated[
        str, typer.Option("--calculator", help="ASE calculator: emt, lj, tblite, mace, or module:callable of your own.")
    ],
    target: Annotated[
        float, typer.Option("--target", help="Error of v over the best baseline, on bursts the model has not seen.")
    ] = 0.05,
    budget: Annotated[
        str, typer.Option("--budget", help='Largest number of calls of the engine, as "1000 calls".')
    ] = "1000 calls",
    temperature: Annotated[float, typer.Option("--temperature", help="K, of sampling and bursts.")] = 350.0,
    timestep: Annotated[str, typer.Option("--timestep", help="Of the bursts.")] = "0.5 fs",
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the adapted model.")] = Path(
        "adapted.safetensors"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of sampling, velocities and training.")] = 0,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes to share the bursts.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Adapt a trained model to your molecule and your engine.

    The engine samples starting points and runs short bursts in rounds. Each round is an exam for the model, which has
    not seen it, and then joins what it is trained on, until the error is the target or the calls are spent. The same
    command continues what was stopped.
    """
    check_installed("fastegnn-md adapt", *engine_components(calculator, None, None))
    from ..data.topology import select_atoms
    from ..engines.mdanalysis import state_from_universe
    from ..harvest import adapt as run_adapt
    from ..propagator.base import Propagator

    calls = _calls(budget)
    goes_on = output.with_suffix(".adapting").exists()
    check_outputs([output], [model, start], overwrite=overwrite or goes_on)
    propagator = open_model(model)
    assert isinstance(propagator, Propagator)  # no members were given
    group = select_atoms(open_universe(start, None), "all")
    state = state_from_universe(group, velocities="zero")
    check_start(str(start), group, state, None, propagator)
    state, _ = trained_masses(propagator, state)
    atoms = ase_atoms(state)
    keep_constraints(atoms, start, len(atoms))
    keep_labels(atoms, start)
    found = run_adapt(
        propagator,
        atoms,
        calculator_factory(calculator),
        target=target,
        budget=calls,
        temperature=temperature,
        timestep=timestep,
        output=output,
        bonds=None if state.bonds is None else state.bonds.numpy(),
        seed=seed,
        processes=processes,
    )
    for line in _lines(found):
        typer.echo(line)
    call = f"fastegnn-md run {output} {start} --calculator {calculator} --temperature {temperature:g}"
    typer.echo(f"saved {output}" + (f"; next: {call} --steps 1000 -o run.xtc" if found.reached else ""))
    if not found.reached:
        typer.echo(
            f"the target of {target:g} is not reached: give a larger --budget, and the same command goes on "
            f"(exit code {DOUBTFUL})",
            err=True,
        )
        raise typer.Exit(DOUBTFUL)


def _calls(text: str) -> int:
    found = re.fullmatch(r"\s*(\d+)\s*(calls?)?\s*", text)
    if found is None:
        raise ConfigError(f'cannot read --budget {text!r}; expected a number of calls of the engine, as "1000 calls"')
    return int(found[1])


def _lines(found: Adapted) -> list[str]:
    """What was done, what it cost, what it buys."""
    from ..training.one_step import error_table, ratios

    worth = found.worth
    lines = [
        f"round {number}: {one.bursts - one.dropped} bursts the model had not seen, error of v over the best baseline "
        f"{one.error:.3f}" + (f"; then trained for {one.training_seconds:.0f} s" if one.trained else "")
        for number, one in enumerate(found.rounds, start=1)
    ]
    if found.dropped:
        lines.append(
            f"{found.dropped} of {found.bursts} bursts ({found.dropped / found.bursts:.1%}) were dropped; in "
            f"{found.failed} the engine failed"
        )
    if unanswered := sum(one.unanswered for one in found.rounds):
        lines.append(f"{unanswered} bursts were left out of exams: the engine failed where the model led")
    if found.unchanged and found.reached:
        lines.append("the model is good enough as it is, and is saved unchanged")
    elif found.unchanged:
        lines.append("training made it no better on the last bursts: the model is saved unchanged")
    before, after = ratios(found.before)["v"], found.error
    lines.append(f"error of v over the best baseline on the last bursts: {before:.3f} before, {after:.3f} after")
    lines.append(error_table(found.after))
    lines.append(
        f"cost: {worth.calls} calls of the engine ({worth.engine_seconds:.0f} s), {worth.training_seconds:.0f} s of "
        "training"
    )
    lines.append(
        f"a call takes {1e3 * worth.call_seconds:.3g} ms, a jump {1e3 * worth.jump_seconds:.3g} ms"
        + (" and a call" if worth.calls_per_jump else "")
        + f": {worth.gain:.1f} times the speed of classical steps of 1 fs, audits not counted"
    )
    if math.isfinite(worth.pays_after_ps):
        lines.append(f"pays after {worth.pays_after_ps:.3g} ps of dynamics")
    else:
        lines.append("saves no time: this engine is faster than the jumps")
    return lines
