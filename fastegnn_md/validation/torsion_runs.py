"""Runs as their torsions, and what they say of basins and slow processes: learned ones beside a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DataError
from ..report.page import Table
from .observables.basins import ALANINE, named_basins, populations, split_half_floor
from .observables.kinetics import TimeScales, assign, implied_timescales, markov_model, passage_times
from .observables.torsions import JOINT_BINS, joint_histograms
from .observables.transitions import TransitionMatrix, count_transitions, flux_asymmetry, transition_matrix
from .rows import Finding, Map
from .statistics import Sample, bootstrap_interval, mean_jensen_shannon, pool

SHARE, RELATIVE, MINOR = 0.02, 0.2, 0.05  # of populations; a basin of less than the last is minor
ROW, FEWEST = 0.05, 200  # of a transition probability, in rows of so many transitions
LOGARITHM, LAGS = 0.2, 5.0  # of a time scale, which is judged where it is so many lags
FACTOR = 1.5  # times the split-half floor of the reference
_SURE = 1.96


@dataclass(frozen=True, eq=False)
class TorsionRuns:
    """Independent runs, or pieces of runs longer than the slowest process, as torsions.

    Attributes
    ----------
    angles : list of ndarray, shape (n_frames, T)
        Degrees, a run each.
    spacing : float
        ps between frames.
    pairs : list of (int, int)
        Columns of φ and ψ of each residue.
    residues : list of str
        Their names.
    regions : mapping
        Basins of φ and ψ, as :data:`~.observables.basins.ALANINE`.
    """

    angles: list[np.ndarray]
    spacing: float
    pairs: list[tuple[int, int]]
    residues: list[str]
    regions: Mapping[str, tuple[tuple[float, float], tuple[float, float]]]

    @classmethod
    def of(
        cls, angles: Sequence[np.ndarray], spacing: float, pairs: Sequence[tuple[int, int]], names: Sequence[str]
    ) -> TorsionRuns:
        """With the regions of alanine; ``names`` are those of the torsions.

        Raises
        ------
        DataError
            If no residue has φ and ψ.
        """
        if not pairs:
            raise DataError("no residue has φ and ψ; basins are those of peptides")
        residues = [names[first].removeprefix("φ of ") for first, _ in pairs]
        return cls(list(angles), spacing, list(pairs), residues, ALANINE)

    def lag(self, time: float) -> int:
        """A time in frames.

        Raises
        ------
        DataError
            If it is no multiple of the time between frames.
        """
        frames = round(time / self.spacing)
        if frames < 1 or abs(frames * self.spacing - time) > 1e-3 * time:
            raise DataError(f"a lag of {time:g} ps is no multiple of the {self.spacing:g} ps between frames")
        return frames

    @cached_property
    def basins(self) -> list[list[np.ndarray]]:
        """Basin of each frame: for each residue its runs."""
        return [[named_basins(one[:, list(pair)], self.regions) for one in self.angles] for pair in self.pairs]

    @cached_property
    def features(self) -> list[np.ndarray]:
        """Cosines, then sines, of all torsions, shape (n_frames, 2 T)."""
        turned = [np.radians(one) for one in self.angles]
        return [np.concatenate([np.cos(one), np.sin(one)], axis=1) for one in turned]

    @cached_property
    def histograms(self) -> list[Sample]:
        """Maps of φ and ψ, shape (residues, cells)."""
        return [Sample(joint_histograms(one, self.pairs), len(one)) for one in self.angles]

    def transitions(self, residue: int, time: float, rng: np.random.Generator) -> TransitionMatrix:
        """Between the basins of a residue after a time in ps."""
        return transition_matrix(self.basins[residue], self.lag(time), len(self.regions), rng)


def compare_populations(reference: TorsionRuns, learned: TorsionRuns, rng: np.random.Generator) -> Finding:
    """Largest deviation of the population of a basin, over what it may be.

    That is max(0.02, three standard errors), and for basins of less than 0.05 also a fifth of the population.
    """
    rows: list[list[object]] = []
    worst = least = 0.0
    for k, residue in enumerate(reference.residues):
        theirs, ours = (populations(runs.basins[k], len(runs.regions), rng) for runs in (reference, learned))
        error = np.nan_to_num(np.hypot(theirs.errors, ours.errors))
        for state, name in enumerate(reference.regions):
            a, b, e = float(ours.values[state]), float(theirs.values[state]), float(error[state])
            allowed = max(SHARE, 3 * e)
            minor = 0 < b < MINOR
            if minor:
                allowed = min(allowed, RELATIVE * b)
            worst = max(worst, abs(a - b) / allowed)
            least = max(least, (abs(a - b) - _SURE * e) / allowed)
            relative = a / b - 1 if b else None
            rows.append([f"{residue} {name}", a, float(ours.errors[state]), b, float(theirs.errors[state]), relative])
    columns = ["basin", "learned", "error", "reference", "error", "relative difference"]
    caption = "Shares of the frames; standard errors by a bootstrap of whole runs."
    return Finding(
        worst,
        1.0,
        f"limit: stated; a population may differ by {SHARE:g} or 3 standard errors, a minor one by {RELATIVE:.0%}",
        interval=(max(0.0, least), 2 * worst - least),
        tables=(Table(columns, rows, caption),),
    )


def compare_maps(reference: TorsionRuns, learned: TorsionRuns, rng: np.random.Generator) -> Finding:
    """Jensen-Shannon distance of the maps of φ and ψ, beside that of two halves of the reference."""
    theirs, ours = pool(reference.histograms), pool(learned.histograms)
    floor = split_half_floor(reference.histograms, rng)
    interval = bootstrap_interval(learned.histograms, lambda one: mean_jensen_shannon(one, theirs), rng)
    return Finding(
        mean_jensen_shannon(ours, theirs),
        FACTOR * floor,
        f"limit: {FACTOR:g} times {floor:.3g} of two halves of the reference",
        interval=None if interval is None else (max(0.0, interval[0]), interval[1]),
        plots=tuple(
            Map(
                {"reference": free_energy(theirs[k]), "learned": free_energy(ours[k])},
                f"φ of {residue}, degrees",
                "ψ, degrees",
                "free energy, kT",
            )
            for k, residue in enumerate(reference.residues)
        ),
    )


def free_energy(shares: np.ndarray) -> np.ndarray:
    """−ln p of the cells of a map, its least value zero, shape (JOINT_BINS, JOINT_BINS); NaN where nothing was."""
    with np.errstate(divide="ignore"):
        energy = -np.log(shares.reshape(JOINT_BINS, JOINT_BINS))
    return np.where(np.isfinite(energy), energy - energy.min(), np.nan)


def compare_transitions(reference: TorsionRuns, learned: TorsionRuns, time: float, rng: np.random.Generator) -> Finding:
    """Largest difference of a transition probability after a time in ps, in rows of 200 transitions or more.

    Raises
    ------
    DataError
        If no row has as many, or the lag is no multiple of the time between frames.
    """
    tables, plots = [], []
    worst, interval = -1.0, (0.0, 0.0)
    names = list(reference.regions)
    for k, residue in enumerate(reference.residues):
        theirs, ours = (runs.transitions(k, time, rng) for runs in (reference, learned))
        counted = (theirs.counts >= FEWEST) & (ours.counts >= FEWEST)
        if counted.any():
            difference = np.abs(ours.probabilities - theirs.probabilities)[counted]
            error = np.nan_to_num(np.hypot(ours.errors, theirs.errors)[counted])
            at = np.unravel_index(difference.argmax(), difference.shape)
            if difference[at] > worst:
                worst, half = float(difference[at]), _SURE * float(error[at])
                interval = max(0.0, worst - half), worst + half
        tables.append(_matrix_table(names, ours, theirs, f"{residue}, after {time:g} ps."))
        plots.append(
            Map(
                {"reference": theirs.probabilities, "learned": ours.probabilities},
                f"to ({', '.join(names)})",
                f"from, {residue}",
                "probability",
                names,
            )
        )
    if worst < 0:
        raise DataError(f"no basin was left or kept {FEWEST} times in both, at a lag of {time:g} ps; give longer runs")
    return Finding(
        worst,
        ROW,
        f"limit: stated; rows of {FEWEST} transitions or more, without overlap, in both",
        interval=interval,
        tables=tuple(tables),
        plots=tuple(plots),
    )


def _matrix_table(names: list[str], ours: TransitionMatrix, theirs: TransitionMatrix, caption: str) -> Table:
    rows: list[list[object]] = []
    for i, name in enumerate(names):
        for label, one in (("learned", ours), ("reference", theirs)):
            rows.append([f"{name}, {label}", round(float(one.counts[i])), *map(float, one.probabilities[i])])
    return Table(["from", "transitions", *names], rows, caption)


def compare_timescales(
    reference: TorsionRuns,
    learned: TorsionRuns,
    time: float,
    centres: np.ndarray,
    rng: np.random.Generator,
    multiples: Sequence[int] = (1, 2, 5),
) -> Finding:
    """Largest |ln t / t_ref| of the implied time scales of reversible models at a lag, of those of five lags or more.

    Parameters
    ----------
    reference, learned : TorsionRuns
    time : float
        Lag, ps.
    centres : ndarray, shape (S, 2 T)
        Of clusters of :attr:`TorsionRuns.features`.
    rng : numpy.random.Generator
    multiples : sequence of int
        Lags that the table has, in units of ``time``.

    Raises
    ------
    DataError
        If every process is faster than five lags, or a model cannot be made.
    """
    found: dict[str, TimeScales] = {}
    tables = []
    rows: list[list[object]] = []
    passages = []
    for label, runs in (("reference", reference), ("learned", learned)):
        labels = [assign(one, centres) for one in runs.features]
        lags = [runs.lag(m * time) for m in multiples if all(len(one) > runs.lag(m * time) for one in labels)]
        scales = found[label] = implied_timescales(labels, lags, len(centres), rng)
        for row, lag in enumerate(lags):
            cells = [_scale(scales, row, k, runs.spacing) for k in range(scales.values.shape[1])]
            rows.append([label, lag * runs.spacing, *cells, float(scales.connected[row])])
        passages.append(_passages(runs, labels, centres, runs.lag(time)))
    columns = ["", "lag, ps", "slowest, ps", "second, ps", "third, ps", "connected"]
    tables.append(
        Table(columns, rows, "Implied time scales and 95 % intervals; share of transitions among connected clusters.")
    )
    tables.append(_passage_table(reference, *passages))
    theirs, ours = found["reference"].values[0] * reference.spacing, found["learned"].values[0] * learned.spacing
    slow = np.isfinite(theirs) & (theirs >= LAGS * time)
    if not slow.any():
        raise DataError(
            f"the slowest process of the reference takes {theirs[0]:.3g} ps, less than {LAGS:g} lags of {time:g} ps: a "
            "jump is nearly an independent draw, and time scales tell nothing"
        )
    with np.errstate(invalid="ignore"):
        difference = np.where(slow & np.isfinite(ours), np.abs(np.log(ours / theirs)), np.where(slow, np.inf, 0.0))
        widths = [np.log(one.upper[0] / one.values[0]) for one in found.values()]
    worst = int(difference.argmax())
    half = float(np.hypot(widths[0][worst], widths[1][worst]))
    known = np.isfinite(half) and np.isfinite(difference[worst])
    return Finding(
        float(difference[worst]),
        LOGARITHM,
        f"limit: stated; {int(slow.sum())} processes of {LAGS:g} lags or more",
        interval=(max(0.0, float(difference[worst]) - half), float(difference[worst]) + half) if known else None,
        tables=tuple(tables),
    )


def _scale(scales: TimeScales, row: int, k: int, spacing: float) -> str:
    value, lower, upper = (float(one[row, k]) * spacing for one in (scales.values, scales.lower, scales.upper))
    if not np.isfinite(value):
        return "–"
    return f"{value:.4g} ({lower:.3g} to {upper:.3g})" if np.isfinite(lower) else f"{value:.4g} (seen too rarely)"


def _passages(runs: TorsionRuns, labels: list[np.ndarray], centres: np.ndarray, lag: int) -> list[np.ndarray]:
    """Mean first passage times between the basins of each residue, ps."""
    counts = np.sum([count_transitions(one, lag, len(centres)) for one in labels], axis=0)
    model = markov_model(counts, lag)
    half = centres.shape[1] // 2
    angles = np.degrees(np.arctan2(centres[:, half:], centres[:, :half]))
    found = []
    for pair in runs.pairs:
        basin = named_basins(angles[:, list(pair)], runs.regions)
        sets = [np.flatnonzero(basin == state) for state in range(len(runs.regions))]
        found.append(passage_times(model, sets) * runs.spacing)
    return found


def _passage_table(runs: TorsionRuns, theirs: list[np.ndarray], ours: list[np.ndarray]) -> Table:
    names = list(runs.regions)
    rows: list[list[object]] = [
        [f"{residue} {names[i]} → {names[j]}", float(ours[k][i, j]), float(theirs[k][i, j])]
        for k, residue in enumerate(runs.residues)
        for i in range(len(names))
        for j in range(len(names))
        if np.isfinite(theirs[k][i, j]) and np.isfinite(ours[k][i, j])
    ]
    return Table(["passage", "learned, ps", "reference, ps"], rows, "Mean first passage times of the models.")


def detailed_balance(learned: TorsionRuns, time: float) -> Finding:
    """Largest net flux between two basins in standard errors.

    Raises
    ------
    DataError
        If there are fewer than eight runs or pieces.
    """
    found = [flux_asymmetry(one, learned.lag(time), len(learned.regions)) for one in learned.basins]
    worst = max(found, key=lambda one: one.largest / one.limit)
    return Finding(
        worst.largest,
        worst.limit,
        "limit: exceeded by chance once in a hundred runs at equilibrium",
        tables=tuple(
            Table(
                ["from", *learned.regions],
                [[name, *map(_cell, row)] for name, row in zip(learned.regions, one.scores, strict=True)],
                f"{residue}: (N_ij − N_ji) in standard errors; – where crossings are too few to tell.",
            )
            for residue, one in zip(learned.residues, found, strict=True)
        ),
    )


def _cell(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
