"""Checks of the propagator itself and of what was recorded during roll-outs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import binomtest

from ..data.noise import thermostat_note
from ..errors import DataError
from ..mechanics.thermal import thermal_velocities
from ..report.page import Table
from ..training.calibration import one_step_calibration
from ..training.one_step import BASELINES, Errors, one_step_errors
from ..training.start import check_forces
from .case import PIECES, Case
from .engine import NO_ENGINE, Engine
from .observables.drift import energy_drift
from .observables.ensembles import ensemble_check
from .observables.reversibility import round_trip
from .rows import Finding, Plot
from .statistics import CONFIDENCE, Sample, bootstrap_interval

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from ..state import State
    from .rollouts import Record, RollOuts

FALLBACK = 0.01  # share of jumps that guards refuse
DRIFT = 0.02  # 1/ps: one standard deviation of the kinetic energy in 50 ps
ROUND_TRIP = 0.1
CALIBRATION = 2.0  # error over spread
ENSEMBLE = 3.0  # standard errors
_PAIRS, _STATES = 2048, 20
_NO_ROLLOUTS = "the learned trajectories were given, not made here"


def one_step(case: Case) -> Finding:
    """Error of one jump over that of the best of three baselines; the worse of x and v."""
    pairs, chosen = _held_out(case)
    count = len(chosen)
    errors = one_step_errors(case.propagator, pairs, chosen, progress=case.progress)
    blocks = []
    for block in np.array_split(np.array(chosen), min(2 * PIECES, count)):
        found = one_step_errors(case.propagator, pairs, block.tolist())
        blocks.append(Sample(_squares(found), len(block)))

    def worst(squares: np.ndarray) -> float:
        best = squares[1:].min(axis=0)
        return float(np.sqrt(max(a / max(b, 1e-24) for a, b in zip(squares[0], best, strict=True))))

    learned = errors["learned"]
    rows = []
    for name, error in errors.items():
        ratio_v = learned.v / error.v if learned.v is not None and error.v else None
        rows.append([name, error.x, error.v, learned.x / error.x if error.x else None, ratio_v])
    columns = ["predictor", "x, amu^½ Å", "v, amu^½ Å/ps", "learned over it, x", "learned over it, v"]
    caption = f"Mass-scaled RMSE of {count} pairs. The best linear predictor is fitted on these very pairs."
    note = "limit: stated; from 1 on the network is worth nothing"
    if pairs.fingerprint == case.propagator.fingerprint:
        note += "; the pairs of its training are among these"
    noise = thermostat_note(pairs)
    if noise:
        note += f"; {noise}"
    return Finding(
        worst(_squares(errors)),
        1.0,
        note,
        interval=bootstrap_interval(blocks, worst, case.rng),
        tables=(Table(columns, rows, caption),),
    )


def calibration(case: Case) -> Finding:
    """RMS of the errors of one jump over the spread of the committee; the worse of x and v."""
    if not case.propagator.has_spread:
        raise DataError("one propagator has no spread; give further ones with --committee")
    pairs, chosen = _held_out(case)
    found = one_step_calibration(case.propagator, pairs, chosen, progress=case.progress)
    columns = ["", "RMS error / spread", "slope", "rank correlation", "within 1 spread", "within 2 spreads"]
    rows: list[list[object]] = [
        [key, one.z_rms, one.slope, one.rank_correlation, one.within_one, one.within_two] for key, one in found.items()
    ]
    rows.append(["perfect", 1.0, 1.0, None, 0.683, 0.954])
    return Finding(
        max(one.z_rms for one in found.values()),
        CALIBRATION,
        "limit: stated; above 1 the committee is too sure",
        tables=(Table(columns, rows, f"Errors of atoms in {len(chosen)} pairs against the spread of the members."),),
        plots=tuple(
            Plot(
                np.array(one.spread),
                {"error": np.array(one.error), "error = spread": np.array(one.spread)},
                f"spread of {key}, residual scales",
                "RMS error",
            )
            for key, one in found.items()
        ),
    )


def _held_out(case: Case) -> tuple[TrajectoryPairs, list[int]]:
    """The pairs of a case, and those to look at."""
    if case.pairs is None:
        raise DataError("there are no pairs; give --pairs")
    pairs = case.pairs() if callable(case.pairs) else case.pairs
    check_forces(pairs, case.propagator.config)
    count = min(_PAIRS, len(pairs))
    return pairs, [len(pairs) * index // count for index in range(count)]


def _squares(errors: Mapping[str, Errors]) -> np.ndarray:
    """Mean squares of x and v of the propagator and of the baselines, shape (4, 2); zero for what is not predicted."""
    return np.array([[errors[name].x ** 2, (errors[name].v or 0.0) ** 2] for name in ("learned", *BASELINES)])


def drift(case: Case) -> Finding:
    """|slope| of the total energy at constant energy over the standard deviation of the kinetic energy."""
    record = _rollouts(case).nve
    if record is None:
        raise DataError(NO_ENGINE if case.atoms is None or case.atoms.calc is None else "no NVE roll-out was asked for")
    if record.stopped:
        raise DataError(f"the NVE roll-out stopped: {record.stopped}")
    energy = record.potential + record.kinetic
    n_atoms = len(record.run.atoms)
    found = energy_drift(record.times, energy, record.kinetic, n_atoms)
    value = abs(found.over_fluctuation)
    span = float(record.times[-1])
    refused = record.statistics.tried - record.statistics.accepted
    rows: list[list[object]] = [
        ["slope, kJ/mol/ps per atom", found.per_atom],
        ["slope over std(K), 1/ps", found.over_fluctuation],
        ["span, ps", span],
        ["jumps refused and replaced by classical steps", refused],
    ]
    plot = Plot(record.times, {"learned": energy - energy[0]}, "time / ps", "E − E₀ / kJ/mol")
    short = "" if span >= 50 else f"; {span:g} ps are short for a drift, 50 ps are usual"
    return Finding(
        value,
        DRIFT,
        "limit: stated, one standard deviation of the kinetic energy in 50 ps" + short,
        "1/ps",
        interval=(max(0.0, value - found.error), value + found.error),
        tables=(Table(["", ""], rows),),
        plots=(plot,),
    )


def two_temperatures(case: Case) -> Finding:
    """physical_validation's check of two roll-outs at different temperatures, in standard errors."""
    made = _rollouts(case)
    if made.second is None or made.second_temperature is None or case.temperature is None:
        raise DataError("no second temperature was asked for; give --second-temperature")
    series = np.concatenate([record.potential for record in made.records])
    if np.isnan(series).all():
        raise DataError(NO_ENGINE)
    # the package takes the first temperature as the colder one
    both = sorted([(case.temperature, series), (made.second_temperature, made.second.potential)], key=lambda x: x[0])
    value = ensemble_check(both[0][1], both[1][1], (both[0][0], both[1][0]))
    return Finding(value, ENSEMBLE, f"{both[0][0]:g} and {both[1][0]:g} K; limit: stated", "standard errors")


