"""One-step errors of a propagator beside those of the predictors it has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from .linear import LinearPredictor
from .state import State

if TYPE_CHECKING:
    from .data import TrajectoryPairs
    from .propagator import Propagator

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


def ratios(errors: dict[str, Errors]) -> Errors:
    """The learned error over the smallest of the three :data:`BASELINES`, for x and for v."""
    best_x = min(errors[name].x for name in BASELINES)
    learned = errors["learned"]
    if learned.v is None:
        return Errors(learned.x / best_x, None)
    return Errors(learned.x / best_x, learned.v / min(errors[name].v or 0.0 for name in BASELINES))


def _batches(pairs: TrajectoryPairs, chosen: list[int], size: int) -> Iterator[tuple[State, State]]:
    for begin in range(0, len(chosen), size):
        yield pairs.batch(chosen[begin : begin + size])
