"""One-step errors of a propagator beside those of the predictors it has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from .linear import LinearPredictor
from .state import State

if TYPE_CHECKING:
    from .data import TrajectoryPairs
    from .propagator import Propagator

_UNITS = {"x": "amu^½ Å", "v": "amu^½ Å/ps"}
BASELINES = ("zero motion", "free flight", "best linear")


@dataclass(frozen=True)
class Errors:
    """RMSE in mass-scaled units, √(Σ m |Δ|² / 3N).

    Attributes
    ----------
    x : float
        amu^½ Å.
    v : float or None
        amu^½ Å/ps; None where velocities are not predicted.
    """

    x: float
    v: float | None


def one_step_errors(
    propagator: Propagator,
    pairs: TrajectoryPairs,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> dict[str, Errors]:
    """Errors of a propagator and of the baselines on the same pairs.

    Zero motion: x′ = x, v′ = v. Free flight: x′ = x + v Δt, v′ = v. Best linear: the coefficients per element of
    :mod:`fastegnn_md.linear` fitted on these very pairs, so it is a lower bound of what any such predictor reaches;
    with force only for force-informed propagators, as a row of its own.

    Parameters
    ----------
    propagator : Propagator
    pairs : TrajectoryPairs
    indices : sequence of int, optional
        Pairs to use; all by default.
    batch_size : int
        Pairs per call.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to Errors
        ``"learned"``, the names of :data:`BASELINES` and, where forces are used, ``"best linear with force"``.
    """
    chosen = list(range(len(pairs))) if indices is None else list(indices)
    full = propagator.predicts_velocities
    starts, ends, sums = [], [], torch.zeros(2, dtype=torch.float64)
    for start, end in tqdm(
        _batches(pairs, chosen, batch_size), total=-(-len(chosen) // batch_size), disable=not progress, desc="evaluate"
    ):
        with torch.no_grad():
            propagator.check(start)
            residual = propagator.residual(start, end)
            scale = propagator.residual_scale(start)
        sums[0] += (residual.x * scale[:, :1]).double().square().sum()
        if residual.v is not None:
            sums[1] += (residual.v * scale[:, 1:]).double().square().sum()
        starts.append(start)
        ends.append(end)
    start, end = State.concatenate(starts), State.concatenate(ends)
    start, end = start.to(dtype=torch.float64), end.to(dtype=torch.float64)
    count = 3 * start.n_atoms
    errors = {"learned": Errors(float((sums[0] / count).sqrt()), float((sums[1] / count).sqrt()) if full else None)}
    errors.update(baseline_errors(start, end, pairs.lag, velocities=full, forces=propagator.needs_forces))
    return errors


def baseline_errors(
    start: State, end: State, timestep: float, *, velocities: bool, forces: bool = False
) -> dict[str, Errors]:
    """Errors of the baselines on a batch of pairs; see :func:`one_step_errors`.

    Without velocities (position mode) free flight is zero motion, and the best linear predictor of a displacement from
    nothing is zero motion too: all three are then the same number.
    """
    root = start.masses.sqrt()[:, None]
    moved = end.positions - start.positions
    flight = start.velocities * timestep if velocities else torch.zeros_like(moved)
    species = torch.unique(start.numbers, return_inverse=True)[1]

    def error(displacement: Tensor, velocity: Tensor) -> Errors:
        x = (root * (displacement - moved)).square().mean().sqrt()
        v = (root * (velocity - end.velocities)).square().mean().sqrt()
        return Errors(float(x), float(v) if velocities else None)

    found = {
        "zero motion": error(torch.zeros_like(moved), start.velocities),
        "free flight": error(flight, start.velocities),
    }
    for name, with_forces in (("best linear", False), ("best linear with force", True)):
        if with_forces and not forces:
            continue
        predictor = LinearPredictor(int(species.max()) + 1, timestep).to(start.dtype)
        predictor.fit(start, end, species, velocities=velocities, forces=with_forces)
        found[name] = error(*predictor(start if with_forces else start.replace(forces=None), species))
    return found


def lowest_baseline(errors: Mapping[str, Errors]) -> dict[str, float]:
    """Lowest RMSE of the three baselines, ``{"x": amu^½ Å, "v": amu^½ Å/ps}``; "v" only where there is one."""
    lowest = {"x": min(errors[name].x for name in BASELINES)}
    velocities = [v for name in BASELINES if (v := errors[name].v) is not None]
    return lowest | ({"v": min(velocities)} if velocities else {})


def over_baseline(learned: Mapping[str, float], lowest: Mapping[str, float]) -> dict[str, float]:
    """Learned error over the lowest baseline; finite even where a baseline is exact (free particles)."""
    return {key: value / max(lowest[key], 1e-12) for key, value in learned.items()}


def error_table(errors: Mapping[str, Errors]) -> str:
    """One-step errors as lines of text: each predictor, its RMSE, and the learned error over it.

    Parameters
    ----------
    errors : mapping of str to Errors
        As :func:`fastegnn_md.baselines.one_step_errors` returns them.

    Returns
    -------
    str
        A table of fixed width, without a final line break.
    """
    learned = errors["learned"]
    keys = ["x"] if learned.v is None else ["x", "v"]
    width = max(len(name) for name in errors)
    head = "".join(f"  {key + ' / ' + _UNITS[key]:>16}  {'learned / it':>12}" for key in keys)
    lines = [f"{'one-step RMSE':<{width}}{head}"]
    for name, error in errors.items():
        line = f"{name:<{width}}"
        for key in keys:
            value, own = getattr(error, key), getattr(learned, key)
            ratio = "" if name == "learned" or not value else f"{own / value:.3f}"
            line += f"  {value:>16.5g}  {ratio:>12}" if value is not None else f"  {'':>16}  {'':>12}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def ratios(errors: Mapping[str, Errors]) -> dict[str, float]:
    """Learned error over the lowest of the three baselines, ``{"x": …, "v": …}``; "v" only where there is one."""
    learned = {key: value for key, value in asdict(errors["learned"]).items() if value is not None}
    return over_baseline(learned, lowest_baseline(errors))


def _batches(pairs: TrajectoryPairs, chosen: list[int], size: int) -> Iterator[tuple[State, State]]:
    for begin in range(0, len(chosen), size):
        yield pairs.batch(chosen[begin : begin + size])
