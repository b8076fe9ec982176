"""Slow processes of runs as torsions: implied time scales and first passages, learned ones beside a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import DataError
from ..report.page import Table
from .observables.basins import named_basins
from .observables.kinetics import TimeScales, assign, implied_timescales, markov_model, passage_times
from .observables.transitions import count_transitions
from .rows import Finding, Plot
from .torsion_runs import TorsionRuns

LOGARITHM, LAGS = 0.2, 5.0  # of a time scale, which is judged where it is so many lags
_FITS = 10  # times that a longer lag has to fit into the shortest run


def compare_timescales(
    reference: TorsionRuns,
    learned: TorsionRuns,
    time: float,
    centres: np.ndarray,
    rng: np.random.Generator,
    multiples: Sequence[int] = (1, 2, 3, 5, 10),
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
        Lags that table and picture have, in units of ``time``.

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
        shortest, first = min(map(len, labels)), runs.lag(time)
        lags = [first * m for m in multiples if m == 1 or first * m * _FITS <= shortest]
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
        plots=_pictures(found, {"reference": reference.spacing, "learned": learned.spacing}, int(slow.sum())),
    )


def _pictures(found: Mapping[str, TimeScales], spacings: Mapping[str, float], processes: int) -> tuple[Plot, ...]:
    """Implied time scales over the lag, with intervals; where they are level the process is Markovian."""
    times = {label: np.round(scales.lags * spacings[label], 6) for label, scales in found.items()}
    x = np.unique(np.concatenate(list(times.values())))

    def over(label: str, values: np.ndarray) -> np.ndarray:
        line = np.full(len(x), np.nan)
        line[np.searchsorted(x, times[label])] = values * spacings[label]
        return line

    return tuple(
        Plot(
            x,
            {label: over(label, scales.values[:, k]) for label, scales in found.items()},
            "lag / ps",
            f"time scale {k + 1} / ps",
            {
                label: np.array([over(label, scales.lower[:, k]), over(label, scales.upper[:, k])])
                for label, scales in found.items()
            },
        )
        for k in range(processes)
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
    if runs.sets is not None:
        basins = [runs.sets(centres)]
    else:
        basins = [named_basins(angles[:, list(pair)], runs.regions) for pair in runs.pairs]
    found = []
    for basin in basins:
        sets = [np.flatnonzero(basin == state) for state in range(len(runs.names))]
        found.append(passage_times(model, sets) * runs.spacing)
    return found


def _passage_table(runs: TorsionRuns, theirs: list[np.ndarray], ours: list[np.ndarray]) -> Table:
    names = runs.names
    rows: list[list[object]] = [
        [f"{residue} {names[i]} → {names[j]}", float(ours[k][i, j]), float(theirs[k][i, j])]
        for k, residue in enumerate(runs.residues)
        for i in range(len(names))
        for j in range(len(names))
        if np.isfinite(theirs[k][i, j]) and np.isfinite(ours[k][i, j])
    ]
    return Table(["passage", "learned, ps", "reference, ps"], rows, "Mean first passage times of the models.")
