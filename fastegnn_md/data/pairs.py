"""Pairs of states a lag apart: the data set a propagator is trained on."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from .. import units
from ..errors import DataError
from ..state import State
from .collate import NEIGHBOURS, Midpoint, StateReader, Velocities
from .noise import NoiseFloorWarning, noise_floor
from .sources import Source, check_stored_velocities, friction_of, open_stores
from .split import frames_per_lag, split_windows
from .store import Store
from .windows import Windows


class TrajectoryPairs(Dataset[tuple[State, ...]]):
    """Pairs (state at t, state at t + lag) from MDAnalysis trajectories or from stores.

    A trajectory is read once, frame by frame, checked, unwrapped in order and written to an H5MD store; pairs are then
    fetched from the store through memory maps, so that memory does not grow with the trajectory. Several lags can share
    one store: pass the same ``store`` again, or the path of the store as ``source``.

    Velocities must be those of the time of the frame. Verlet-type integrators of some engines (OpenMM's Verlet and
    LangevinMiddle) save v(t − dt/2) instead; that cannot be seen in a file. Correct them by ½ dt f/m before writing
    the trajectory, or harvest.

    Parameters
    ----------
    source : Universe, AtomGroup, Store, path of a store, or a sequence of these
        Several sources (of different size, too) make one data set; a batch mixes them.
    lag : float or str
        Time between the two states, in ps, or with its unit (``"10 fs"``). A whole number of frames.
    select : str
        MDAnalysis selection of the atoms to keep.
    store : path, optional
        Where the store is written; reused if it holds the same frames. Several universes get a number before the
        suffix. Default: a temporary file that lives as long as its :attr:`stores`, so as long as this object and all
        that is made from it: splits, sequences, copies.
    velocities : {"stored", "central", "forward", "none"}
        ``"stored"``: from the file. ``"central"``: (x(t+dt) − x(t−dt)) / 2dt between frames dt apart, an approximation
        whose error grows as dt². ``"forward"``: (x(t+dt) − x(t)) / dt, which **looks into the future** and is
        only for reproducing published tables made this way. ``"none"``: zeros, for position-only propagators.
    dt : float, ps, optional
        Time between frames of the file; only for files that do not say it. (Arrays in memory always say it: MDAnalysis
        gives them 1 ps unless ``load_new(..., dt=)`` is told otherwise.)
    stride : int
        Keep every stride-th frame of the trajectory.
    time_reversal : bool
        Add the pairs (x', −v') → (x, −v).
    unwrap : bool
        Follow atoms through periodic boundaries while the store is written. With False wrapped coordinates are refused.
    isolated : bool
        Take the atoms out of their box as one isolated molecule: a solute without its solvent, for kind "flow". It is
        put together across the boundaries along its bonds, or atom by atom where it has none (a Cα trace).
    friction : float or str, optional
        Langevin friction of the run in 1/ps or with its unit (``"1/ps"``), to estimate the noise floor; 0 for a run at
        constant energy. Default: what a .traj file says of the dynamics that wrote it.
    progress : bool
        Show progress bars.

    Attributes
    ----------
    lag : float, ps
    friction : float or None, 1/ps
    lag_frames : tuple of int
        Frames per lag, for each store.
    steps : int
        Lags that an item spans: 1, a pair; more after :meth:`sequences`.
    n_atoms : int
        Atoms of the largest system.
    numbers, masses : ndarray, shape (sum of atoms over systems,)
        Atomic numbers and masses (amu) of all systems, one after the other.
    has_forces, has_velocities, has_bonds, periodic : bool
        What the states carry. Fields that one system lacks are left out for all.
    has_midpoint_forces, has_middle_frames : bool
        Whether forces half a lag ahead along the velocity were stored, and whether there are frames with forces
        halfway between those of the pairs.
    fingerprint : str
        SHA-256 of the stored data and of the pairs made from them.
    stores : tuple of Store

    Raises
    ------
    DataError
        If the data cannot give such pairs; the message says why and what to do.

    Warns
    -----
    NoiseFloorWarning
        If velocities of a trajectory cannot be predicted at this lag: see :func:`noise_floor`.
    """

    def __init__(
        self,
        source: Source | Sequence[Source],
        *,
        lag: float | str,
        select: str = "all",
        store: str | os.PathLike[str] | None = None,
        velocities: Velocities = "stored",
        dt: float | None = None,
        stride: int = 1,
        time_reversal: bool = False,
        unwrap: bool = True,
        isolated: bool = False,
        friction: float | str | None = None,
        progress: bool = True,
    ):
        if velocities not in NEIGHBOURS:
            raise DataError(f"velocities are {velocities!r}; expected one of {', '.join(map(repr, NEIGHBOURS))}")
        if time_reversal and velocities == "forward":
            raise DataError("time_reversal needs velocities of the time of the frame, forward differences are not")
        self.lag: float = _ps(lag)
        self.velocities = velocities
        self.time_reversal = time_reversal
        self.steps = 1
        self._with_middles = False
        self.stores: tuple[Store, ...] = open_stores(
            source,
            store,
            need_velocities=velocities == "stored",
            select=select,
            dt=dt,
            stride=stride,
            unwrap=unwrap,
            isolated=isolated,
            progress=progress,
        )
        self.lag_frames: tuple[int, ...] = tuple(frames_per_lag(self.lag, one.dt) for one in self.stores)
        self._describe()
        self._windows = Windows([one.segments for one in self.stores], self.lag_frames, NEIGHBOURS[velocities])
        if not len(self):
            longest = max(one.dt * float(np.diff(one.segments).max(initial=1) - 1) for one in self.stores)
            more = " (difference velocities need one frame more on their sides)" if any(NEIGHBOURS[velocities]) else ""
            raise DataError(
                f"no pair fits: the longest run of frames spans {units.format_time(longest)}, the lag is "
                f"{units.format_time(self.lag)}{more}; give a shorter lag or longer trajectories"
            )
        if velocities == "stored":
            check_stored_velocities(self.stores)
        self.friction: float | None = friction_of(source, friction)
        self._warn_of_noise()

    def _describe(self) -> None:
        stores = self.stores
        if len({one.periodic for one in stores}) > 1:
            raise DataError("some sources have a cell and some have not; train on one kind at a time")
        self.periodic: bool = stores[0].periodic
        self.has_velocities: bool = self.velocities != "none"
        self.has_forces: bool = all(one.has_forces for one in stores)
        self.has_bonds: bool = all(one.topology.bonds is not None for one in stores)
        self.n_atoms: int = max(one.n_atoms for one in stores)
        self.numbers: np.ndarray = np.concatenate([one.topology.numbers for one in stores])
        self.masses: np.ndarray = np.concatenate([one.topology.masses for one in stores])
        self.has_midpoint_forces: bool = self.velocities == "stored" and all(
            one.midpoint is not None and math.isclose(one.midpoint, self.lag, rel_tol=1e-6) for one in stores
        )
        self.has_middle_frames: bool = (
            self.velocities == "stored" and self.has_forces and all(frames % 2 == 0 for frames in self.lag_frames)
        )
        self._reader = self._new_reader()

    def _new_reader(self, *, ends: bool = True) -> StateReader:
        midpoint: Midpoint | None = "flight" if self.has_midpoint_forces else None
        return StateReader(
            self.stores,
            self.velocities,
            forces=self.has_forces,
            midpoint="frame" if self._with_middles else midpoint,
            bonds=self.has_bonds,
            ends=ends,
        )

    def _warn_of_noise(self) -> None:
        trajectory = [one.kind == "trajectory" for one in self.stores]
        if not any(trajectory) or not self.has_velocities:
            return
        floor = noise_floor(self, friction=self.friction)
        if floor.dominates:
            warnings.warn(floor.message(), NoiseFloorWarning, stacklevel=3)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the stored data, the lag and the windows."""
        digest = hashlib.sha256(f"{self.lag:.9g} {self.velocities} {self.time_reversal}".encode())
        if self.steps > 1:
            digest.update(f" {self.steps}".encode())
        for store, window in zip(self.stores, self._windows.ranges, strict=True):
            digest.update(store.content.encode() + np.ascontiguousarray(window, dtype="<i8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return self.n_forward * (2 if self.time_reversal else 1)

    @property
    def n_forward(self) -> int:
        """Number of pairs without the time-reversed ones, which come after them."""
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[State, ...]:
        """The pair of one index: state at t, state at t + lag (float32); after :meth:`sequences` the further ones."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} pairs")
        return self.batch([index % len(self)])

    def batch(self, indices: Sequence[int] | np.ndarray | Tensor) -> tuple[State, ...]:
        """Pairs of several indices as two batched states, read at once.

        Parameters
        ----------
        indices : sequence of int
            Which pairs; the systems of the batch are in this order.

        Returns
        -------
        start, end : State
            float32; equal to :meth:`State.concatenate` of the single pairs. After :meth:`sequences`: the states at
            t, t + lag, … t + steps lag.

        Raises
        ------
        IndexError
            If an index is out of range.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        frames = self.frame_indices(wanted)
        return self._reader.states(frames[:, 0], frames[:, 1:], wanted >= self.n_forward)

    def frame_indices(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Where pairs lie in their stores.

        Parameters
        ----------
        indices : sequence of int
            Which pairs.

        Returns
        -------
        ndarray of int, shape (n, 3)
            Store, first frame, second frame; shape (n, 2 + steps) with the further frames after :meth:`sequences`.
            Time-reversed pairs have the later frame first.

        Raises
        ------
        IndexError
            If an index is out of range.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.ndim != 1 or not len(wanted):
            raise IndexError("give one index or more, in one dimension")
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(f"indices {wanted.min()}..{wanted.max()} of {len(self)} pairs")
        which, frames = self._windows.frames(wanted % self.n_forward)
        backwards = (wanted >= self.n_forward)[:, None]
        return np.concatenate([which[:, None], np.where(backwards, frames[:, ::-1], frames)], axis=1)

    def sequences(self, steps: int) -> TrajectoryPairs:
        """The same data as runs of ``steps`` lags in place of pairs, for training on successive jumps.

        An item is the states at t, t + lag, … t + steps lag, all of one window; windows that are shorter give none.
        Time-reversed runs begin at the last frame, with −v.

        Parameters
        ----------
        steps : int
            1 gives the pairs again.

        Returns
        -------
        TrajectoryPairs
            A view on the same stores.

        Raises
        ------
        DataError
            If no window is long enough.
        """
        view = copy.copy(self)
        view.steps = steps
        view._windows = self._windows.with_steps(steps)
        if not len(view):
            raise DataError(
                f"no run of {steps} lags of {units.format_time(self.lag)} fits into the segments of these data; "
                "harvest longer bursts (burst = lag times the number of steps, at least), or take fewer steps"
            )
        return view

    def with_middle_frames(self) -> TrajectoryPairs:
        """A view whose first states carry positions and forces of the frame halfway to the second one.

        They are ``midpoint_positions`` and ``midpoint_forces`` of the state. :attr:`has_middle_frames` says whether
        there are such frames: forces are stored, and the lag is an even number of frames.
        """
        view = copy.copy(self)
        view._with_middles = True
        view._reader = view._new_reader()
        return view

    def lean(self, *, forces: bool, midpoint: bool) -> TrajectoryPairs:
        """A view that reads no more forces than asked for, and those of the first states alone: faster to train on.

        Parameters
        ----------
        forces, midpoint : bool
            Whether first states carry the forces of these data, and those at their midpoints.
        """
        view = copy.copy(self)
        view.has_forces, view.has_midpoint_forces = self.has_forces and forces, self.has_midpoint_forces and midpoint
        view._with_middles = self._with_middles and midpoint
        view._reader = view._new_reader(ends=False)
        return view

    def start_frames(self, index: int, multiple: int, limit: int) -> np.ndarray:
        """Up to ``limit`` evenly spread frames of one store with a frame ``multiple`` lags later in the same window."""
        return self._windows.spread(index, multiple, limit)

    def velocities_at(self, index: int, frames: np.ndarray) -> np.ndarray:
        """Velocities of frames of one store, shape (n, N, 3), Å/ps, stored or from differences."""
        return self._reader.velocities_at(index, frames)

    def split(self, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> tuple[TrajectoryPairs, ...]:
        """Divide into parts, contiguous in time, that share no frame.

        Between the last frame of a part and the first frame of the next lies at least the lag, so no pair straddles.
        Segments of a harvest are never cut. Each source is divided on its own.

        Parameters
        ----------
        fractions : sequence of float
            Share of the frames of each part, positive, with sum 1.

        Returns
        -------
        tuple of TrajectoryPairs
            Views on the same stores.

        Raises
        ------
        DataError
            If there are too few frames for a part to hold a pair.
        """
        before, after = NEIGHBOURS[self.velocities]
        parts: list[list[np.ndarray]] = [[] for _ in fractions]
        for store, window, frames in zip(self.stores, self._windows.ranges, self.lag_frames, strict=True):
            blocks = split_windows(
                window,
                store.times,
                fractions,
                span=self.steps * frames + before + after,
                lag=self.lag,
                whole=store.kind == "bursts",
            )
            for part, block in zip(parts, blocks, strict=True):
                part.append(block)
        return tuple(self._with_windows(part) for part in parts)

    def _with_windows(self, ranges: list[np.ndarray]) -> TrajectoryPairs:
        part = copy.copy(self)
        part._windows = self._windows.with_ranges(ranges)
        return part

    def close(self) -> None:
        """Release the memory maps; they open again when needed."""
        for store in self.stores:
            store.close()

    def __repr__(self) -> str:
        return (
            f"TrajectoryPairs({len(self)} pairs, lag {units.format_time(self.lag)}, {len(self.stores)} systems, "
            f"velocities {self.velocities!r})"
        )


def _ps(lag: Any) -> float:
    """A lag in ps."""
    if not isinstance(lag, (str, Real)):
        raise DataError(f"lag is {lag!r}; expected a number of ps, or a text with its unit")
    return units.parse_quantity(lag, "time") if isinstance(lag, str) else float(lag)
