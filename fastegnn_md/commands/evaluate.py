"""``fastegnn-md evaluate`` and ``fastegnn-md inspect``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from .inputs import (
    Bonds,
    Dt,
    Json,
    Members,
    Model,
    Select,
    StorePath,
    Topology,
    Trajectories,
    Velocities,
    open_model,
    open_pairs,
)


def evaluate(
    model: Model,
    topology: Topology,
    trajectory: Trajectories = None,
    select: Select = "all",
    dt: Dt = None,
    velocities: Velocities = None,
    store: StorePath = None,
    bonds: Bonds = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Evaluate on at most this many, evenly spaced.")] = 4096,
    committee: Members = None,
    as_json: Json = False,
) -> None:
    """Compare one learned step with the trajectory, beside three predictors that learn nothing.

    The lag is the time step of the model. Errors are RMSE in mass-scaled units. Only frames the model was not trained
    on tell how good it is. Of a committee the mean is compared, and its spread with its errors.
    """
    from ..training.calibration import calibration_table, one_step_calibration
    from ..training.one_step import error_table, one_step_errors, ratios
    from ..training.start import check_forces

    propagator = open_model(model, committee)
    data = open_pairs(
        topology,
        trajectory,
        lag=propagator.timestep,
        select=select,
        dt=dt,
        velocities=velocities or ("stored" if propagator.predicts_velocities else "none"),
        store=store,
        bonds=bonds,
        isolated=propagator.stochastic,
        progress=not as_json,
    )
    count = min(pairs, len(data))
    chosen = [len(data) * index // count for index in range(count)]
    check_forces(data, propagator.config)
    errors = one_step_errors(propagator, data, indices=chosen, progress=not as_json)
    calibration = {}
    if propagator.has_spread:
        calibration = one_step_calibration(propagator, data, indices=chosen, progress=not as_json)
    if not as_json:
        typer.echo(f"{propagator.describe()}; {count} pairs:")
        typer.echo(error_table(errors))
        if calibration:
            typer.echo("\n" + calibration_table(calibration))
        return
    report: dict[str, Any] = {
        "timestep_ps": propagator.timestep,
        "pairs": count,
        "one_step": {name: asdict(error) for name, error in errors.items()},
        "over_best_baseline": ratios(errors),
    }
    if calibration:
        report["calibration"] = {key: asdict(one) for key, one in calibration.items()}
    typer.echo(json.dumps(report, indent=2))


def inspect(model: Model, as_json: Json = False) -> None:
    """Show what a model file says about itself: time step, elements, training data, errors."""
    from ..propagator.catalogue import find_model
    from ..propagator.file import read_manifest

    manifest = read_manifest(find_model(model)).model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(manifest, indent=2, ensure_ascii=False))
        return
    for line in _lines(manifest):
        typer.echo(line)


def _lines(values: dict[str, Any], indent: str = "") -> list[str]:
    width = max((len(key) for key in values), default=0)
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<{width}}  {_show(value)}")
    return lines


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(f"({_show(part)})" if isinstance(part, list) else _show(part) for part in value)
    return str(value)
