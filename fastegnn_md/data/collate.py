"""Frames of several systems become the tensors of one batched state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .. import units
from ..errors import DataError
from ..state import State
from .store import Store

Velocities = Literal["stored", "central", "forward", "none"]

# Frames before the first and after the second state of a pair that the velocities are made from.
NEIGHBOURS = {"stored": (0, 0), "none": (0, 0), "central": (1, 1), "forward": (0, 1)}


class Identity:
    """The fields of one system that do not change with time, as tensors."""

    def __init__(self, store: Store, type_names: np.ndarray | None, *, bonds: bool, charges: bool):
        topology = store.topology
        self.numbers = torch.from_numpy(topology.numbers.astype(np.int64))
        self.masses = torch.from_numpy(topology.masses.astype(np.float32))
        self.charges = self.bonds = self.types = None
        if charges and topology.charges is not None:
            self.charges = torch.from_numpy(topology.charges.astype(np.float32))
        if bonds and topology.bonds is not None:
            self.bonds = torch.from_numpy(topology.bonds.astype(np.int64))
        if type_names is not None and topology.types is not None:
            self.types = torch.from_numpy(np.searchsorted(type_names, topology.types).astype(np.int64))


class Fields:
    """Arrays of one batched state while it is filled."""

    def __init__(self, n_atoms: int, n_systems: int, forces: bool, cell: bool):
        self.positions = np.empty((n_atoms, 3), dtype=np.float32)
        self.velocities = np.zeros((n_atoms, 3), dtype=np.float32)
        self.forces = np.empty((n_atoms, 3), dtype=np.float32) if forces else None
        self.cell = np.empty((n_systems, 3, 3), dtype=np.float32) if cell else None

    def state(self, identity: dict[str, Tensor | None], periodic: bool) -> State:
        """The filled arrays as a state."""
        return State(
            positions=torch.from_numpy(self.positions),
            velocities=torch.from_numpy(self.velocities),
            forces=None if self.forces is None else torch.from_numpy(self.forces),
            cell=None if self.cell is None else torch.from_numpy(self.cell),
            pbc=torch.tensor(periodic),
            **identity,  # type: ignore[arg-type]
        )


def join(systems: list[Identity], offsets: np.ndarray, sizes: np.ndarray) -> dict[str, Tensor | None]:
    """Identity fields of a batch; ``offsets`` (B + 1,) and ``sizes`` (B,) count atoms."""
    joined: dict[str, Tensor | None] = {}
    for name in ("numbers", "masses", "charges", "types"):
        values = [getattr(one, name) for one in systems]
        joined[name] = None if values[0] is None else torch.cat(values)
    joined["batch"] = torch.repeat_interleave(torch.arange(len(systems)), torch.from_numpy(sizes))
    joined["bonds"] = None
    if systems[0].bonds is not None:
        counts = torch.tensor([len(one.bonds) for one in systems])  # type: ignore[arg-type]
        starts = torch.repeat_interleave(torch.from_numpy(offsets[:-1].copy()), counts)
        joined["bonds"] = torch.cat([one.bonds for one in systems]) + starts[:, None]  # type: ignore[misc]
    return joined


class StateReader:
    """Batched states of frames of one or more stores.

    Parameters
    ----------
    stores : sequence of Store
    velocities : {"stored", "central", "forward", "none"}
        Where velocities come from.
    forces, bonds : bool
        Whether states carry them.
    """

    def __init__(self, stores: Sequence[Store], velocities: Velocities, *, forces: bool, bonds: bool):
        self.stores, self.velocities, self._forces = stores, velocities, forces
        self._periodic = stores[0].periodic
        # Types get one numbering for all systems; a field that one system lacks is left out for all.
        types = [one.topology.types for one in stores if one.topology.types is not None]
        names = np.unique(np.concatenate(types)) if len(types) == len(stores) else None
        charges = all(one.topology.charges is not None for one in stores)
        self._identity = [Identity(one, names, bonds=bonds, charges=charges) for one in stores]
        self._last_joined: tuple[int, dict[str, Tensor | None]] = (0, {})

    def velocities_at(self, index: int, frames: np.ndarray) -> np.ndarray:
        """Velocities of frames of one store, shape (n, N, 3), Å/ps, stored or from differences."""
        store = self.stores[index]
        if self.velocities == "none":
            raise DataError("these pairs have no velocities")
        if self.velocities == "stored":
            return store.velocities[frames]
        before, after = NEIGHBOURS[self.velocities]
        shift = self._home(index, frames)
        moved = self._positions(index, frames + after, shift) - self._positions(index, frames - before, shift)
        return moved / ((before + after) * store.dt)

    def states(
        self, which: np.ndarray, start: np.ndarray, end: np.ndarray, backwards: np.ndarray
    ) -> tuple[State, State]:
        """First and second states of pairs: their stores, frames, and whether time runs backwards, each (B,)."""
        sizes = np.array([one.n_atoms for one in self.stores])[which]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        fields = [Fields(offsets[-1], len(which), self._forces, self._periodic) for _ in range(2)]
        for index in np.unique(which):
            systems = np.flatnonzero(which == index)
            atoms = offsets[systems][:, None] + np.arange(self.stores[index].n_atoms)
            shift = self._home(index, start[systems])
            for field, frames in zip(fields, (start[systems], end[systems]), strict=True):
                field.positions[atoms] = self._positions(index, frames, shift)
                if self.velocities != "none":
                    v = self.velocities_at(index, frames)
                    field.velocities[atoms] = np.where(backwards[systems, None, None], -v, v)
                if field.forces is not None:
                    field.forces[atoms] = self.stores[index].forces[frames] * np.float32(units.KJ_PER_MOL)
                if field.cell is not None:
                    field.cell[systems] = self.stores[index].cells[frames]
        identity = self._joined(which, offsets, sizes)
        return fields[0].state(identity, self._periodic), fields[1].state(identity, self._periodic)

    def _joined(self, which: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> dict[str, Tensor | None]:
        if len(self.stores) > 1:
            return join([self._identity[i] for i in which], offsets, sizes)
        if self._last_joined[0] != len(which):  # batches of one system differ in size only
            self._last_joined = (len(which), join([self._identity[0]] * len(which), offsets, sizes))
        return self._last_joined[1]

    def _home(self, index: int, start: np.ndarray) -> np.ndarray | None:
        """Lattice turns that bring the first frame of pairs home, where the cell changes.

        An unwrapped atom n cells away from home moves by n·Δh when the cell changes by Δh, a displacement that only
        says how far it has diffused. Taking the same n off both frames removes it.
        """
        store = self.stores[index]
        if not store.cell_varies:
            return None
        inverse = np.linalg.inv(store.cells[start])
        return np.floor(np.einsum("bni,bij->bnj", store.positions[start].astype(np.float64), inverse))

    def _positions(self, index: int, frames: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
        x = self.stores[index].positions[frames]
        return x if shift is None else x - np.einsum("bni,bij->bnj", shift, self.stores[index].cells[frames])