def fallback(case: Case) -> Finding:
    """Share of the jumps that a guard refused."""
    made = _rollouts(case)
    records = made.records
    tried = sum(record.statistics.tried for record in records)
    accepted = sum(record.statistics.accepted for record in records)
    if not tried:
        raise DataError("no jump was tried")
    guards = sorted(set(itertools.chain.from_iterable(record.statistics.rejected for record in made.everything)))
    rows: list[list[object]] = []
    for record in made.everything:
        one = record.statistics
        counts = [one.rejected.get(guard, 0) for guard in guards]
        rows.append([_name(record), one.tried, one.accepted, *counts, one.fallback_steps, record.stopped or "–"])
    columns = ["run", "jumps", "accepted", *(f"refused: {guard}" for guard in guards), "classical sub-steps", "stopped"]
    stopped = [record for record in records if record.stopped]
    ends = binomtest(tried - accepted, tried).proportion_ci(CONFIDENCE, method="wilson")
    return Finding(
        float("inf") if stopped else (tried - accepted) / tried,
        FALLBACK,
        f"{len(stopped)} of {len(records)} roll-outs stopped early" if stopped else "limit: stated",
        interval=(float(ends.low), float(ends.high)),
        tables=(Table(columns, rows, "The share is that of the runs learned-0, learned-1, …"),),
    )


