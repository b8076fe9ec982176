"""Jumps recorded as CUDA graphs: one launch for all that a GPU does in a jump, and one answer that is waited for.

The jump of a small system is several hundred small kernels, and starting them one by one takes longer than they run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..graph import FixedNeighbours
from ..state import State
from .prediction import Trust
from .whole import Ended, Jumps, WholeJump

_KEPT = 4  # recordings of one propagator: each holds the memory of a jump
_WARM = 3  # runs before the recording, in which kernels are compiled and libraries make their workspaces

_log = logging.getLogger(__name__)


class Recorder:
    """The recorded jumps of one propagator.

    Parameters
    ----------
    weights : sequence of Tensor
        Whose values may change, but not their places in memory: graphs read them there.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self._recordings: list[_Recording] = []
        self._failed = False

    def __call__(self, propagator: Jumps, state: State) -> tuple[State, Trust] | None:
        """Where a state that was checked comes to; None if the jump must be made another way, which says why."""
        if self._failed or not self._serves(propagator, state):
            return None
        weights = [one.data_ptr() for one in self._weights]
        recording = next((one for one in self._recordings if one.fits(state, weights)), None)
        if recording is None:
            try:
                recording = _Recording(propagator, state, weights)
            except RuntimeError as error:
                self._failed = True
                _log.warning("the jump could not be recorded in a CUDA graph, and goes on without: %s", error)
                return None
            self._recordings = [recording, *self._recordings[: _KEPT - 1]]
        ended = recording(state)
        if not ended.good:
            # Not finite, atoms on each other, or more neighbours than there is room for, who get more the next time.
            self._recordings.remove(recording)
            return None
        return state.moved(
            positions=ended.positions,
            velocities=ended.velocities,
            forces=None,
            midpoint_forces=None,
            midpoint_positions=None,
        ), Trust(unlike=ended.unlike)

    @staticmethod
    def _serves(propagator: Jumps, state: State) -> bool:
        return (
            state.device.type == "cuda"
            and propagator.config.predicts_velocities
            and not torch.is_autocast_enabled("cuda")
            and not torch.is_grad_enabled()
            and not torch.cuda.is_current_stream_capturing()
            and FixedNeighbours.serve(state, propagator.config.cutoff)
        )


class _Recording:
    """One graph, the tensors that it reads, and those that it writes."""

    def __init__(self, propagator: Jumps, state: State, weights: Sequence[int]):
        self._whole, self._weights = WholeJump(propagator, state), weights
        self._forces_of = propagator.forces_of
        self._inputs = [None if one is None else one.clone() for one in self._moving(state)]
        self._cell = state.cell
        self._run, self._ended = record(lambda: self._whole(*self._inputs), state.device)  # type: ignore[arg-type]

    def fits(self, state: State, weights: Sequence[int]) -> bool:
        return weights == self._weights and self._whole.fits(state)

    def __call__(self, state: State) -> Ended:
        positions, velocities, forces, cell = self._inputs
        for kept, new in ((positions, state.positions), (velocities, state.velocities)):
            kept.copy_(new)  # type: ignore[union-attr]
        if forces is not None:
            forces.copy_(self._forces_of(state))  # type: ignore[arg-type]
        if cell is not None and state.cell is not self._cell:
            cell.copy_(state.cell)  # type: ignore[arg-type]
            self._cell = state.cell
        self._run()
        # The tensors of the graph are overwritten by its next run.
        return Ended(*(None if one is None else one.clone() for one in self._ended))  # type: ignore[arg-type]

    def _moving(self, state: State) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return state.positions, state.velocities, self._forces_of(state), state.cell if state.periodic else None


def record(call: Callable[[], Ended], device: torch.device) -> tuple[Callable[[], None], Ended]:
    """Record what a call does on a GPU: what runs it again, and the tensors that every run overwrites."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # What other threads do with the GPU, those of OpenMM for one, is not part of it.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        ended = call()
    return graph.replay, ended
