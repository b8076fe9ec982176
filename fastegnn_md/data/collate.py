"""Arrays of several systems become the tensors of one batched state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..state import State
from .store import Store


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
