"""Starting points of bursts where there is no trajectory: short Langevin dynamics with the user's engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._extras import naming_extras
from .._files import write_atomically
from ..errors import EngineError, NotFiniteError, Remedy
from ..mechanics.thermal import thermal_velocities

if TYPE_CHECKING:
    from ase import Atoms

_STEP = 0.001  # ps, of the sampling: hydrogens are free, and nobody learns from these steps
_FRICTION = 50.0  # 1/ps: a cold start is warm after some tens of steps
EQUILIBRATION, SPACING = 50, 10  # steps before the first frame and between two
_TRIES = 3  # at a frame, each with other velocities


class Sampler:
    """Frames of Langevin dynamics, each kept in a file as soon as it is there.

    Frame k of a file depends on the frame before, the seed and k alone, so that a sampling that was killed goes on.

    Parameters
    ----------
    atoms : ase.Atoms
        Where the first file starts; with the constraints of the bursts. Not modified.
    calculator : ase calculator
    temperature : float, K
    seed : int
    """

    def __init__(self, atoms: Atoms, calculator: Any, temperature: float, seed: int):
        with naming_extras("sampling with an ASE calculator"):
            from ..engines.ase.atoms import PICOSECOND
            from ..engines.ase.calculated import CheckedCalculator
        self._atoms = atoms.copy()
        self._atoms.calc = CheckedCalculator(calculator)
        self._ps = PICOSECOND
        self._temperature, self._seed = temperature, seed
        self._warm = False

    def sample(
        self, path: Path, count: int, number: int, affordable: Callable[[int, int], bool], tick: Callable[[], Any]
    ) -> int:
        """Write frames to a .traj file.

        Parameters
        ----------
        path : Path
            Frames that it has already are kept, and the next one follows the last of them.
        count : int
            Frames wanted in all.
        number : int
            Of this file; files start where the one before ended.
        affordable : callable
            Whether that many calls of the engine for the next frame are still to be had, given the frames so far.
        tick : callable
            Called after each frame.

        Returns
        -------
        int
            Frames there are: fewer than asked for where calls ran out.

        Raises
        ------
        EngineError
            If the engine fails again and again.
        """
        frames = self.resume(path)
        first = 1  # call, for the forces where sampling begins
        while len(frames) < count:
            steps = SPACING if self._warm else EQUILIBRATION
            if not affordable(len(frames), steps + first):
                break
            self._advance(steps, (self._seed, number, len(frames)))
            self._warm, first = True, 0
            frames.append(self._frame())
            _write(path, frames)
            tick()
        return len(frames)

    def resume(self, path: Path) -> list[Atoms]:
        """Frames of a file, none where there is no file; the next frame follows the last of them."""
        from ase.io import read

        if not path.exists():
            return []
        frames = read(os.fspath(path), index=":", format="traj")
        assert isinstance(frames, list)
        self._atoms.positions[:] = frames[-1].positions
        self._atoms.set_momenta(frames[-1].get_momenta(), apply_constraint=False)
        self._warm = True
        return frames

    def _frame(self) -> Atoms:
        frame: Atoms = self._atoms.copy()
        return frame

    def _advance(self, steps: int, seed: tuple[int, ...]) -> None:
        from ase.md.langevin import Langevin

        atoms, before = self._atoms, self._frame()
        for attempt in range(_TRIES):
            rng = np.random.default_rng([*seed, attempt])
            if not self._warm or attempt:
                masses = torch.from_numpy(atoms.get_masses())
                atoms.set_velocities(thermal_velocities(masses, self._temperature, rng).numpy() / self._ps)
            dynamics = Langevin(
                atoms,
                _STEP * self._ps,
                temperature_K=self._temperature,
                friction=_FRICTION / self._ps,
                fixcm=False,
                rng=rng,
            )
            try:
                dynamics.run(steps)
                return
            except (EngineError, NotFiniteError) as error:
                atoms.positions[:] = before.positions
                atoms.set_momenta(before.get_momenta(), apply_constraint=False)
                if attempt + 1 == _TRIES or (isinstance(error, EngineError) and error.__cause__ is None):
                    said = "sampling failed; relax the start, or take a lower temperature: "
                    raise EngineError(Remedy.after(said, error)) from error


def _write(path: Path, frames: list[Atoms]) -> None:
    from ase.io.trajectory import TrajectoryWriter

    beside = path.with_name(f".{path.name}.writing")
    with TrajectoryWriter(os.fspath(beside), "w") as writer:
        for frame in frames:
            writer.write(frame)
    try:
        write_atomically(path, beside.read_bytes())
    finally:
        beside.unlink(missing_ok=True)
