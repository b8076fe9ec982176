"""The pairs that a simulation learns from: as many as there is room for, new ones in place of any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fastegnn_md.errors import CheckpointError, CompatibilityError
from fastegnn_md.state import State
from fastegnn_md.training.batches import Batch

Pair = dict[str, np.ndarray]

# Name of a pair → fields of the states that begin at its two ends; of the second the velocities are turned round.
_MOVING = ("positions", "velocities")
_FORCES = {
    "forces": ("forces_0", "forces_1"),
    "midpoint_forces": ("ahead", "behind"),
    "midpoint_positions": ("middle", "middle"),
}
_FIRST_ROOM = 64


class Memory:
    """Pairs of states of one system a lag apart, in float32.

    A pair is a dict of arrays (N, 3): ``positions_0``, ``velocities_0``, ``positions_1``, ``velocities_1``; where the
    model asks for forces, ``forces_0`` and ``forces_1``, or ``ahead`` and ``behind`` (of the first and of the reversed
    pair), and ``middle`` (positions); and ``cell`` (3, 3) of periodic systems.

    Parameters
    ----------
    system : State
        One system; all that does not move is read.
    room : int
        Pairs kept. The place of a new one is drawn by chance when there are as many.
    """

    def __init__(self, system: State, room: int):
        self.system: State = system.to(dtype=torch.float32)
        self.room = room
        self._arrays: dict[str, np.ndarray] = {}
        self._count = 0
        self._resting: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return self._count

    def check(self, state: State) -> None:
        """Refuse a state that is not of this system; raises CompatibilityError."""
        for name in ("numbers", "masses", "pbc"):
            kept, now = getattr(self.system, name), getattr(state, name)
            if kept.shape != now.shape or not torch.equal(kept, now.to(kept.dtype)):
                raise CompatibilityError(
                    f"the atoms have other {name} than when the run began; a model is learned of one system: begin "
                    "another run"
                )

    def add(self, pair: Pair, rng: np.random.Generator) -> None:
        """Take in a pair."""
        place = self._count if self._count < self.room else int(rng.integers(self.room))
        if not self._arrays:
            size = min(_FIRST_ROOM, self.room)
            self._arrays = {name: np.empty((size, *one.shape), dtype=np.float32) for name, one in pair.items()}
        if place >= len(self._arrays["positions_0"]):
            grown = min(self.room, 2 * place)
            self._arrays = {
                name: np.concatenate([one, np.empty((grown - len(one), *one.shape[1:]), dtype=np.float32)])
                for name, one in self._arrays.items()
            }
        for name, one in self._arrays.items():
            one[place] = pair[name]
        self._count = max(self._count, place + 1)

    def batch(self, indices: Sequence[int], backwards: Sequence[bool] | None = None) -> Batch:
        """Pairs as one batch, some of them with time reversed."""
        chosen = np.asarray(indices, dtype=np.int64)
        back = np.zeros(len(chosen), dtype=bool) if backwards is None else np.asarray(backwards, dtype=bool)
        return self._batch({name: one[chosen] for name, one in self._arrays.items()}, back)

    def draw(self, size: int, rng: np.random.Generator) -> Batch:
        """A batch drawn by chance, half of it reversed in time."""
        chosen = rng.integers(self._count, size=min(size, 2 * self._count))
        return self.batch(chosen.tolist(), (rng.random(len(chosen)) < 0.5).tolist())

    def one(self, pair: Pair) -> Batch:
        """A batch of one pair, which need not be kept here."""
        return self._batch(
            {name: np.asarray(one, dtype=np.float32)[None] for name, one in pair.items()}, np.zeros(1, bool)
        )

    def _batch(self, arrays: Mapping[str, np.ndarray], back: np.ndarray) -> Batch:
        resting = self._identity(len(back))
        if "cell" in arrays:
            resting = {**resting, "cell": torch.from_numpy(np.ascontiguousarray(arrays["cell"]))}
        turned = back[:, None, None]
        sign = np.where(turned, -1.0, 1.0).astype(np.float32)
        ends = []
        for here, there in ((0, 1), (1, 0)):
            fields = {}
            for name in _MOVING:
                fields[name] = np.where(turned, arrays[f"{name}_{there}"], arrays[f"{name}_{here}"])
            fields["velocities"] = fields["velocities"] * sign
            if here == 0:
                for name, (first, second) in _FORCES.items():
                    if first in arrays:
                        fields[name] = np.where(turned, arrays[second], arrays[first])
            tensors = {name: torch.from_numpy(one.reshape(-1, 3)) for name, one in fields.items()}
            ends.append(State(**tensors, **resting))
        return Batch(*ends)

    def _identity(self, count: int) -> dict[str, Any]:
        """What does not move, of so many copies of the system; kept, because states share these tensors."""
        if count not in self._resting:
            if len(self._resting) > 8:
                self._resting.clear()
            joined = State.concatenate([self.system] * count)
            names = ("numbers", "masses", "pbc", "batch", "charges", "types", "bonds")
            self._resting[count] = {name: getattr(joined, name) for name in names}
        return self._resting[count]

    def arrays(self) -> dict[str, np.ndarray]:
        """For a restart file."""
        return {name: one[: self._count] for name, one in self._arrays.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], rng: np.random.Generator) -> None:
        """Undo :meth:`arrays`; where there is less room now, some are left out by chance.

        Raises
        ------
        CheckpointError
            If the arrays are not those of pairs of this system.
        """
        counts = {len(one) for one in arrays.values()}
        shape = tuple(self.system.positions.shape)
        fits = all(one.shape[1:] == ((3, 3) if name == "cell" else shape) for name, one in arrays.items())
        if arrays and (len(counts) != 1 or not fits or "positions_0" not in arrays):
            raise CheckpointError("the pairs of the restart file are not of this system; it is damaged")
        count = counts.pop() if counts else 0
        kept = np.arange(count)
        if count > self.room:
            kept = np.sort(rng.permutation(count)[: self.room])
        self._arrays = {name: np.ascontiguousarray(one[kept], dtype=np.float32) for name, one in arrays.items()}
        self._count = len(kept)
