"""What the analyses of this package share: one row per frame, in one process or in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from MDAnalysis.analysis.base import AnalysisBase
from MDAnalysis.analysis.results import ResultsGroup

from ...data.topology import static

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup


class FrameAnalysis(AnalysisBase):
    """Base of analyses that take one row from each frame and make their results of all rows.

    MDAnalysis can share the frames among processes: ``run(backend="multiprocessing", n_workers=4)``. A subclass writes
    :meth:`row`, which looks at the present frame only, and ``_conclude``, which finds the rows in :meth:`taken`.

    Parameters
    ----------
    atoms : AtomGroup
    verbose : bool
        Show a progress bar.

    Raises
    ------
    DataError
        If the atoms of the group change from frame to frame.
    """

    _analysis_algorithm_is_parallelizable = True

    def __init__(self, atoms: AtomGroup, *, verbose: bool = False):
        super().__init__(static(atoms).universe.trajectory, verbose=verbose)
        self.atoms = atoms

    @classmethod
    def get_supported_backends(cls) -> tuple[str, ...]:
        """Back-ends of :meth:`run`."""
        return ("serial", "multiprocessing", "dask")

    def row(self) -> Any:
        """What the present frame has to say."""
        raise NotImplementedError

    def taken(self) -> list[Any]:
        """The rows of all frames in order, which are no result."""
        return self.results.pop("rows")

    def _prepare(self) -> None:
        self.results.rows = []

    def _single_frame(self) -> None:
        self.results.rows.append(self.row())

    def _get_aggregator(self) -> ResultsGroup:
        return ResultsGroup(lookup={"rows": ResultsGroup.flatten_sequence})
