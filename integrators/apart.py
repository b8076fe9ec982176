"""Parts of an isolated system that have left each other's sight."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from fastegnn_md.mechanics.fragments import parts
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State

_EVERY = 50  # jumps between two looks


class DriftedApartWarning(UserWarning):
    """Parts of a system are farther from each other than the model sees."""


@dataclass
class Apart:
    """Looks now and then whether an isolated system falls into more parts than it began with.

    Attributes
    ----------
    known : int
        Parts there were at most; 0 before the first look.
    """

    known: int = 0
    _left: int = 0  # jumps until the next look

    def look(self, state: State, propagator: LearnedMap, *, asked: bool) -> None:
        """Look at a state after a jump, if somebody asks for it and it is time to.

        Warns
        -----
        DriftedApartWarning
            If there are more parts than before, farther from each other than the cutoff.
        """
        if not asked:
            return
        if self._left:
            self._left -= 1
            return
        self._left = _EVERY - 1
        cutoff = propagator.config.cutoff
        found = None if state.periodic or state.n_systems > 1 else parts(state.positions, cutoff)
        if found is None:
            return
        if 0 < self.known < len(found):
            felt = "no force acts" if propagator.wants_forces is None else "only the force of the engine acts"
            warnings.warn(
                f"the system has fallen into {len(found)} parts (of {', '.join(map(str, found[:6]))} atoms) more than "
                f"{cutoff:g} Å apart: {felt} between them. Go on with one of them, hold them together with a "
                "restraint, or use classical steps of the engine",
                DriftedApartWarning,
                stacklevel=2,
            )
        self.known = max(self.known, len(found))
