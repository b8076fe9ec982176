"""How far a drawn jump may reach: a lag chosen from the slow coordinates of frames that are picoseconds apart."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import units
from ..errors import DataError, MissingDependencyError, Remedy
from .internal import InternalCoordinates, fit_components

if TYPE_CHECKING:
    from .pairs import TrajectoryPairs

ENOUGH = 100  # transitions: the share of the rarer side is then known to 20 %
_FORGOTTEN = 0.05  # correlation of successive displacements
SHORTEST = 0.2  # ps; below it frames follow the swings of torsions
_LAGS_PER_PROCESS = 5  # of the slow process at least, so that its kinetics are learned and not jumped over
_ROUND = (1, 2, 5)
_PROCESSES = 3
_BLOCKS, _RESAMPLES = 20, 60
_CROWDED = 0.015  # atoms per Å³ of the cell: liquids and solids have 0.02 to 0.1, a solute without solvent 0.01


@dataclass(frozen=True)
class SlowProcess:
    """One of the slow processes.

    Attributes
    ----------
    timescale : float, ps
        Implied time scale of a time-lagged independent component of internal coordinates.
    interval : tuple of float, ps
        95 % by resampling blocks of the data.
    """

    timescale: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class FlowLagSuggestion:
    """What frames far apart say of jumps that are drawn (kind "flow").

    Attributes
    ----------
    frame_distance, length : float, ps
        Between frames; of all frames together.
    memory : float
        Correlation of a displacement with the next one, of internal distances: positive while a velocity is
        remembered.
    processes : tuple of SlowProcess
        The slowest first.
    transitions : int
        Crossings of the slowest component from one of its two sides to the other and back, each counted.
    lag : float or None
        Suggested lag, ps; None where kind "flow" is not for these frames.
    reason : str
    """

    frame_distance: float
    length: float
    memory: float
    processes: tuple[SlowProcess, ...]
    transitions: int
    lag: float | None
    reason: str

    @property
    def enough(self) -> bool:
        """Whether there are transitions enough to train on and to judge by."""
        return self.transitions >= ENOUGH

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; times in ps."""
        return {**asdict(self), "enough": self.enough}

    def __str__(self) -> str:
        time = units.format_time
        lines = [
            f"frames {time(self.frame_distance)} apart, {_long(self.length)} of them; correlation of a displacement "
            f"with the next: {self.memory:.2f}"
        ]
        for number, one in enumerate(self.processes, start=1):
            low, high = (f"{end:.3g}" for end in one.interval)
            lines.append(f"slow process {number}: {one.timescale:.3g} ps (95 %: {low} to {high} ps)")
        lines.append(f"transitions of the slowest: {self.transitions}")
        found = "none" if self.lag is None else f'--kind flow --lag "{time(self.lag)}"'
        return "\n".join([*lines, f"suggested: {found}; {self.reason}"])


