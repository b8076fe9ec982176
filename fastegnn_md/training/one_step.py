"""One-step errors of a propagator beside those of the predictors it has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._progress import Bar, progress_bar
from ..propagator.flow import FlowPropagator
from ..propagator.linear import LeastSquares, LinearPredictor
from ..state import State
from .batches import pairs_for

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from ..propagator.learned_map import LearnedMap

_UNITS = {"x": "amu^½ Å", "v": "amu^½ Å/ps"}
# Bounds the memory of one call.
_ATOMS_PER_BATCH = 50_000

BASELINES = ("zero motion", "free flight", "best linear")
# Of a stochastic map: the flow whose draws are a Gaussian about the present positions, as wide as the data are.
GAUSSIAN = "Gaussian"


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
    propagator: LearnedMap,
    pairs: TrajectoryPairs,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> dict[str, Errors]:
    """Errors of a propagator and of the baselines on the same pairs.

    Zero motion: x′ = x, v′ = v. Free flight: x′ = x + v Δt, v′ = v. Best linear: the coefficients per element of
    :mod:`fastegnn_md.propagator.linear` fitted on these very pairs, so it is a lower bound of what any such
    predictor reaches; with force only for force-informed propagators, as a row of its own.

    Parameters
    ----------
    propagator : LearnedMap
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
        ``"learned"``, the names of :data:`BASELINES` and, where forces are used, ``"best linear with force"``. Of a
        stochastic map ``"learned"`` and :data:`GAUSSIAN`, errors of the field at drawn places, without unit.
    """
    chosen = list(range(len(pairs))) if indices is None else list(indices)
    pairs = pairs_for(propagator.config, pairs)
    if isinstance(propagator, FlowPropagator):
        return _field_errors(propagator, pairs, chosen, batch_size, progress)
    full, forces = propagator.predicts_velocities, propagator.wants_forces is not None
    baselines = _Baselines(propagator.domain.species, pairs.lag, velocities=full, forces=forces)
    sums = {"learned": _Sum()}
    with progress_bar(total=2 * len(chosen), disable=not progress, desc="errors", unit="pair") as bar:
        for start, end in batches(pairs, chosen, batch_size, bar):
            propagator.check(start)
            baselines.add(start.replace(forces=propagator.forces_of(start)), end)
        for start, end in batches(pairs, chosen, batch_size, bar):
            with torch.no_grad():
                residual, scale = propagator.residual(start, end), propagator.residual_scale(start)
            sums["learned"].add(residual.x * scale[:, :1], None if residual.v is None else residual.v * scale[:, 1:])
            baselines.compare(start.replace(forces=propagator.forces_of(start)), end, sums)
    return {name: total.errors() for name, total in sums.items()}


def _field_errors(
    propagator: FlowPropagator, pairs: TrajectoryPairs, chosen: Sequence[int], batch_size: int, progress: bool
) -> dict[str, Errors]:
    sums = {"learned": _Sum(), GAUSSIAN: _Sum()}
    with progress_bar(total=len(chosen), disable=not progress, desc="errors", unit="pair") as bar:
        for start, end in batches(pairs, chosen, batch_size, bar):
            propagator.check(start)
            with torch.no_grad():
                sums["learned"].add(propagator.residual(start, end).x, None)
                sums[GAUSSIAN].add(propagator.targets(start, end), None)
    return {name: total.errors() for name, total in sums.items()}


class _Sum:
    """Sum of squares of mass-scaled errors."""

    def __init__(self) -> None:
        self.x = self.v = 0.0
        self.count = 0
        self.velocities = True

    def add(self, x: Tensor, v: Tensor | None) -> None:
        self.count += x.numel()
        self.x += float(x.double().square().sum())
        self.velocities = v is not None
        if v is not None:
            self.v += float(v.double().square().sum())

    def errors(self) -> Errors:
        return Errors((self.x / self.count) ** 0.5, (self.v / self.count) ** 0.5 if self.velocities else None)


class _Baselines:
    """The predictors without learning: the linear ones are fitted in a first pass, all are compared in a second."""

    def __init__(self, species: Sequence[int], timestep: float, *, velocities: bool, forces: bool):
        self.species, self.timestep, self.velocities = torch.tensor(species), timestep, velocities
        names = ("best linear", "best linear with force") if forces else ("best linear",)
        self._fits = {
            name: LeastSquares(len(species), timestep, velocities=velocities, forces=name != "best linear")
            for name in names
        }
        self._predictors: dict[str, LinearPredictor] = {}

    def add(self, start: State, end: State) -> None:
        for fit in self._fits.values():
            fit.add(start, end, self._index(start))

    def compare(self, start: State, end: State, sums: dict[str, _Sum]) -> None:
        start, end = start.to(dtype=torch.float64), end.to(dtype=torch.float64)
        nothing = torch.zeros_like(start.positions)
        flight = start.velocities * self.timestep if self.velocities else nothing
        predictions = {"zero motion": (nothing, start.velocities), "free flight": (flight, start.velocities)}
        for name, fit in self._fits.items():
            if name not in self._predictors:
                predictor = LinearPredictor(len(self.species), self.timestep).double()
                predictor.coefficients.copy_(fit.solve())
                self._predictors[name] = predictor
            seen = None if name == "best linear" else start.forces
            predictions[name] = self._predictors[name](start.velocities, seen, start.masses, self._index(start))
        root = start.masses.sqrt()[:, None]
        moved = end.positions - start.positions
        for name, (displacement, velocity) in predictions.items():
            error_v = root * (velocity - end.velocities) if self.velocities else None
            sums.setdefault(name, _Sum()).add(root * (displacement - moved), error_v)

    def _index(self, state: State) -> Tensor:
        return torch.searchsorted(self.species, state.numbers.cpu())


def lowest_baseline(errors: Mapping[str, Errors]) -> dict[str, float]:
    """Lowest RMSE of the baselines, ``{"x": amu^½ Å, "v": amu^½ Å/ps}``; "v" only where there is one."""
    names = [name for name in (*BASELINES, GAUSSIAN) if name in errors]
    lowest = {"x": min(errors[name].x for name in names)}
    velocities = [v for name in names if (v := errors[name].v) is not None]
    return lowest | ({"v": min(velocities)} if velocities else {})


def over_baseline(learned: Mapping[str, float], lowest: Mapping[str, float]) -> dict[str, float]:
    """Learned error over the lowest baseline; finite even where a baseline is exact (free particles)."""
    return {key: value / max(lowest[key], 1e-12) for key, value in learned.items()}


def error_table(errors: Mapping[str, Errors]) -> str:
    """One-step errors as lines of text: each predictor, its RMSE, and the learned error over it.

    Parameters
    ----------
    errors : mapping of str to Errors
        As :func:`fastegnn_md.training.one_step.one_step_errors` returns them.

    Returns
    -------
    str
        A table of fixed width, without a final line break.
    """
    learned = errors["learned"]
    keys = ["x"] if learned.v is None else ["x", "v"]
    width = max(len(name) for name in errors)
    names = ["field"] if GAUSSIAN in errors else [f"{key} / {_UNITS[key]}" for key in keys]
    head = "".join(f"  {name:>16}  {'learned / it':>12}" for name in names)
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


def batches(pairs: TrajectoryPairs, chosen: Sequence[int], size: int, bar: Bar) -> Iterator[tuple[State, ...]]:
    """Batches of the chosen pairs, counted by a progress bar; smaller ones of large systems, to bound memory."""
    size = max(1, min(size, _ATOMS_PER_BATCH // pairs.n_atoms))
    for begin in range(0, len(chosen), size):
        yield pairs.batch(chosen[begin : begin + size])
        bar.update(len(chosen[begin : begin + size]))
