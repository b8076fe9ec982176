"""The report of the demo: its numbers as tables, its trajectories as pictures."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import MDAnalysis as mda
import numpy as np
from MDAnalysis.analysis.dihedrals import Ramachandran

from ..report.page import Picture, Section, Table, new_figure, write_report
from ..training.one_step import BASELINES, ratios

if TYPE_CHECKING:
    from .records import DemoResult, LearnedRun

# One-step errors over the best baseline that a short training is meant to reach, for x and for v.
GOALS = {"force-free": 0.5, "force-informed": 0.25}


def write_demo_report(path: Path, result: DemoResult, universe: mda.Universe) -> None:
    """Write the report of a finished demo."""
    settings = result.settings
    assert result.run is not None  # the demo writes its report last
    summary = (
        f"Two FastEGNN propagators with Δt = {settings.lag} were trained in {settings.updates} updates of "
        f"{settings.batch_size} pairs each, and the {result.chosen} one made {settings.jumps} jumps under a Langevin "
        f"thermostat at {settings.temperature:g} K. Every number below was measured in this run, on {_machine()}."
    )
    sections = [
        _errors(result),
        _training(result),
        _dynamics(result, result.run, universe),
        _speed(result, result.run),
    ]
    write_report(path, "fastegnn_md: alanine dipeptide, amber14 in vacuum", summary, sections)


def _machine() -> str:
    return f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}"


def _errors(result: DemoResult) -> Section:
    rows: list[list[object]] = []
    for name, errors in result.errors.items():
        best = {"x": min(errors[b].x for b in BASELINES), "v": min(errors[b].v or 0.0 for b in BASELINES)}
        for predictor, error in errors.items():
            label = f"{name} propagator" if predictor == "learned" else predictor
            if predictor in BASELINES and name != next(iter(result.errors)):
                continue  # the same pairs, the same numbers
            v = error.v or 0.0
            rows.append([label, error.x, v, error.x / best["x"], v / best["v"]])
    columns = ["predictor", "x, amu^½ Å", "v, amu^½ Å/ps", "x over best baseline", "v over best baseline"]
    caption = (
        "Root-mean-square error, mass-scaled. Baselines: zero motion, free flight, and the best linear predictor per "
        "element fitted on the very pairs it is judged on. 'Best linear with force' also sees the force."
    )
    goals = "; ".join(
        f"{name}: {max(ratios(result.errors[name]).values()):.3f} (goal {goal})" for name, goal in GOALS.items()
    )
    counts = ", ".join(f"{count} {name}" for name, count in result.pairs.items())
    return Section(
        "One-step errors on held-out bursts",
        [
            f"Pairs, time-reversed ones included: {counts}. Held-out bursts start from later frames than all others.",
            f"Worse of x and v over the best of the three baselines: {goals}.",
        ],
        [Table(columns, rows, caption)],
    )


def _training(result: DemoResult) -> Section:
    figure, (axes,) = new_figure(7.0, 3.2)
    for (name, rows), colour in zip(result.histories.items(), ("tab:blue", "tab:orange"), strict=True):
        updates = [row["update"] for row in rows]
        for key, style in (("x", "--"), ("v", "-")):
            values = [row[f"{key} over best baseline"] for row in rows]
            axes.plot(updates, values, style, color=colour, label=f"{name}, {key}")
    axes.set(xlabel="updates", ylabel="error over best baseline", yscale="log")
    axes.legend(fontsize=8)
    return Section(
        "Training",
        ["Errors on validation bursts over the best of the three baselines, during training."],
        figures=[Picture.of(figure, "Validation errors during training")],
    )


def _dynamics(result: DemoResult, run: LearnedRun, universe: mda.Universe) -> Section:
    settings, statistics = result.settings, run.statistics
    rejected = ", ".join(f"{count} by {guard}" for guard, count in statistics.rejected.items()) or "none"
    reference, learned = result.reference_energy, run.energy
    text = [
        f"{statistics.tried} jumps, {statistics.accepted} accepted; refused: {rejected}; {statistics.fallback_steps} "
        f"classical sub-steps took their place. Friction {settings.friction:g}/ps.",
        f"Potential energy: {learned.mean():.1f} ± {learned.std():.1f} kJ/mol, classical reference "
        f"{reference.mean():.1f} ± {reference.std():.1f} kJ/mol (mean ± standard deviation over frames; the "
        f"learned run spans {settings.jumps * float(settings.lag.split()[0]) / 1000:g} ps, the reference "
        f"{settings.frames * settings.frame_every * settings.classical_step:g} ps).",
    ]
    rows = [
        [symbol, temperature, run.reference_temperature[symbol], temperature / run.reference_temperature[symbol]]
        for symbol, temperature in run.temperature.items()
    ]
    caption = (
        "2 K / 3 N k_B of each element, not corrected for constraints; the reference are Maxwell-Boltzmann velocities "
        "on the same constraints."
    )
    table = Table(["element", "learned run, K", "reference, K", "ratio"], rows, caption)
    figures = [_energy_figure(reference, learned, settings.lag), _ramachandran_figure(universe, run)]
    return Section("Learned dynamics", text, [table], figures)


def _energy_figure(reference: np.ndarray, learned: np.ndarray, lag: str) -> Picture:
    figure, (left, right) = new_figure(9.0, 3.0, panels=2)
    left.plot(np.arange(len(learned)), learned, linewidth=0.7)
    left.set(xlabel=f"jumps of {lag}", ylabel="potential energy, kJ/mol")
    bins = np.linspace(min(reference.min(), learned.min()), max(reference.max(), learned.max()), 40)
    right.hist(reference, bins, density=True, alpha=0.5, label="classical reference")
    right.hist(learned, bins, density=True, alpha=0.5, label="learned run")
    right.set(xlabel="potential energy, kJ/mol", ylabel="density")
    right.legend(fontsize=8)
    return Picture.of(figure, "Potential energy of the learned run and its distribution beside the reference")


def _ramachandran_figure(universe: mda.Universe, run: LearnedRun) -> Picture:
    figure, panels = new_figure(7.0, 3.4, panels=2)
    learned = mda.Universe(str(run.topology), str(run.trajectory))
    for axes, frames, name in zip(panels, (universe, learned), ("classical reference", "learned run"), strict=True):
        angles = Ramachandran(frames.select_atoms("resname ALA")).run().results.angles[:, 0]
        axes.scatter(*angles.T, s=2, linewidths=0)
        axes.set(
            xlim=(-180, 180), ylim=(-180, 180), xlabel="φ, degrees", ylabel="ψ, degrees", title=name, aspect="equal"
        )
    return Picture.of(figure, "Backbone torsions of the reference and of the learned run")


def _speed(result: DemoResult, run: LearnedRun) -> Section:
    lag, step = result.settings.lag, result.settings.classical_step
    rows = [[f"one jump of {lag}, everything included", run.ms_per_jump]]
    rows += [[f"{lag} of classical steps of {1e3 * step:g} fs: {name}", ms] for name, ms in result.classical_ms.items()]
    stages = [[name, seconds] for name, seconds in result.seconds.items()]
    stages.append(["sum", sum(result.seconds.values())])
    return Section(
        "Speed",
        [
            "A force field of 22 atoms is far cheaper than any network: here a jump loses to the classical steps it "
            "replaces. It gains where a force call costs more than a jump."
        ],
        [Table(["", "ms"], rows), Table(["stage", "seconds"], stages)],
    )
