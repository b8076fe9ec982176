"""Water-3D: fluids of thousands of particles in the HDF5 layout of LagrangeBench.

Sanchez-Gonzalez et al., ICML 2020 (the data, as TFRecord); Toshev et al., NeurIPS 2023 (LagrangeBench, which converts
them). One file per split, ``train.h5``, ``valid.h5`` and ``test.h5``; in it one group per trajectory with ``position``
(T, N, 3) and ``particle_type`` (N,). Lengths have no unit: the radius of neighbours is 0.035, gravity acts along −y.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ...errors import DataError
from .rotation import random_rotation_about_y

RADIUS = 0.035
GRAVITY = (0.0, -1.0, 0.0)


class FluidStep(NamedTuple):
    """One start.

    Attributes
    ----------
    x, v, target : ndarray of float32, shape (N, 3)
        Positions, forward differences x(t + 1) − x(t) (they look into the future), and positions some frames later.
    particle_type : ndarray of float32, shape (N,)
    """

    x: np.ndarray
    v: np.ndarray
    target: np.ndarray
    particle_type: np.ndarray


class Water3D:
    """Starts drawn from the trajectories of one split; frames are read when they are asked for.

    Parameters
    ----------
    path : path
        File of the split.
    ahead : int
        Frames from input to target.
    starts : int
        Starts drawn from each trajectory, among the first ``window`` frames.
    window : int
        250 in the published code; starts whose target is past the end are never drawn.
    turned : bool
        Rotate each start about the axis of gravity, as the published test set.
    seed : int
        Of starts and rotations.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another layout, or a trajectory is too short.
    """

    path: Path
    ahead: int
    turned: bool
    seed: int

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ahead: int = 20,
        starts: int = 15,
        window: int = 250,
        turned: bool = False,
        seed: int = 43,
    ):
        self.path, self.ahead, self.turned, self.seed = Path(path), ahead, turned, seed
        if not self.path.is_file():
            raise DataError(
                f"{self.path} does not exist; Water-3D has to be fetched and converted to HDF5 with the scripts of "
                "LagrangeBench (github.com/tumaer/lagrangebench, folder gns_data)"
            )
        rng = np.random.Generator(np.random.PCG64(seed))
        self._starts: list[tuple[str, int]] = []
        counts = []
        try:
            with h5py.File(self.path, "r") as file:
                for name in sorted(file):
                    particles, last = self._check(file, name)
                    drawn = rng.integers(min(window, last) + 1, size=starts)
                    self._starts += [(name, int(frame)) for frame in drawn]
                    counts += [particles] * starts
        except (OSError, KeyError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{self.path} is not a readable file in the layout of LagrangeBench ({error}); convert it again"
            ) from error
        if not counts:
            raise DataError(f"{self.path} holds no trajectory; convert it again")
        self.counts: np.ndarray = np.array(counts)

    def _check(self, file: h5py.File, name: str) -> tuple[int, int]:
        """Number of particles and last frame to start from."""
        shape, types = file[name]["position"].shape, file[name]["particle_type"].shape
        if len(shape) != 3 or shape[2] != 3 or types != shape[1:2]:
            raise DataError(
                f"{self.path}: trajectory {name} has positions of shape {shape} and particle types of shape {types}; "
                "expected (T, N, 3) and (N,)"
            )
        if shape[0] <= self.ahead:
            raise DataError(
                f"{self.path}: trajectory {name} has {shape[0]} frames; targets {self.ahead} frames ahead need more"
            )
        return shape[1], shape[0] - 1 - self.ahead

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> FluidStep:
        """One start.

        Raises
        ------
        DataError
            If the file was changed, or a position is not finite.
        """
        name, frame = self._starts[index]
        try:
            with h5py.File(self.path, "r") as file:
                group = file[name]
                x, later, target = (
                    np.asarray(group["position"][at], dtype=np.float64) for at in (frame, frame + 1, frame + self.ahead)
                )
                types = np.asarray(group["particle_type"], dtype=np.float32)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.path}: frame {frame} of trajectory {name} cannot be read: {error}") from error
        if not all(np.isfinite(one).all() for one in (x, later, target)):
            raise DataError(f"{self.path}: trajectory {name} has positions near frame {frame} that are not finite")
        v = later - x
        if self.turned:
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=(index,))))
            turn = random_rotation_about_y(rng).T
            x, v, target = x @ turn, v @ turn, target @ turn
        return FluidStep(x.astype(np.float32), v.astype(np.float32), target.astype(np.float32), types)
