"""Runs as their torsions, and what they say of basins: learned ones beside a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import DataError
from ..report.page import Table
from .observables.basins import ALANINE, named_basins, populations, split_half_floor
from .observables.metastable import MetastableSets
from .observables.torsions import JOINT_BINS, joint_histograms
from .observables.transitions import TransitionMatrix, flux_asymmetry, transition_matrix
from .rows import Finding, Map
from .statistics import Sample, bootstrap_interval, mean_jensen_shannon, pool

SHARE, RELATIVE, MINOR = 0.02, 0.2, 0.05  # of populations; a basin of less than the last is minor
ROW, FEWEST = 0.05, 200  # of a transition probability, in rows of so many transitions
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
    sets : MetastableSets, optional
        Basins of molecules without φ and ψ, all torsions taken together in place of a residue.
    """

    angles: list[np.ndarray]
    spacing: float
    pairs: list[tuple[int, int]]
    residues: list[str]
    regions: Mapping[str, tuple[tuple[float, float], tuple[float, float]]]
    sets: MetastableSets | None = None

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
            raise DataError("no residue has φ and ψ; basins with names are those of peptides")
        residues = [names[first].removeprefix("φ of ") for first, _ in pairs]
        return cls(list(angles), spacing, list(pairs), residues, ALANINE)

    @classmethod
    def unnamed(cls, angles: Sequence[np.ndarray], spacing: float, sets: MetastableSets) -> TorsionRuns:
        """Of a molecule without φ and ψ, with basins from :func:`~.observables.metastable.metastable_sets`."""
        return cls(list(angles), spacing, [], ["torsions"], {}, sets)

    @property
    def names(self) -> list[str]:
        """Of the basins."""
        return list(self.regions) if self.sets is None else [f"set {k + 1}" for k in range(self.sets.count)]

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
        if self.sets is not None:
            return [[self.sets(one) for one in self.features]]
        return [[named_basins(one[:, list(pair)], self.regions) for one in self.angles] for pair in self.pairs]

    @cached_property
    def features(self) -> list[np.ndarray]:
        """Cosines, then sines, of all torsions, shape (n_frames, 2 T)."""
        return features_of(self.angles)

    @cached_property
    def histograms(self) -> list[Sample]:
        """Maps of φ and ψ, shape (residues, cells)."""
        return [Sample(joint_histograms(one, self.pairs), len(one)) for one in self.angles]

    def transitions(self, residue: int, time: float, rng: np.random.Generator) -> TransitionMatrix:
        """Between the basins of a residue after a time in ps."""
        return transition_matrix(self.basins[residue], self.lag(time), len(self.names), rng)


def features_of(angles: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Cosines, then sines, of torsions (n_frames, T) in degrees, shape (n_frames, 2 T), a run each."""
    turned = [np.radians(one) for one in angles]
    return [np.concatenate([np.cos(one), np.sin(one)], axis=1) for one in turned]


def compare_populations(reference: TorsionRuns, learned: TorsionRuns, rng: np.random.Generator) -> Finding:
    """Largest deviation of the population of a basin, over what it may be.

    That is max(0.02, three standard errors), and for basins of less than 0.05 also a fifth of the population.
    """
    rows: list[list[object]] = []
    worst = least = 0.0
    for k, residue in enumerate(reference.residues):
        theirs, ours = (populations(runs.basins[k], len(runs.names), rng) for runs in (reference, learned))
        error = np.nan_to_num(np.hypot(theirs.errors, ours.errors))
        for state, name in enumerate(reference.names):
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
    """Jensen-Shannon distance of the maps of φ and ψ, beside that of two halves of the reference.

    Raises
    ------
    DataError
        If no residue has φ and ψ.
    """
    if not reference.pairs:
        raise DataError("no residue has φ and ψ; see the row torsions")
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
    names = reference.names
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


def detailed_balance(learned: TorsionRuns, time: float) -> Finding:
    """Largest net flux between two basins in standard errors.

    Raises
    ------
    DataError
        If there are fewer than eight runs or pieces.
    """
    found = [flux_asymmetry(one, learned.lag(time), len(learned.names)) for one in learned.basins]
    worst = max(found, key=lambda one: one.largest / one.limit)
    return Finding(
        worst.largest,
        worst.limit,
        "limit: exceeded by chance once in a hundred runs at equilibrium",
        tables=tuple(
            Table(
                ["from", *learned.names],
                [[name, *map(_cell, row)] for name, row in zip(learned.names, one.scores, strict=True)],
                f"{residue}: (N_ij − N_ji) in standard errors; – where crossings are too few to tell.",
            )
            for residue, one in zip(learned.residues, found, strict=True)
        ),
    )


def _cell(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
