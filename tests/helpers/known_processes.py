"""Stochastic processes whose transition densities are known: judges are judged by them."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh


class OrnsteinUhlenbeck:
    """dx = −A x dt + √2 dW in two dimensions with A = 1 + rotation: the density stays that of a unit Gaussian.

    Without rotation it is in equilibrium; with it a current runs around the origin, which only detailed balance shows.
    """

    def __init__(self, rotation: float = 0.0):
        self.rotation = rotation

    def jump(self, x: np.ndarray, time: float, rng: np.random.Generator) -> np.ndarray:
        """One exact sample for each row of x (n, 2)."""
        return self.mean(x, time) + np.sqrt(1 - np.exp(-2 * time)) * rng.normal(size=x.shape)

    def mean(self, x: np.ndarray, time: float) -> np.ndarray:
        angle = self.rotation * time
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.exp(-time) * x @ turn.T

    def trajectories(self, runs: int, jumps: int, time: float, rng: np.random.Generator) -> np.ndarray:
        """Stationary runs (runs, jumps + 1, 2)."""
        return chain(rng.normal(size=(runs, 2)), lambda x: self.jump(x, time, rng), jumps)


class DoubleWell:
    """Overdamped motion, D = 1, in U = h (x² − 1)² + tilt x, on a grid: all is exact there.

    Rates between neighbours k → k ± 1 are exp(−(U' − U)/2) / dx², which hold detailed balance; transition probabilities
    are exponentials of that matrix.
    """

    def __init__(self, barrier: float = 4.0, tilt: float = 0.3, points: int = 121):
        self.x = np.linspace(-1.9, 1.9, points)
        energy = barrier * (self.x**2 - 1) ** 2 + tilt * self.x
        self.p = np.exp(-energy) / np.exp(-energy).sum()
        hop = (
            np.exp(-0.5 * np.diff(energy)) / (self.x[1] - self.x[0]) ** 2,
            np.exp(0.5 * np.diff(energy)) / (self.x[1] - self.x[0]) ** 2,
        )
        generator = np.diag(hop[0], 1) + np.diag(hop[1], -1)
        generator -= np.diag(generator.sum(axis=1))
        root = np.sqrt(self.p)
        symmetric = root[:, None] * generator / root[None]
        self.rates, modes = eigh(0.5 * (symmetric + symmetric.T))
        self.left, self.right = modes / root[:, None], modes * root[:, None]
        self.basin = (self.x > 0).astype(np.int64)

    def matrix(self, time: float) -> np.ndarray:
        """Transition probabilities between grid points."""
        found = np.maximum((self.left * np.exp(self.rates * time)) @ self.right.T, 0.0)
        return found / found.sum(axis=1, keepdims=True)

    def timescale(self, process: int = 0) -> float:
        return float(-1 / np.sort(self.rates)[::-1][1 + process])

    def basin_matrix(self, time: float) -> np.ndarray:
        """Transition probabilities between left and right."""
        flow, inside = self.p[:, None] * self.matrix(time), np.eye(2)[self.basin]
        joint = inside.T @ flow @ inside
        return joint / joint.sum(axis=1, keepdims=True)

    def passage(self, time: float, begin: np.ndarray, end: np.ndarray) -> float:
        """Mean first passage time from one set of points (masks) to another, seen every `time`."""
        outside = ~end
        steps = np.zeros(len(self.x))
        inner = np.eye(outside.sum()) - self.matrix(time)[np.ix_(outside, outside)]
        steps[outside] = np.linalg.solve(inner, np.full(outside.sum(), time))
        return float((self.p * steps)[begin].sum() / self.p[begin].sum())

    def trajectories(self, runs: int, jumps: int, time: float, rng: np.random.Generator) -> np.ndarray:
        """Stationary runs (runs, jumps + 1) of grid points."""
        ends = self.matrix(time).cumsum(axis=1)

        def jump(k: np.ndarray) -> np.ndarray:
            return np.minimum((ends[k] < rng.random((len(k), 1))).sum(axis=1), len(self.x) - 1)

        return chain(self.draw(runs, rng), jump, jumps)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Grid points of the stationary density."""
        return rng.choice(len(self.x), size=count, p=self.p)


def chain(start: np.ndarray, jump, jumps: int) -> np.ndarray:
    """Runs of a map, in the order (run, frame, ...)."""
    frames = [start]
    for _ in range(jumps):
        frames.append(jump(frames[-1]))
    return np.stack(frames, axis=1)
