"""Starting points spread by the jumps of a stochastic model, and those chosen among them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import units
from .._extras import naming_extras
from ..data.internal import InternalCoordinates
from ..errors import DataError, StateError
from ..graph.environments import environments
from ..mechanics.thermal import thermal_velocities
from ..propagator.learned_map import LearnedMap
from ..state import State
from .bursts import BurstRunner
from .langevin import SeededStart

TRIES = 3  # draws of a jump before its replica stays where it is
_SIGMAS = 10.0  # of the potential energy at equilibrium, that a seed may lie above the first one


@dataclass(frozen=True)
class Spread:
    """Where jumps led.

    Attributes
    ----------
    positions : ndarray of float32, shape (jumps, replicas, N, 3), Å
        After each jump, relaxed by the engine.
    drawn, refused : int
        Jumps drawn, and those of them that were drawn anew or given up.
    seconds : float
    """

    positions: np.ndarray
    drawn: int
    refused: int
    seconds: float


def spread(
    model: LearnedMap,
    states: list[State],
    runner: BurstRunner,
    *,
    jumps: int,
    temperature: float,
    relax: int,
    seed: int,
    tick: Callable[[], Any],
) -> Spread:
    """Chains of jumps, one for each state, each jump followed by a few steps of the engine.

    A jump that is refused (positions that are not finite, an engine that fails, an energy far above that of the start,
    a centre whose handedness changed) is drawn anew, and after three tries the replica stays where it is. That biases
    the chain; what is made of it here are starting points.

    Parameters
    ----------
    model : LearnedMap
        Stochastic.
    states : list of State
        Where the replicas start.
    runner : BurstRunner
        Of :class:`~fastegnn_md.harvest.langevin.LangevinRecipe`.
    jumps : int
    temperature : float, K
    relax : int
        Steps of the engine after each jump.
    seed : int
    tick : callable
        Called after each jump of all replicas.

    Raises
    ------
    DataError
        If the engine fails at a start, or every jump of the first round is refused.
    """
    begun = time.perf_counter()
    generators = [torch.Generator().manual_seed(_number(seed, k)) for k in range(len(states))]
    rng = np.random.default_rng([seed, 1])
    centres = _Centres(states[0])

    def relaxed(x: np.ndarray) -> tuple[np.ndarray, float] | None:
        v = thermal_velocities(states[0].masses, temperature, rng).numpy()
        burst = runner.run(SeededStart(x, v, None, int(rng.integers(2**31 - 2))), 2, relax)
        good = not burst.error and np.isfinite(burst.positions[-1]).all()
        return (burst.positions[-1].astype(np.float64), float(burst.energies[-1])) if good else None

    first = [relaxed(state.positions.numpy()) for state in states]
    if any(one is None for one in first):
        raise DataError("the engine fails within a few steps of a start; relax the starting structure first")
    # Fluctuations of the potential energy of 3N/2 oscillators; what lies far beyond is a broken molecule.
    room = _SIGMAS * units.BOLTZMANN * temperature * np.sqrt(1.5 * states[0].n_atoms)
    highest = max(one[1] for one in first if one is not None) + room
    now = [one[0] for one in first if one is not None]
    visited = np.zeros((jumps, len(states), states[0].n_atoms, 3), dtype=np.float32)
    drawn = refused = 0
    for jump in range(jumps):
        waiting = list(range(len(states)))
        for _ in range(TRIES):
            ended = _draw(
                model,
                [states[k].replace(positions=torch.from_numpy(now[k])) for k in waiting],
                [generators[k] for k in waiting],
                temperature,
            )
            drawn += len(waiting)
            left = []
            for k, x in zip(waiting, ended, strict=True):
                found = relaxed(x) if np.isfinite(x).all() else None
                if found is None or found[1] > highest or not centres.kept(now[k], found[0]):
                    left.append(k)
                else:
                    now[k] = found[0]
            refused += len(left)
            waiting = left
            if not waiting:
                break
        if jump == 0 and len(waiting) == len(states):
            raise DataError(
                f"all {drawn} first jumps were refused: energies far above the start, another handedness, or positions "
                "that are not finite; is the model one for this molecule and this engine?"
            )
        visited[jump] = now
        tick()
    return Spread(visited, drawn, refused, time.perf_counter() - begun)


def choose(visited: np.ndarray, coordinates: InternalCoordinates, starts: int, seed: int) -> np.ndarray:
    """Frames to start bursts from: one of each of ``starts`` clusters (k-means of torsions, or of distances).

    Each cluster gives one whatever its weight, and centres begin far from each other (k-means++), so that regions
    visited rarely have starts too.

    Parameters
    ----------
    visited : ndarray, shape (n_frames, N, 3), Å

    Returns
    -------
    ndarray of int
        Frames, fewer than ``starts`` where so many differ.
    """
    with naming_extras("choosing seeds"):
        from deeptime.clustering import KMeans

    features = np.ascontiguousarray(coordinates.turns(visited), dtype=np.float64)
    distinct = len(np.unique(features, axis=0))
    wanted = min(starts, distinct)
    if wanted == distinct:
        return np.sort(np.unique(features, axis=0, return_index=True)[1])
    model = KMeans(wanted, max_iter=50, fixed_seed=seed + 1, n_jobs=1).fit(features).fetch_model()
    labels = model.transform(features)
    rng = np.random.default_rng([seed, 2])
    return np.array([int(rng.choice(np.flatnonzero(labels == one))) for one in np.unique(labels)])


def _draw(
    model: LearnedMap, states: list[State], generators: list[torch.Generator], temperature: float
) -> list[np.ndarray]:
    """Positions after a jump; NaN for a state whose prediction is not finite."""
    try:
        ended = model(State.concatenate(states), generator=generators, temperature=temperature)
        return [x.numpy().astype(np.float64) for x in ended.positions.split([one.n_atoms for one in states])]
    except StateError:
        if len(states) == 1:
            return [np.full(tuple(states[0].positions.shape), np.nan)]
        pairs = zip(states, generators, strict=True)
        return [_draw(model, [state], [generator], temperature)[0] for state, generator in pairs]


class _Centres:
    """Stereocentres: atoms with four neighbours of which no two are alike."""

    def __init__(self, state: State):
        self._around = np.zeros((0, 4), dtype=np.int64)
        if state.bonds is None:
            return
        keys = environments(state.numbers, state.bonds).numpy()
        neighbours: dict[int, list[int]] = {}
        for a, b in state.bonds.tolist():
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
        found = [ends for ends in neighbours.values() if len(ends) == 4 and len(set(keys[ends])) == 4]
        self._around = np.array(found, dtype=np.int64).reshape(-1, 4)

    def kept(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether every centre has the handedness it had."""
        return bool((self._volumes(before) * self._volumes(after) > 0).all())

    def _volumes(self, x: np.ndarray) -> np.ndarray:
        a, b, c, d = (x[self._around[:, k]] for k in range(4))
        volumes: np.ndarray = np.einsum("ij,ij->i", np.cross(a - d, b - d), c - d)
        return volumes


def _number(*seeds: int) -> int:
    return int(np.random.default_rng(list(seeds)).integers(2**63 - 1))
