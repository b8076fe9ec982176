"""How much of a velocity no model can predict from the state a lag before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .. import units
from ..errors import Remedy
from .store import Store

WORTH_A_WARNING = 0.02  # of the thermal velocity; a well-trained propagator errs by about 0.05
DECORRELATED = 0.05  # explained share of the velocity variance below which the velocity counts as forgotten
_SHORT = 0.1  # ps; over a shorter lag velocities follow from the state, however they turn
_MULTIPLES = 4  # multiples of the lag that are looked at
_MAX_PAIRS, _MAX_ATOMS = 512, 2000


class VelocityPairs(Protocol):
    """What is asked of pairs; :class:`~fastegnn_md.data.TrajectoryPairs` are such."""

    @property
    def lag(self) -> float:
        """Δt, ps."""
        ...

    @property
    def stores(self) -> Sequence[Store]:
        """Where the pairs come from."""
        ...

    @property
    def lag_frames(self) -> Sequence[int]:
        """Frames per lag, for each store."""
        ...

    def start_frames(self, index: int, multiple: int, limit: int) -> np.ndarray:
        """Frames of a store from which a multiple of the lag can be looked ahead."""
        ...

    def velocities_at(self, index: int, frames: np.ndarray) -> np.ndarray:
        """Velocities (F, N, 3) of a store at frames, Å/ps."""
        ...


class ThermostattedPairs(Protocol):
    """What :func:`thermostat_note` asks of pairs; :class:`~fastegnn_md.data.TrajectoryPairs` are such."""

    lag: float
    has_velocities: bool
    friction: float | None

    @property
    def stores(self) -> Sequence[Store]:
        """Where the pairs come from."""
        ...


class NoiseFloorWarning(UserWarning):
    """Part of the velocity a lag later is noise, or forgotten, whatever the model."""


@dataclass(frozen=True)
class NoiseFloor:
    """Estimated smallest error of a predicted velocity.

    Attributes
    ----------
    value : float
        Floor of the error of v' in units of the thermal velocity, 0 to 1; 0 where nothing points to a floor.
    friction : float or None, 1/ps
        Friction it was computed from.
    remembered : float or None
        Share of the velocity variance that the velocity a lag before explains, at the best of several multiples of
        the lag.
    lag : float, ps
    """

    value: float
    friction: float | None
    remembered: float | None
    lag: float

    @property
    def dominates(self) -> bool:
        """Whether the floor is worth a warning: 2 % of the thermal velocity or more."""
        return self.value >= WORTH_A_WARNING

    def message(self) -> str:
        """The floor in one sentence, with what to do about it."""
        cause = f"friction {self.friction:g}/ps" if self.friction else ""
        if self.lag >= _SHORT and self.remembered is not None and self.remembered < DECORRELATED:
            cause = f"velocities are forgotten, {self.remembered:.1%} of their variance remains"
        return Remedy(
            f"at a lag of {units.format_time(self.lag)} no model can predict v' better than to about "
            f"{self.value:.1%} of the thermal velocity ({cause}); harvest NVE bursts from these frames ",
            "(fastegnn_md.harvest.harvest), or train a position-only propagator (velocities='none')",
            "(fastegnn-md harvest), or train a position-only propagator (--kind position)",
        )


def noise_floor(pairs: VelocityPairs, friction: float | None = None) -> NoiseFloor:
    """Estimate the floor of the error of v' in units of the thermal velocity.

    Two causes are looked at and the larger floor is given.

    With Langevin friction γ the random force adds, over a lag Δt, a velocity of variance (1 − e^(−2γΔt)) kT/m that
    is independent of the state before (Ornstein–Uhlenbeck), hence a floor √(1 − e^(−2γΔt)).

    Velocities that have decorrelated show in the data. For each atom i and each multiple j Δt of the lag, j = 1…4, the
    correlation ρ_ij = Σ v(t)·v(t+jΔt) / √(Σ v(t)² Σ v(t+jΔt)²) is taken over samples; R_j² is the mean over atoms of
    ρ_ij² less its value for independent samples, 1/(3 n), and R² = max_j R_j². If R² < 0.05 at a lag of 0.1 ps or more,
    the velocity is forgotten, and the floor is √(1 − R²), the error of the best prediction linear in v. Multiples and
    squares are there because a vibration that is perfectly predictable passes through ρ = 0 and changes sign. For R² ≥
    0.05 nothing is concluded: noise of a thermostat cannot be told from vibration in this way, so give the friction.

    Parameters
    ----------
    pairs : TrajectoryPairs
        Pairs with velocities.
    friction : float, 1/ps, optional
        Langevin friction of the simulation.

    Returns
    -------
    NoiseFloor
    """
    value = 0.0
    if friction is not None:
        value = langevin_floor(friction, pairs.lag)
    remembered = _remembered(pairs)
    if pairs.lag >= _SHORT and remembered is not None and remembered < DECORRELATED:
        value = max(value, math.sqrt(1.0 - remembered))
    return NoiseFloor(value=value, friction=friction, remembered=remembered, lag=pairs.lag)


def thermostat_note(pairs: ThermostattedPairs) -> str:
    """What may keep v' of pairs from being predicted: the friction of their trajectory, or that nobody told it.

    Empty for bursts at constant energy, without velocities, and where the friction is known to be none.
    """
    if not pairs.has_velocities or all(store.kind != "trajectory" for store in pairs.stores) or pairs.friction == 0:
        return ""
    if pairs.friction is not None:
        return (
            f"the pairs come from a trajectory with friction {pairs.friction:g}/ps, so that no model can predict v' "
            f"better than to {langevin_floor(pairs.friction, pairs.lag):.1%} of the thermal velocity"
        )
    return (
        "the pairs come from a trajectory and not from bursts at constant energy: if a thermostat acted in it, its "
        "noise is a part of v' that no model can predict"
    )


def langevin_floor(friction: float, lag: float) -> float:
    """√(1 − e^(−2γΔt)): what the random force adds to a velocity over a lag in ps, over the thermal velocity."""
    return math.sqrt(-math.expm1(-2.0 * friction * lag))


def _remembered(pairs: VelocityPairs) -> float | None:
    """R² of the velocity, None where too few samples are there to say."""
    best = None
    for multiple in range(1, _MULTIPLES + 1):
        explained, weight = 0.0, 0
        for index in range(len(pairs.stores)):
            share = _explained(pairs, index, multiple)
            if share is not None:
                explained += share
                weight += 1
        if weight:
            best = max(best or 0.0, explained / weight)
    return best


def _explained(pairs: VelocityPairs, index: int, multiple: int) -> float | None:
    starts = pairs.start_frames(index, multiple, _MAX_PAIRS)
    if len(starts) < 8:
        return None
    n_atoms = pairs.stores[index].n_atoms
    atoms = np.arange(0, n_atoms, max(1, n_atoms // _MAX_ATOMS))
    here, there = (
        pairs.velocities_at(index, frames)[:, atoms].astype(np.float64)
        for frames in (starts, starts + multiple * pairs.lag_frames[index])
    )
    norm = np.sqrt((here**2).sum((0, 2)) * (there**2).sum((0, 2)))
    rho = (here * there).sum((0, 2)) / np.where(norm > 0, norm, 1.0)
    return float(np.clip((rho**2).mean() - 1.0 / (3 * len(starts)), 0.0, 1.0))
