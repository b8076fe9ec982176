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
# Forces half a lag ahead: along the velocity, as a harvest has stored them; or of the frame that lies there.
Midpoint = Literal["flight", "frame"]

# Frames before the first and after the second state of a pair that the velocities are made from.
NEIGHBOURS = {"stored": (0, 0), "none": (0, 0), "central": (1, 1), "forward": (0, 1)}


class Identity:
    """The fields of one system that do not change with time, as tensors."""

    def __init__(self, store: Store, type_names: np.ndarray | None, *, bonds: bool, charges: bool):
        topology = store.topology
        self.numbers: Tensor = torch.from_numpy(topology.numbers.astype(np.int64))
        self.masses: Tensor = torch.from_numpy(topology.masses.astype(np.float32))
        self.charges: Tensor | None = None
        self.bonds: Tensor | None = None
        self.types: Tensor | None = None
        if charges and topology.charges is not None:
            self.charges = torch.from_numpy(topology.charges.astype(np.float32))
        if bonds and topology.bonds is not None:
            self.bonds = torch.from_numpy(topology.bonds.astype(np.int64))
        if type_names is not None and topology.types is not None:
            self.types = torch.from_numpy(np.searchsorted(type_names, topology.types).astype(np.int64))


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
        Whether states carry forces and bonds.
    midpoint : {"flight", "frame"}, optional
        Which forces first states carry of half a lag ahead: stored ones at x + v lag/2, or those of the frame halfway
        to the second state, with its positions. None: neither.
    ends : bool
        Whether all states of a run carry forces, or the first one alone.
    """

    stores: Sequence[Store]

    def __init__(
        self,
        stores: Sequence[Store],
        velocities: Velocities,
        *,
        forces: bool,
        midpoint: Midpoint | None,
        bonds: bool,
        ends: bool = True,
    ):
        self.stores, self.velocities = stores, velocities
        self._forces, self._midpoint, self._ends = forces, midpoint, ends
        self._periodic = stores[0].periodic
        # Types get one numbering for all systems; a field that one system lacks is left out for all.
        types = [one.topology.types for one in stores if one.topology.types is not None]
        names = np.unique(np.concatenate(types)) if len(types) == len(stores) else None
        charges = all(one.topology.charges is not None for one in stores)
        self._identity = [Identity(one, names, bonds=bonds, charges=charges) for one in stores]
        self._last_joined: tuple[int, dict[str, Tensor | None]] = (0, {})
        self._last_state: State | None = None

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

    def states(self, which: np.ndarray, frames: np.ndarray, backwards: np.ndarray) -> tuple[State, ...]:
        """The states of B runs of K frames, one batch for each of the K instants.

        Parameters
        ----------
        which : ndarray of int, shape (B,)
            Stores.
        frames : ndarray of int, shape (B, K)
            Frames of each run, in its order.
        backwards : ndarray of bool, shape (B,)
            Whether time runs backwards in a run: its velocities change sign.
        """
        sizes = np.array([one.n_atoms for one in self.stores])[which]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        identity = self._joined(which, offsets, sizes)
        if len(self.stores) == 1:
            shift = self._home(0, frames[:, 0])
            moving = [self._moving(0, now, shift, backwards, self._ends or not k) for k, now in enumerate(frames.T)]
            if self._midpoint == "frame":
                moving[0] |= self._halfway(0, frames, shift)
            return tuple(self._state(fields, identity) for fields in moving)
        every: tuple[dict[str, np.ndarray], ...] = tuple({} for _ in frames.T)
        for index in np.unique(which):
            systems = np.flatnonzero(which == index)
            atoms = (offsets[systems][:, None] + np.arange(self.stores[index].n_atoms)).ravel()
            shift = self._home(index, frames[systems, 0])
            for instant, (arrays, now) in enumerate(zip(every, frames[systems].T, strict=True)):
                informed = self._ends or instant == 0
                fields = self._moving(index, now, shift, backwards[systems], informed)
                if instant == 0 and self._midpoint == "frame":
                    fields |= self._halfway(index, frames[systems], shift)
                for name, values in fields.items():
                    count = len(which) if name == "cell" else offsets[-1]
                    whole = arrays.setdefault(name, np.empty((count, *values.shape[1:]), dtype=np.float32))
                    whole[systems if name == "cell" else atoms] = values
        return tuple(self._state(arrays, identity) for arrays in every)

    def _moving(
        self, index: int, frames: np.ndarray, shift: np.ndarray | None, backwards: np.ndarray, informed: bool
    ) -> dict[str, np.ndarray]:
        """What changes with time, of frames of one store, with or without forces; per atom but for the cell."""
        store = self.stores[index]
        fields = {"positions": self._positions(index, frames, shift)}
        if self.velocities == "none":
            fields["velocities"] = np.zeros_like(fields["positions"])
        else:
            v = self.velocities_at(index, frames)
            fields["velocities"] = np.where(backwards[:, None, None], -v, v) if backwards.any() else v
        if self._forces and informed:
            fields["forces"] = store.forces[frames] * np.float32(units.KJ_PER_MOL)
        if self._midpoint == "flight" and informed:  # -v leads from a frame to where v comes from
            ahead, behind = store.forces_ahead[frames], store.forces_behind[frames]
            forces = np.where(backwards[:, None, None], behind, ahead)
            fields["midpoint_forces"] = forces * np.float32(units.KJ_PER_MOL)
        fields = {name: values.reshape(-1, 3).astype(np.float32, copy=False) for name, values in fields.items()}
        if self._periodic:
            fields["cell"] = store.cells[frames].astype(np.float32)
        return fields

    def _halfway(self, index: int, frames: np.ndarray, shift: np.ndarray | None) -> dict[str, np.ndarray]:
        """Positions and forces of the frames between the first two of runs (B, K) of one store."""
        middle = (frames[:, 0] + frames[:, 1]) // 2
        forces = self.stores[index].forces[middle] * np.float32(units.KJ_PER_MOL)
        fields = {"midpoint_positions": self._positions(index, middle, shift), "midpoint_forces": forces}
        return {name: values.reshape(-1, 3).astype(np.float32, copy=False) for name, values in fields.items()}

    def _state(self, fields: dict[str, np.ndarray], identity: dict[str, Tensor | None]) -> State:
        tensors = {name: torch.from_numpy(values) for name, values in fields.items()}
        last = self._last_state
        if last is not None and "cell" not in tensors and last.numbers is identity["numbers"]:
            # the same atoms, which are not checked again
            return last.replace(**{"forces": None, "midpoint_forces": None, "midpoint_positions": None, **tensors})
        state = State(**tensors, pbc=torch.tensor(self._periodic), **identity)  # type: ignore[arg-type]
        self._last_state = state if "cell" not in tensors else None
        return state

    def _joined(self, which: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> dict[str, Tensor | None]:
        if len(self.stores) > 1:
            return join([self._identity[i] for i in which], offsets, sizes)
        if self._last_joined[0] != len(which):  # batches of one system differ in size only
            self._last_joined = (len(which), join([self._identity[0]] * len(which), offsets, sizes))
        return self._last_joined[1]

    def _home(self, index: int, start: np.ndarray) -> np.ndarray | None:
        """Lattice turns that bring the first frame of pairs home, where the cell changes.

        An unwrapped atom n cells away from home moves by n·Δh when the cell changes by Δh, a displacement that only
        says how far it has diffused. Taking the same n off all frames of a pair removes it.
        """
        store = self.stores[index]
        if not store.cell_varies:
            return None
        inverse = np.linalg.inv(store.cells[start])
        return np.floor(np.einsum("bni,bij->bnj", store.positions[start].astype(np.float64), inverse))

    def _positions(self, index: int, frames: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
        x = self.stores[index].positions[frames]
        return x if shift is None else x - np.einsum("bni,bij->bnj", shift, self.stores[index].cells[frames])
