"""What a run was like, at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..integrators import JumpStatistics, MetropolisStatistics
    from ..integrators.verdict import RunVerdict
    from .continuing import Place

DOUBTFUL = 3  # exit code of a run that went through and should not be trusted


def became(statistics: JumpStatistics | MetropolisStatistics) -> str:
    """What became of the jumps, in words."""
    from ..integrators import MetropolisStatistics

    if isinstance(statistics, MetropolisStatistics):
        return f"{statistics.accepted} accepted"
    refused, redrawn = statistics.rejected, statistics.redrawn
    return (
        f"{sum(refused.values())} refused"
        + "".join(f", {count} by the {guard} guard" for guard, count in refused.items())
        + (f", {statistics.fallback_steps} classical sub-steps" if refused else "")
        + (f"; {statistics.redraws} redraws ({statistics.redraw_share:.1%})" if redrawn else "")
        + "".join(f", {count} for the {guard} guard" for guard, count in redrawn.items())
    )


def speed(picoseconds: float, seconds: float) -> str:
    """How much was simulated, and how fast."""
    nanoseconds = 1e-3 * picoseconds
    return f"{nanoseconds:.4g} ns in {seconds:.3g} s, {60 * nanoseconds / max(seconds, 1e-9):.3g} ns per minute"


def tell_no_thermostat() -> None:
    """Say that energy is constant, where nobody asked for it."""
    typer.echo(
        "no thermostat (NVE), from the velocities of START: --temperature brings one, --nve says that none is meant",
        err=True,
    )


def tell_span(place: Place) -> None:
    """Print of a continued run which steps are meant by what."""
    if place.restart is not None:
        typer.echo(
            f"jumps and audits are those of all {place.steps} steps; temperatures, volumes and speed those of steps "
            f"{place.step + 1} to {place.steps}, since {place.restart.name}"
        )


def tell_volumes(statistics: JumpStatistics, volumes: Sequence[float]) -> None:
    """Print what became of a barostat's moves, and the mean of the volumes (Å³) of the second half."""
    settled = volumes[len(volumes) // 2 :]
    typer.echo(
        f"{statistics.volume_moves} changes of the volume tried, {statistics.volume_accepted} accepted; mean volume of "
        f"the second half {sum(settled) / len(settled):.6g} A^3"
    )


def tell(verdict: RunVerdict) -> None:
    """Print temperatures and audits, and what speaks against the run; with exit code 3 if anything does."""
    for line in verdict.lines:
        typer.echo(line)
    for reason in verdict.warnings:
        typer.echo(f"warning: {reason}", err=True)
    if verdict.warnings:
        typer.echo("the files are whole, but this run should not be trusted (exit code 3)", err=True)
        raise typer.Exit(DOUBTFUL)