def suggest_flow_lag(pairs: TrajectoryPairs, *, seed: int = 0) -> FlowLagSuggestion:
    """Choose a lag for kind "flow" from the slow coordinates of frames about a picosecond apart.

    Slow processes are time-lagged independent components of torsions and internal distances (TICA), taken at the
    longest of 1, 2, 5, 10, … frame distances of which the slowest lasts five. The suggested lag is the longest round
    number of frame distances of which the slowest process lasts five: a model of a much longer one would draw from
    equilibrium and know no kinetics.

    Parameters
    ----------
    pairs : TrajectoryPairs
        Pairs at the distance of the frames; velocities are not looked at.
    seed : int
        Of the resampling behind the intervals.

    Returns
    -------
    FlowLagSuggestion

    Raises
    ------
    DataError
        If the atoms fill a periodic box, the stores are of different molecules, or there are too few frames.
    MissingDependencyError
        If deeptime is not installed.
    """
    _check(pairs)
    coordinates = InternalCoordinates(pairs.stores[0].topology)
    runs, displaced = [], np.zeros(2)
    for store in pairs.stores:
        for first, last in store.segments:
            x = np.asarray(store.positions[first:last])
            runs.append(coordinates(x).astype(np.float32))
            step = np.diff(coordinates.distances(x), axis=0)
            displaced += [np.sum(step[1:] * step[:-1]), np.sum(step[1:] ** 2)]
    dt, frames = pairs.lag, sum(map(len, runs))
    memory = float(displaced[0] / displaced[1]) if displaced[1] > 0 else 1.0
    length = dt * sum(len(run) - 1 for run in runs)
    if dt < SHORTEST or memory > _FORGOTTEN:
        reason = (
            f"frames {units.format_time(dt)} apart follow the velocities, and a jump that is predicted serves: save "
            "velocities, or harvest bursts with them (fastegnn-md harvest), and choose a lag by these"
        )
        return FlowLagSuggestion(dt, length, memory, (), 0, None, reason)
    processes, slow = _processes(runs, dt, np.random.default_rng(seed))
    transitions = _transitions(slow)
    slowest = processes[0].timescale
    multiple = _rounded(slowest / _LAGS_PER_PROCESS / dt)
    longest = max(map(len, runs)) - 1
    while multiple > 1 and (multiple > longest or multiple * 20 > frames):
        multiple = _rounded(multiple - 1)
    reason = _reason(slowest, dt * multiple, length, transitions)
    if pairs.periodic:
        reason += "; train takes the molecule out of its box for kind flow (isolated=True of TrajectoryPairs)"
    return FlowLagSuggestion(dt, length, memory, processes, transitions, dt * multiple, reason)


def transitions_note(pairs: TrajectoryPairs) -> str:
    """A sentence where trajectories hold too few transitions of their slowest process to learn from; else nothing.

    Nothing, too, where that cannot be told: of several molecules, of few frames, and without deeptime.
    """
    stores = pairs.stores
    if len({store.topology.sha256 for store in stores}) > 1:
        return ""
    try:
        coordinates = InternalCoordinates(stores[0].topology)
        runs = [
            coordinates(np.asarray(store.positions[first:last])).astype(np.float32)
            for store in stores
            for first, last in store.segments
        ]
        _, slow, _ = _components(runs)
    except (DataError, MissingDependencyError):
        return ""
    found = _transitions(slow)
    if found >= ENOUGH:
        return ""
    length = sum(store.dt * (last - first - 1) for store in stores for first, last in store.segments)
    return (
        f"the slowest process of these trajectories has {found} transitions in {_long(length)}, too few to learn how "
        f"often it happens: simulate until there are {ENOUGH}"
    )


def _check(pairs: TrajectoryPairs) -> None:
    if len({store.topology.sha256 for store in pairs.stores}) > 1:
        raise DataError("the stores are of different molecules, whose slow processes differ; ask for one at a time")
    for store in pairs.stores:
        if not store.periodic:
            continue
        crowd = store.n_atoms / abs(float(np.linalg.det(np.asarray(store.cells[0], dtype=np.float64))))
        if crowd > _CROWDED:
            raise DataError(
                Remedy(
                    f"the {store.n_atoms} atoms fill their periodic box; jumps of picoseconds are drawn for isolated "
                    "molecules, as a solute without its solvent (kind flow). Select it: ",
                    "select='protein' (or what it is)",
                    "--select protein (or what it is)",
                )
            )


