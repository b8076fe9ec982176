"""Whether the spread of a committee tells the size of its error: error against spread on pairs not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr

from .._progress import progress_bar
from ..errors import DataError
from .batches import pairs_for
from .one_step import batches

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from ..propagator.learned_map import LearnedMap


@dataclass(frozen=True)
class Calibration:
    """Error against spread.

    If the components of each error are drawn from a normal distribution of which the spread is the standard deviation,
    slope and ``z_rms`` are 1, ``within_one`` is 0.683 and ``within_two`` 0.954.

    Attributes
    ----------
    count : int
        Errors compared.
    spread, error : tuple of float
        RMS of spreads and of errors per component in bins of as many errors each, by rising spread.
    slope : float
        Of the line through the origin that fits these points best, Σ error · spread / Σ spread².
    rank_correlation : float
        Spearman's, of spread and magnitude of the single errors; nan where all spreads are the same.
    within_one, within_two : float
        Share of components within one and two spreads.
    z_rms : float
        RMS of the components over their spreads; above 1 the committee is too sure.
    """

    count: int
    spread: tuple[float, ...]
    error: tuple[float, ...]
    slope: float
    rank_correlation: float
    within_one: float
    within_two: float
    z_rms: float


def calibrate(errors: np.ndarray, spreads: np.ndarray, bins: int = 10) -> Calibration:
    """Compare errors with the spreads that were to foretell them.

    Parameters
    ----------
    errors : ndarray, shape (n,) or (n, d)
        Signed errors, of one or of d components each.
    spreads : ndarray, shape (n,)
        Standard deviation expected of a component, in the unit of the errors.
    bins : int
        Quantiles of the spread to average over.

    Returns
    -------
    Calibration
        Errors beside the spreads.

    Raises
    ------
    DataError
        If shapes do not fit, there are fewer errors than bins, a value is not finite, or a spread is not positive.
    """
    spreads = np.asarray(spreads, dtype=float)
    errors = np.asarray(errors, dtype=float)
    if spreads.ndim != 1 or errors.ndim not in (1, 2) or len(errors) != len(spreads):
        raise DataError(f"errors have shape {errors.shape}, spreads {spreads.shape}; expected (n,) or (n, d), and (n,)")
    if not 1 <= bins <= len(spreads):
        raise DataError(f"{len(spreads)} errors cannot fill {bins} bins; expected 1 <= bins <= number of errors")
    if not (np.isfinite(errors).all() and np.isfinite(spreads).all()):
        raise DataError("errors or spreads have a NaN or infinite value; leave such predictions out")
    if not (spreads > 0).all():
        raise DataError(
            f"spread {int(np.argmin(spreads))} is {spreads.min()}; expected spreads > 0: members that always agree say "
            "nothing of their error"
        )
    errors = errors.reshape(len(spreads), -1)
    magnitudes = np.sqrt(np.square(errors).mean(axis=1))
    parts = np.array_split(np.argsort(spreads, kind="stable"), bins)
    spread, error = (np.array([np.sqrt(np.square(v[part]).mean()) for part in parts]) for v in (spreads, magnitudes))
    z = np.abs(errors) / spreads[:, None]
    ranks = float("nan")
    if np.ptp(spreads) > 0 and np.ptp(magnitudes) > 0:
        ranks = float(spearmanr(spreads, magnitudes).statistic)
    return Calibration(
        count=len(spreads),
        spread=tuple(spread.tolist()),
        error=tuple(error.tolist()),
        slope=float(error @ spread / (spread @ spread)),
        rank_correlation=ranks,
        within_one=float((z <= 1).mean()),
        within_two=float((z <= 2).mean()),
        z_rms=float(np.sqrt(np.square(z).mean())),
    )


def calibration_table(calibrations: Mapping[str, Calibration]) -> str:
    """Lines of text with what :func:`one_step_calibration` returns, beside what a perfect spread would give."""
    rows: list[tuple[str, ...]] = [
        ("error against spread", "RMS error / spread", "slope", "rank correlation", "within 1", "within 2")
    ]
    rows += [
        (key, *(f"{v:.3f}" for v in (one.z_rms, one.slope, one.rank_correlation, one.within_one, one.within_two)))
        for key, one in calibrations.items()
    ]
    rows.append(("perfect", "1", "1", "", "0.683", "0.954"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)


def one_step_calibration(
    committee: LearnedMap,
    pairs: TrajectoryPairs,
    indices: Sequence[int] | None = None,
    *,
    bins: int = 10,
    batch_size: int = 256,
    progress: bool = False,
) -> dict[str, Calibration]:
    """Calibration of a committee on pairs that none of its members has seen.

    Parameters
    ----------
    committee : LearnedMap
        One that has a spread.
    pairs : TrajectoryPairs
    indices : sequence of int, optional
        Pairs to use; all by default.
    bins : int
        As in :func:`calibrate`.
    batch_size : int
        Pairs per call.
    progress : bool
        Show a progress bar.

    Returns
    -------
    dict of str to Calibration
        ``"x"`` and, where velocities are predicted, ``"v"``; errors and spreads of atoms in units of the residual scale
        (:class:`~fastegnn_md.propagator.prediction.Spread`).

    Raises
    ------
    CompatibilityError
        If the committee does not fit the pairs.
    DataError
        As :func:`calibrate`.
    """
    chosen = list(range(len(pairs))) if indices is None else list(indices)
    pairs = pairs_for(committee.config, pairs)
    errors: dict[str, list[np.ndarray]] = {"x": [], "v": []}
    spreads: dict[str, list[np.ndarray]] = {"x": [], "v": []}
    with progress_bar(total=len(chosen), disable=not progress, desc="calibration", unit="pair") as bar, torch.no_grad():
        for start, end in batches(pairs, chosen, batch_size, bar):
            prediction = committee.predict(start)
            residual, spread = prediction.residual(start, end, committee.residual_scale(start)), prediction.trust.spread
            if spread is None:
                raise DataError("one propagator has no spread to calibrate; give a committee")
            for key, error, apart in (("x", residual.x, spread.x), ("v", residual.v, spread.v)):
                if error is not None and apart is not None:
                    errors[key].append(error.double().numpy())
                    spreads[key].append(apart.double().numpy())
    keys = ("x", "v") if committee.predicts_velocities else ("x",)
    if not chosen:
        raise DataError("no pairs to calibrate on; give a longer trajectory or other indices")
    return {key: calibrate(np.concatenate(errors[key]), np.concatenate(spreads[key]), bins) for key in keys}
