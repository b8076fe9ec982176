"""Seeds at work: jumps, bursts, and what is estimated from the bursts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from scipy.spatial import cKDTree

from .._progress import progress_bar
from ..data.internal import InternalCoordinates
from ..data.trajectory import molecule_alone
from ..errors import DataError, EngineError
from ..mechanics.thermal import thermal_velocities
from ..propagator.learned_map import LearnedMap
from ..state import State
from .kinetics import Interval, Kinetics, estimate
from .langevin import LangevinRecipe, SeededStart
from .seed_files import SeedFolder, read_dcd
from .seed_plan import SeedPlan
from .spreading import choose, spread
from .workers import Workers, run_bursts

RELAX = 50  # steps of the engine after each jump
_PIECES = 20  # of the reference, resampled for intervals
_MAX_FAILED = 0.1  # of the bursts
_UNSEEN = -2  # in the place of a state


@dataclass(frozen=True)
class Seeded:
    """What came of bursts from seeds.

    Attributes
    ----------
    folder : Path
        With ``topology.pdb``, ``visited.dcd`` (after each jump), ``bursts/*.dcd``, ``results.json``, ``report.html``.
    kinetics : Kinetics
        Of the bursts alone; times in frames.
    interval : float, ps
        Between frames.
    flow : ndarray
        Share of the jumps in each metastable state: the model's own populations.
    reference : tuple of Interval, or None
        Shares in reference trajectories, with intervals by resampling 10 pieces of them.
    unseen_flow, unseen_reference : float
        Shares of the frames after jumps, and of the reference, that lie where no burst was; no state counts them.
    coordinates : InternalCoordinates
    bursts, failed : int
        Bursts run, and those in which the engine failed.
    drawn, refused : int
        Jumps.
    nanoseconds : float
        Of all bursts together.
    spread_seconds, burst_seconds : float
    settings : dict
    """

    folder: Path
    kinetics: Kinetics
    interval: float
    flow: np.ndarray
    reference: tuple[Interval, ...] | None
    unseen_flow: float
    unseen_reference: float
    coordinates: InternalCoordinates
    bursts: int
    failed: int
    drawn: int
    refused: int
    nanoseconds: float
    spread_seconds: float
    burst_seconds: float
    settings: dict[str, Any]


@dataclass
class SeedRun:
    """Seeds at work."""

    folder: SeedFolder
    plan: SeedPlan
    model: LearnedMap
    states: list[State]
    recipe: LangevinRecipe
    temperature: float
    seed: int
    coordinates: InternalCoordinates
    _found: tuple[np.ndarray, np.ndarray, dict[str, Any]] | None = None  # what jumps visited, as it lies in the folder

    def spread(self, progress: bool) -> None:
        """Jump, unless it was done before."""
        self._found = self.folder.spread()
        if self._found is not None:
            return
        with progress_bar(total=self.plan.jumps, desc="jumps", unit="jump", disable=not progress) as bar:
            found = spread(
                self.model,
                self.states,
                self.recipe.build(),
                jumps=self.plan.jumps,
                temperature=self.temperature,
                relax=RELAX,
                seed=self.seed,
                tick=bar.update,
            )
        visited = found.positions.reshape(-1, *found.positions.shape[2:])
        chosen = choose(visited, self.coordinates, self.plan.starts, self.seed)
        self.folder.save_spread(found, chosen, self.model.timestep)
        self._found = self.folder.spread()

    def bursts(self, workers: Workers, progress: bool) -> None:
        """Run the bursts that are missing."""
        total = self._total()
        waiting = [index for index in range(total) if not self.folder.done(index)]
        steps = round(self.plan.interval / self.recipe.engine.timestep)
        failed = sum(self.folder.failure(index).exists() for index in range(total))
        begun = time.perf_counter()
        with progress_bar(
            total=total, initial=total - len(waiting), desc="bursts", unit="burst", disable=not progress
        ) as bar:
            for index, one in run_bursts(waiting, self.recipe, self._start, self.plan.frames, steps, workers):
                self.folder.save_burst(index, one.positions, self.plan.interval, one.error)
                ended = time.perf_counter()
                self.folder.ledger.write(ended - begun)
                begun, failed = ended, failed + bool(one.error)
                bar.update()
                if failed > max(1, _MAX_FAILED * total):
                    raise EngineError(
                        f"the engine failed in {failed} bursts ({one.error or 'see bursts/*.failed'}); "
                        f"{_MAX_FAILED:.0%} of {total} may fail. Take a smaller timestep, or another engine, and "
                        "another output"
                    )

    def concluded(self, reference: Sequence[mda.Universe | mda.AtomGroup]) -> Seeded:
        """Estimate populations and time scales from the bursts there are."""
        visited, _, record = self._visited
        total = self._total()
        paths = [path for index in range(total) if (path := self.folder.burst(index)).exists()]
        bursts = [read_dcd(path)[self.plan.dropped :] for path in paths]
        kinetics = estimate([self.coordinates(one) for one in bursts], self.plan.lag, seed=self.seed)
        known = _Known(self.coordinates, np.concatenate(bursts))
        flow = _states(kinetics, known, self.coordinates, visited)
        shares, unseen = self._reference(kinetics, known, reference)
        return Seeded(
            folder=self.folder.path,
            kinetics=kinetics,
            interval=self.plan.interval,
            flow=_shares(_counts(flow, len(kinetics.populations))),
            reference=shares,
            unseen_flow=float(np.mean(flow == _UNSEEN)),
            unseen_reference=unseen,
            coordinates=self.coordinates,
            bursts=total,
            failed=total - len(paths),
            drawn=int(record["drawn"]),
            refused=int(record["refused"]),
            nanoseconds=total * (self.plan.frames - 1) * self.plan.interval / 1000,
            spread_seconds=float(record["seconds"]),
            burst_seconds=self.folder.ledger.seconds,
            settings={
                "model": self.model.describe(),
                "engine": self.recipe.name,
                "temperature": self.temperature,
                "jumps": self.plan.jumps,
                "replicas": self.plan.replicas,
                "jump_ps": self.model.timestep,
                "starts": len(self._visited[1]),
                "burst_ps": (self.plan.frames - 1) * self.plan.interval,
                "burn_in_ps": self.plan.dropped * self.plan.interval,
                "lag_ps": self.plan.lag * self.plan.interval,
                "seed": self.seed,
            },
        )

    def _reference(
        self, kinetics: Kinetics, known: _Known, reference: Sequence[mda.Universe | mda.AtomGroup]
    ) -> tuple[tuple[Interval, ...] | None, float]:
        if not reference:
            return None, 0.0
        labels = []
        for one in reference:
            atoms = one.atoms
            if len(atoms) != self.states[0].n_atoms:
                raise DataError(f"the reference has {len(atoms)} atoms, the seeds {self.states[0].n_atoms}")
            alone = molecule_alone(atoms)
            frames = [alone(ts) for ts in atoms.universe.trajectory]
            labels.append(_states(kinetics, known, self.coordinates, np.array(frames)))
        n_states = len(kinetics.populations)
        pieces = [piece for one in labels for piece in np.array_split(one, max(1, _PIECES // len(labels)))]
        counts = np.array([_counts(piece, n_states) for piece in pieces])
        rng = np.random.default_rng([self.seed, 3])
        drawn = counts[rng.integers(len(counts), size=(400, len(counts)))].sum(axis=1)
        drawn = _shares(drawn)
        shares = _shares(counts.sum(axis=0))
        unseen = float(np.mean(np.concatenate(labels) == _UNSEEN))
        return tuple(Interval.of(shares[k], drawn[:, k]) for k in range(n_states)), unseen

    @property
    def _visited(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        assert self._found is not None
        return self._found

    def _total(self) -> int:
        return len(self._visited[1]) * self.plan.repeats

    def _start(self, index: int) -> SeededStart:
        starts = self._visited[1]
        x = starts[index % len(starts)].astype(np.float64)
        rng = np.random.default_rng([self.seed, 4, index])
        v = thermal_velocities(self.states[0].masses, self.temperature, rng).numpy()
        return SeededStart(x, v, None, int(rng.integers(2**31 - 2)))


class _Known:
    """Where bursts were: frames no further from one of theirs than their own most lonely frame from the next."""

    def __init__(self, coordinates: InternalCoordinates, bursts: np.ndarray):
        self._coordinates = coordinates
        turns = coordinates.turns(bursts)
        self._tree = cKDTree(turns)
        self._limit = float(self._tree.query(turns, 2)[0][:, 1].max())

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        near: np.ndarray = self._tree.query(self._coordinates.turns(positions))[0] <= self._limit
        return near


def _states(kinetics: Kinetics, known: _Known, coordinates: InternalCoordinates, positions: np.ndarray) -> np.ndarray:
    """State of each frame; what lies where no burst was is not taken for the nearest one."""
    found = kinetics.states_of(coordinates(positions))
    found[~known(positions)] = _UNSEEN
    return found


def _counts(states: np.ndarray, n_states: int) -> np.ndarray:
    return np.bincount(states[states >= 0], minlength=n_states).astype(np.float64)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Along the last axis."""
    shares: np.ndarray = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0)
    return shares
