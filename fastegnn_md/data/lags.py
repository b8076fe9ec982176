"""How far a jump may reach: a lag chosen from the velocity autocorrelation of each element."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from MDAnalysis.guesser.tables import Z2SYMB

from .. import units
from ..errors import DataError
from .noise import DECORRELATED, WORTH_A_WARNING, langevin_floor

if TYPE_CHECKING:
    from .pairs import TrajectoryPairs

_MOST_LAGS = 40
# A minimum of C_v counts if C_v rises by as much after it: absolutely, and in standard errors of independent samples.
_REBOUND, _REBOUND_ERRORS = 0.05, 6.0
_SAMPLES, _ATOM_SAMPLES, _MAX_ATOMS = 2000, 1_000_000, 2000


@dataclass(frozen=True)
class LagRow:
    """What happens over one lag.

    Attributes
    ----------
    lag : float, ps
    correlation : dict of str to float
        C_v(lag) of each element.
    samples : dict of str to int
        Velocities (of an atom at an instant) of each element that it was estimated from.
    explained : float
        Share of the mean square of √m v′ that a predictor linear in v explains.
    free_flight : float, Å
        RMS displacement of an atom that keeps its velocity.
    noise_floor : float or None
        Smallest error of v′ over the thermal velocity under Langevin friction, where it was given.
    """

    lag: float
    correlation: dict[str, float]
    samples: dict[str, int]
    explained: float
    free_flight: float
    noise_floor: float | None


@dataclass(frozen=True)
class LagSuggestion:
    """Lags that the frames allow, and the one to train on.

    Attributes
    ----------
    rows : tuple of LagRow
        Lags in ascending order.
    periods : dict of str to float or None
        Period of the fastest vibration of each element, ps; None where C_v shows none.
    lag : float or None
        Suggested lag, ps; None if even the distance of the frames is too long.
    reason : str
        Why.
    """

    rows: tuple[LagRow, ...]
    periods: dict[str, float | None]
    lag: float | None
    reason: str

    @property
    def shortest_period(self) -> float | None:
        """The shortest of :attr:`periods`, ps."""
        return min((period for period in self.periods.values() if period is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; times in ps, lengths in Å."""
        return {**asdict(self), "shortest_period": self.shortest_period}

    def __str__(self) -> str:
        elements = list(self.periods)
        head = ["lag/fs", *(f"C_v {element}" for element in elements), "explained", "free flight/A", "period/lag"]
        floors = any(row.noise_floor is not None for row in self.rows)
        lines = ["  ".join(f"{name:>9}" for name in [*head, *(["noise floor"] if floors else [])])]
        shortest = self.shortest_period
        for row in self.rows:
            cells = [f"{1e3 * row.lag:.4g}", *(f"{row.correlation[element]:.3f}" for element in elements)]
            cells += [f"{row.explained:.1%}", f"{row.free_flight:.3g}"]
            cells.append("" if shortest is None else f"{shortest / row.lag:.2f}")
            cells += [f"{row.noise_floor:.1%}"] if row.noise_floor is not None else []
            widths = [max(9, len(name)) for name in head] + [11]
            lines.append("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False)).rstrip())
        found = "none" if self.lag is None else units.format_time(self.lag)
        return "\n".join([*lines, f"suggested lag: {found}; {self.reason}"])


def suggest_lag(pairs: TrajectoryPairs, *, friction: float | None = None) -> LagSuggestion:
    """Choose a lag from the velocity autocorrelation C_v of each element.

    C_v(τ) = Σ m v(t)·v(t+τ) / √(Σ m v(t)² Σ m v(t+τ)²) over the atoms of the element and frames spread over the data,
    for the first multiples τ of the lag of the pairs that fit into the segments.

    The suggested lag is the longest that for every element is

    - at most half of the period of its fastest vibration, twice the lag of the first minimum of C_v (cos ωτ of one
      vibration has it at half a period; slower vibrations of the same element put it later). The minimum is that of the
      parabola through three lags, and counts if C_v rises by 0.05 and by six standard errors after it. A minimum at the
      first lag may be a later one of a faster vibration, so no lag is suggested then;
    - where there is no vibration, not beyond the memory of the velocity: C_v² ≥ 0.05.

    Half of the period is also where impulse methods of several time steps become resonant (Bishop, Skeel and Schulten,
    J. Comput. Chem. 18, 1785, 1997).

    Parameters
    ----------
    pairs : TrajectoryPairs
        Pairs with velocities, best at the distance of the frames.
    friction : float, 1/ps, optional
        Langevin friction of the simulation, for the noise floor: :func:`~fastegnn_md.data.noise_floor`.

    Returns
    -------
    LagSuggestion

    Raises
    ------
    DataError
        If the pairs have no velocities.
    """
    if not pairs.has_velocities:
        raise DataError("a lag is chosen from velocities, these pairs have none; harvest bursts, or save velocities")
    rows = [row for multiple in range(1, _MOST_LAGS + 1) if (row := _row(pairs, multiple, friction)) is not None]
    elements = list(rows[0].correlation)
    periods: dict[str, float | None] = dict.fromkeys(elements)
    limits = {}
    for element in elements:
        error = 1.0 / math.sqrt(3 * min(row.samples[element] for row in rows))
        rebound = max(_REBOUND, _REBOUND_ERRORS * error)
        place = _first_minimum([row.correlation[element] for row in rows], rebound)
        if place is None:
            limits[element] = _memory(rows, element)
        elif place == 1:
            limits[element] = 0.0
        else:
            limits[element] = place * pairs.lag
            periods[element] = 2.0 * place * pairs.lag
    fastest = min(limits, key=lambda element: limits[element])
    suggested = max((row.lag for row in rows if row.lag <= limits[fastest] * (1 + 1e-6)), default=None)
    return LagSuggestion(tuple(rows), periods, suggested, _reason(rows, fastest, periods[fastest], suggested, friction))


def _row(pairs: TrajectoryPairs, multiple: int, friction: float | None) -> LagRow | None:
    """None where a system has no segment that long."""
    sums: dict[int, np.ndarray] = {}  # of an element: m v·v′, m v², m v′², v², atoms
    for index, store in enumerate(pairs.stores):
        atoms = np.arange(0, store.n_atoms, max(1, store.n_atoms // _MAX_ATOMS))
        starts = pairs.start_frames(index, multiple, min(_SAMPLES, max(8, _ATOM_SAMPLES // len(atoms))))
        if not len(starts):
            return None
        here, there = (
            pairs.velocities_at(index, frames)[:, atoms].astype(np.float64)
            for frames in (starts, starts + multiple * pairs.lag_frames[index])
        )
        numbers, masses = store.topology.numbers[atoms], store.topology.masses[atoms]
        terms = [masses * product.sum((0, 2)) for product in (here * there, here**2, there**2)]
        terms += [(here**2).sum((0, 2)), np.full(len(atoms), len(starts))]
        for number in np.unique(numbers).tolist():
            of_element = np.array([term[numbers == number].sum() for term in terms])
            sums[number] = sums.get(number, np.zeros(5)) + of_element
    correlation = {  # 1 for atoms at rest
        number: float(one[0] / math.sqrt(one[1] * one[2])) if one[1] * one[2] > 0 else 1.0
        for number, one in sorted(sums.items())
    }
    total = np.sum(list(sums.values()), axis=0)
    left = sum(one[2] * (1.0 - correlation[number] ** 2) for number, one in sums.items())
    lag = multiple * pairs.lag
    return LagRow(
        lag=lag,
        correlation={Z2SYMB[number]: value for number, value in correlation.items()},
        samples={Z2SYMB[number]: int(sums[number][4]) for number in correlation},
        explained=float(1.0 - left / total[2]),
        free_flight=float(lag * math.sqrt(total[3] / total[4])),
        noise_floor=None if friction is None else langevin_floor(friction, lag),
    )


def _first_minimum(correlation: Iterable[float], rebound: float) -> float | None:
    """Place of the first minimum in units of the lag, None without one; 1 stands for the first lag or before it."""
    values = np.array([1.0, *correlation])
    for k in range(1, len(values) - 1):
        before, here, after = values[k - 1 : k + 2]
        if here <= before and here < after and values[k + 1 :].max() - here > rebound:
            return 1.0 if k == 1 else float(k + 0.5 * (before - after) / (before - 2.0 * here + after))
    return None


def _memory(rows: list[LagRow], element: str) -> float:
    """Longest lag up to which the velocity of an element is remembered, ps; 0 if it never is."""
    remembered = 0.0
    for row in rows:
        if row.correlation[element] ** 2 < DECORRELATED:
            break
        remembered = row.lag
    return remembered


def _reason(
    rows: list[LagRow], element: str, period: float | None, suggested: float | None, friction: float | None
) -> str:
    if suggested is None:
        return (
            f"frames {units.format_time(rows[0].lag)} apart are too far from each other to follow the velocity of "
            f"{element}: harvest bursts with a shorter interval (fastegnn-md harvest), or save frames more often"
        )
    if period is not None:
        why = f"the fastest vibration, of {element}, has a period of about {units.format_time(round(period, 4))}"
        why += ", and a jump should not reach over half of it"
    elif suggested == rows[-1].lag:
        why = f"the segments end here, and no element has forgotten its velocity; {element} is the fastest"
    else:
        why = f"later the velocity of {element} is forgotten (C_v² < {DECORRELATED:g})"
    floor = 0.0 if friction is None else langevin_floor(friction, suggested)
    if floor >= WORTH_A_WARNING:
        why += (
            f"; friction leaves an error of v' of at least {floor:.1%} of the thermal velocity: harvest NVE bursts of "
            "this interval from the frames"
        )
    return why
