"""Starting points of a harvest, read from a trajectory when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import MDAnalysis as mda
import numpy as np
import torch

from ..data.bonds import check_bond_lengths, check_spacing
from ..data.frames import Frame, check_velocities, file_has_times, read_frame
from ..data.topology import Topology, join_bonds, read_topology
from ..data.unwrap import make_whole, spanning_tree
from ..data.xdr import check_reader
from ..errors import DataError, Remedy
from ..mechanics.thermal import thermal_velocities
from .bursts import BurstRecipe

_DRAW = ("temperature=<K>", "--temperature")


class StartingPoints:
    """Positions, velocities and cells to start bursts from.

    Parameters
    ----------
    atoms : AtomGroup
        Atoms of the engine.
    frames : slice or sequence of int, optional
        Which frames; all by default.
    temperature : float, K, optional
        Temperature to draw velocities at; default: those of the trajectory.
    seed : int
        Seed; frame k uses the generator of (seed, k).

    Attributes
    ----------
    frames : list of int
    topology : Topology
    first : Frame
        The first of the frames.
    periodic : bool

    Raises
    ------
    DataError
        If no frame is selected, one does not exist, or velocities are missing.
    """

    def __init__(
        self, atoms: mda.AtomGroup, frames: slice | Sequence[int] | None, temperature: float | None, seed: int
    ):
        self.atoms = atoms
        self.topology: Topology = read_topology(atoms)
        self._temperature, self._seed = temperature, seed
        check_reader(atoms.universe.trajectory)
        n = atoms.universe.trajectory.n_frames
        chosen = range(n)[frames] if isinstance(frames, slice) else (range(n) if frames is None else frames)
        try:
            self.frames: list[int] = [int(frame) for frame in chosen]
        except (TypeError, ValueError) as error:
            raise DataError(f"frames is {frames!r}; expected a slice, or numbers of frames") from error
        if not self.frames:
            raise DataError(Remedy(f"no frame is selected out of {n}; check ", f"frames={frames}", "--frames"))
        outside = [frame for frame in self.frames if not 0 <= frame < n]
        if outside:
            raise DataError(f"frame {outside[0]} does not exist; the trajectory has {n} frames, counted from 0")
        if len(set(self.frames)) != len(self.frames):
            raise DataError("frames holds a frame twice; each would run the same burst")
        self._has_times = file_has_times(atoms.universe.trajectory)
        self.first: Frame = read_frame(atoms, self.frames[0])
        if temperature is None and self.first.velocities is None:
            raise DataError(Remedy("the trajectory has no velocities; draw them: ", *_DRAW))
        if temperature is None and self.first.velocities is not None:
            check_velocities(self.first.velocities, self.topology.masses)
        self.periodic: bool = self.first.cell is not None
        self._tree: np.ndarray | None = None

    def adopt(self, recipe: BurstRecipe) -> None:
        """Take from the engine what it knows better: masses, periodicity, and bonds that the topology lacks.

        Molecules are put together across the box of their frames, also for an engine without a box.

        Raises
        ------
        DataError
            If the engine is periodic and the frames have no cell, or the first frame is one of no molecule: in nm, of
            atoms in another order or twice.
        """
        bonds = join_bonds(self.topology.bonds, recipe.bonds)
        notes = self.topology.notes | {"masses": f"{recipe.name} engine"}
        if bonds is not None and recipe.bonds is not None:
            had = 0 if self.topology.bonds is None else len(self.topology.bonds)
            if len(bonds) > had:
                notes["bonds"] = f"{len(bonds)}, of which the topology has {had}; the others are the engine's"
        self.topology = replace(self.topology, masses=recipe.masses, bonds=bonds, notes=notes)
        if recipe.periodic is not None:
            if recipe.periodic and not self.periodic:
                raise DataError("the engine is periodic but the frames have no cell; write the box with the trajectory")
            self.periodic = recipe.periodic
        if self.first.cell is not None and bonds is not None:
            self._tree = spanning_tree(bonds, self.topology.n_atoms)
        x, where = self._whole(self.first), f"frame {self.first.index}"
        cell = self.first.cell if self.periodic else None
        check_bond_lengths(self.topology, x, cell, where, atoms=self.atoms)
        check_spacing(self.atoms, x, cell, where)

    def __getitem__(self, frame: int) -> Frame:
        """Starting point of one frame of the trajectory, molecules made whole, with velocities."""
        data = read_frame(self.atoms, frame)
        if (data.cell is None) != (self.first.cell is None):
            raise DataError(
                f"only one of frame {self.first.index} and frame {frame} has a cell; write the box to all frames"
            )
        cell, x, v = data.cell if self.periodic else None, self._whole(data), data.velocities
        if self._temperature is not None:
            generator = np.random.default_rng([self._seed, frame])
            v = thermal_velocities(torch.from_numpy(self.topology.masses), self._temperature, generator).numpy()
        elif v is None:
            raise DataError(Remedy(f"frame {frame} has no velocities although others have; draw them: ", *_DRAW))
        time = data.time if self._has_times and data.time is not None else 0.0
        return replace(data, positions=x, velocities=v.astype(np.float64), cell=cell, time=time)

    def _whole(self, frame: Frame) -> np.ndarray:
        if self._tree is None or frame.cell is None:
            return frame.positions
        return make_whole(frame.positions, frame.cell, self._tree)