def _processes(
    runs: list[np.ndarray], dt: float, rng: np.random.Generator
) -> tuple[tuple[SlowProcess, ...], list[np.ndarray]]:
    """Slow processes, and the components of each run, the slowest first."""
    model, few, lag = _components(runs)
    # The coordinates stay, so that resampled blocks tell how well the time scales in them are known.
    size = max(2 * lag + 2, sum(map(len, few)) // _BLOCKS)
    blocks = [block for run in few for block in np.array_split(run, max(1, len(run) // size))]
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = [blocks[k] for k in rng.integers(len(blocks), size=len(blocks))]
        drawn.append(dt * _timescales(fit_components(chosen, lag, few[0].shape[1]), few[0].shape[1]))
    found = dt * _timescales(model, few[0].shape[1])
    low, high = np.nanquantile(np.array(drawn), (0.025, 0.975), axis=0)
    processes = tuple(
        SlowProcess(float(one), (float(min(one, a)), float(max(one, b))))
        for one, a, b in zip(found, low, high, strict=True)
        if math.isfinite(one)
    )
    return processes, few


def _components(runs: list[np.ndarray]) -> tuple[Any, list[np.ndarray], int]:
    """Slow components, their values in each run that is long enough, and their lag in frames."""
    longest, most = max(map(len, runs)), sum(map(len, runs))
    if longest < 50:
        raise DataError(
            f"the longest run has {longest} frames, too few to see slow processes in; give at least 50 in one piece"
        )
    lag, model = 1, None
    for lag_tried in (k * 10**e for e in range(6) for k in _ROUND):
        usable = [run for run in runs if len(run) > lag_tried]
        if not usable or 20 * lag_tried > most:
            break
        tried = fit_components(usable, lag_tried, _PROCESSES)
        if model is not None and _LAGS_PER_PROCESS * lag_tried > model.timescales()[0]:
            break
        lag, model = lag_tried, tried
    if model is None:
        raise DataError(f"{most} frames are too few to see slow processes in")
    return model, [model.transform(run) for run in runs if len(run) > lag], lag


def _transitions(components: list[np.ndarray]) -> int:
    """Of the slowest component, run by run."""
    slow = [run[:, 0] for run in components]
    sides = _sides(np.concatenate(slow))
    return sum(_crossings(one, sides) for one in slow)


def _timescales(model: Any, count: int) -> np.ndarray:
    """Time scales in frames, as many as asked for."""
    found = np.full(count, np.nan)
    known = np.asarray(model.timescales(), dtype=np.float64)[:count]
    found[: len(known)] = known
    return found


def _sides(values: np.ndarray) -> tuple[float, float]:
    """Where the two sides of a coordinate begin: a quarter of the way in from the means of both halves of 2-means."""
    low, high = float(values.min()), float(values.max())
    for _ in range(100):
        middle = 0.5 * (low + high)
        below = values < middle
        if not below.any() or below.all():
            break
        moved = float(values[below].mean()), float(values[~below].mean())
        if np.allclose(moved, (low, high), rtol=1e-6):
            break
        low, high = moved
    return low + 0.25 * (high - low), high - 0.25 * (high - low)


def _crossings(values: np.ndarray, sides: tuple[float, float]) -> int:
    """How often a run comes from one side to the other; what wanders between them counts once it arrives."""
    place = np.where(values < sides[0], -1, np.where(values > sides[1], 1, 0))
    place = place[place != 0]
    return int(np.count_nonzero(np.diff(place)))


def _rounded(multiple: float) -> int:
    """A whole number of one digit and zeros that is not larger; 1 at least."""
    if multiple < 1:
        return 1
    power = 10 ** math.floor(math.log10(multiple))
    return int(multiple / power) * power


def _reason(slowest: float, lag: float, length: float, transitions: int) -> str:
    time = units.format_time
    said = "velocities are forgotten between frames, so a jump has to be drawn; "
    if slowest < _LAGS_PER_PROCESS * lag:
        said += (
            f"the slowest process takes {slowest:.3g} ps, less than {_LAGS_PER_PROCESS} frames: even this lag comes "
            "near an equilibrium draw, which has populations and no kinetics"
        )
    else:
        said += (
            f"the slowest process takes {slowest:.3g} ps, {slowest / lag:.0f} such jumps: it is learned as kinetics. A "
            f"lag much beyond {time(float(f'{slowest:.2g}'))} would be an equilibrium draw: populations, no kinetics"
        )
    error = 2.0 / math.sqrt(max(transitions, 1))
    if transitions >= ENOUGH:
        return (
            f"{said}. {transitions} transitions are enough to train on; the share of the rarer side is known to "
            f"{error:.0%}, and with half of the data kept for the judgement to {math.sqrt(2) * error:.0%}"
        )
    known = f"is known to {error:.0%} only" if error < 1 else "is not known"
    return (
        f"{said}. {transitions} transitions in {_long(length)} are too few to train on or to judge by (the share of "
        f"the rarer side {known}): simulate until there are {ENOUGH}"
    )


def _long(length: float) -> str:
    return f"{length / 1000:.3g} ns" if length >= 1000 else units.format_time(float(f"{length:.3g}"))