def reversibility(case: Case) -> Finding:
    """|R∘Ψ∘R∘Ψ − 1| of the positions over the displacement of a jump."""
    propagator = case.propagator
    if not propagator.predicts_velocities:
        raise DataError("a position-only propagator redraws velocities and cannot go back")
    if propagator.wants_forces and (case.atoms is None or case.atoms.calc is None):
        raise DataError(f"this propagator is force-informed and there is {NO_ENGINE}")
    engine = Engine(case.atoms) if case.atoms is not None else None
    trip = round_trip(
        propagator,
        _states(case),
        constraints=None if engine is None else engine.constraints,
        forces=None if engine is None else engine.forces,
        rng=case.rng,
    )
    samples = [Sample(np.array([value])) for value in trip.x]
    rows: list[list[object]] = [
        ["x, over the displacement of a jump", float(trip.x.mean()), float(trip.x.max())],
        ["v, over the velocities", float(trip.v.mean()), float(trip.v.max())],
    ]
    return Finding(
        float(trip.x.mean()),
        ROUND_TRIP,
        f"mean of {len(trip.x)} frames of the reference; limit: stated",
        interval=bootstrap_interval(samples, lambda values: float(values[0]), case.rng),
        tables=(Table(["round trip", "mean", "largest"], rows),),
    )


def break_even(case: Case) -> Finding:
    """Time of a jump over that of the classical steps it replaces."""
    records = _rollouts(case).records
    if case.atoms is None or case.atoms.calc is None:
        raise DataError(NO_ENGINE)
    each = [1e3 * record.seconds / max(1, record.statistics.tried - 1) for record in records]
    jump, call = float(np.mean(each)), Engine(case.atoms).milliseconds()
    lag, step = case.propagator.timestep, case.classical_timestep
    classical = lag / step * call
    rows: list[list[object]] = [
        [f"one jump of {1e3 * lag:g} fs, guards and its force call included", jump],
        ["one force call of the engine", call],
        [f"{lag / step:g} classical steps of {1e3 * step:g} fs", classical],
        ["jump over classical steps", jump / classical],
    ]
    samples = [Sample(np.array([one / classical])) for one in each]
    return Finding(
        jump / classical,
        1.0,
        "limit: below 1 a jump is the cheaper one; an engine's own loop is faster than single force calls",
        interval=bootstrap_interval(samples, lambda values: float(values[0]), case.rng),
        tables=(Table(["", "ms"], rows, "Force calls through ASE, on this machine."),),
    )


def _rollouts(case: Case) -> RollOuts:
    if case.rollouts is None:
        raise DataError(_NO_ROLLOUTS)
    return case.rollouts


def _name(record: Record) -> str:
    return Path(str(record.run.atoms.universe.trajectory.filename)).name


def _states(case: Case) -> list[State]:
    """Frames of the reference, evenly spaced, with velocities stored or drawn."""
    from ..data.frames import seek
    from ..engines.mdanalysis import state_from_universe

    runs = case.reference
    states = []
    for k in range(_STATES):
        run = runs[k % len(runs)]
        frame = run.start + (run.stop - run.start) * (k // len(runs)) // -(-_STATES // len(runs))
        with run.first_frame():
            seek(run.atoms.universe.trajectory, frame)
            state = state_from_universe(run.atoms, velocities="stored" if run.has_velocities else "zero")
        if not run.has_velocities:
            if case.temperature is None:
                raise DataError("the reference has no velocities; give --temperature to draw them")
            state = state.replace(velocities=thermal_velocities(state.masses, case.temperature, case.rng))
        if case.bonds is not None:
            state = state.replace(bonds=torch.tensor(case.bonds))
        states.append(state)
    return states
