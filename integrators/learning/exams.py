"""Exams of a model on pairs it has not seen, and the running error with its interval."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from fastegnn_md.propagator.base import Propagator
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

_BLOCK = 5  # exams in a row that are drawn together: neighbouring segments are alike
_RESAMPLES = 400
_CONFIDENCE = 0.95
FEWEST = 10  # exams before anything is said

# Of the error table, in its order. The linear predictor is that of the model.
PREDICTORS = ("learned", "zero motion", "free flight", "best linear")


class Exam(NamedTuple):
    """Errors of one pair.

    Attributes
    ----------
    velocity : ndarray, shape (S,)
        Per element the mean square error of a component of v′, over k_B T/m.
    squares : ndarray, shape (4, 2)
        Mean squares of mass-scaled errors of x and v, of the predictors of :data:`PREDICTORS`.
    """

    velocity: np.ndarray
    squares: np.ndarray


@torch.no_grad()
def examine(model: Propagator, start: State, end: State, temperature: float) -> Exam:
    """Errors of a model about one pair.

    Parameters
    ----------
    model : Propagator
        Of a kind that predicts velocities.
    start, end : State
        One system, with the forces that the model asks for.
    temperature : float
        K, that thermal velocities are of.
    """
    residual = model.residual(start, end)
    scale = model.residual_scale(start)
    assert residual.v is not None  # the kinds that learn here predict velocities
    error_x, error_v = residual.x * scale[:, :1], residual.v * scale[:, 1:]
    root = start.masses.sqrt()[:, None]
    moved, turned = end.positions - start.positions, end.velocities - start.velocities
    species = torch.searchsorted(torch.tensor(model.species), start.numbers)
    linear_x, linear_v = model.linear(start.velocities, model.forces_of(start), start.masses, species)
    pairs = (
        (error_x, error_v),
        (root * moved, root * turned),
        (root * (moved - model.timestep * start.velocities), root * turned),
        (root * (moved - linear_x), root * (end.velocities - linear_v)),
    )
    squares = np.array([[float(one.double().square().mean()) for one in both] for both in pairs])
    per_atom = error_v.double().square().mean(dim=1).numpy()
    of = species.numpy()
    counts = np.bincount(of, minlength=len(model.species))
    mean = np.bincount(of, weights=per_atom, minlength=len(model.species)) / np.maximum(counts, 1)
    return Exam(mean / (BOLTZMANN * temperature), squares)


class RunningError:
    """Error over the last exams, in % of the thermal velocity of the element that is worst.

    Parameters
    ----------
    window : int
        Exams that count.
    """

    def __init__(self, window: int):
        self._exams: deque[Exam] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._exams)

    def add(self, exam: Exam) -> None:
        """Take in an exam."""
        self._exams.append(exam)

    def clear(self) -> None:
        """Forget all exams."""
        self._exams.clear()

    @property
    def value(self) -> float:
        """%; nan without exams."""
        if not self._exams:
            return math.nan
        return float(_worst(np.mean([one.velocity for one in self._exams], axis=0)))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of :attr:`value` by a bootstrap of blocks; wide open before there are ten exams."""
        count = len(self._exams)
        if count < FEWEST:
            return 0.0, math.inf
        squares = np.array([one.velocity for one in self._exams])
        blocks = -(-count // _BLOCK)
        begins = np.random.default_rng(0).integers(0, count - _BLOCK + 1, (_RESAMPLES, blocks))
        drawn = (begins[..., None] + np.arange(_BLOCK)).reshape(_RESAMPLES, -1)[:, :count]
        found = _worst(squares[drawn].mean(axis=1))
        tail = 0.5 * (1 - _CONFIDENCE)
        low, high = np.quantile(found, (tail, 1 - tail))
        return float(low), float(high)

    @property
    def table(self) -> dict[str, dict[str, float]]:
        """RMSE in mass-scaled units of the last exams: predictor → ``{"x": amu^½ Å, "v": amu^½ Å/ps}``."""
        if not self._exams:
            return {}
        mean = np.sqrt(np.mean([one.squares for one in self._exams], axis=0))
        return {name: {"x": float(x), "v": float(v)} for name, (x, v) in zip(PREDICTORS, mean, strict=True)}

    def metrics(self) -> dict[str, Any]:
        """For the file of a model: the table, and its errors over those of the best other; empty without exams."""
        table = self.table
        if not table:
            return {}
        lowest = {key: min(table[name][key] for name in PREDICTORS[1:]) for key in ("x", "v")}
        over = {key: table["learned"][key] / max(lowest[key], 1e-12) for key in ("x", "v")}
        return {"one_step": table, "over_best_baseline": over}

    def state(self) -> list[Any]:
        """For a restart file."""
        return [[one.velocity.tolist(), one.squares.tolist()] for one in self._exams]

    def restore(self, state: Iterable[Any]) -> None:
        """Undo :meth:`state`."""
        self._exams.clear()
        for velocity, squares in state:
            self._exams.append(Exam(np.array(velocity, dtype=float), np.array(squares, dtype=float).reshape(4, 2)))


def _worst(squares: np.ndarray) -> np.ndarray:
    return 100.0 * np.sqrt(squares.max(axis=-1))
