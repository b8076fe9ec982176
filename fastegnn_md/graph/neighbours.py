"""Pairs of atoms within a cutoff, by minimum image where a system is periodic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import vesin
from torch import Tensor

from .._extras import naming_extras
from ..errors import GraphError
from ..state import State
from . import cells

# Closer than this two atoms are one by mistake: directions between them mean nothing.
OVERLAP = 1e-3  # Å
# Up to this size comparing all pairs in one batched call is cheaper than one cell list per system.
_DENSE_ATOMS = 64
BACKENDS = ("dense", "vesin", "vesin_torch")
# Periodic images of the cell within reach, from which a search would take seconds or longer: the cell is degenerate.
_MAX_IMAGES = 100_000
# vesin divides space into no more cells than this on the CPU.
_VESIN_CELLS = 100_000


class EdgeList(NamedTuple):
    """Directed edges, each pair in both directions, sorted by receiver.

    Attributes
    ----------
    edge_index : Tensor of int64, shape (2, E)
        Row 0 the receiver i, row 1 the sender j.
    vector : Tensor, shape (E, 3), Å
        x_i - x_j by the periodic image that is within the cutoff.
    distance : Tensor, shape (E, 1), Å
        Its length.
    """

    edge_index: Tensor
    vector: Tensor
    distance: Tensor

    def padded(self, multiple: int, cutoff: float, atoms: int) -> EdgeList:
        """Loops of the last atom added until the number of edges is a multiple, at least one of it.

        At the distance of the cutoff they weigh nothing where an envelope multiplies messages, and lists of a few sizes
        only serve what is compiled for each size.
        """
        missing = multiple * max(1, -(-len(self.distance) // multiple)) - len(self.distance)
        along_x = self.vector.new_tensor([[cutoff, 0.0, 0.0]])
        return EdgeList(
            torch.cat([self.edge_index, self.edge_index.new_full((2, missing), atoms - 1)], dim=1),
            torch.cat([self.vector, along_x.expand(missing, 3)]),
            torch.cat([self.distance, along_x[:, :1].expand(missing, 1)]),
        )


class NeighbourSearch:
    """Pairs within a cutoff, again and again of the same atoms.

    With a skin, what was found for one state serves the next ones until an atom has moved half the skin (Verlet 1967).
    Another system, cell or boundary is noticed and searched anew.

    Parameters
    ----------
    cutoff : float
        Radius in Å.
    skin : float
        Å. It pays where atoms move much less than half of it from call to call; a new search costs half as much again,
        or more.
    backend : {"auto", "dense", "vesin", "vesin_torch"}
        ``dense``: all pairs of isolated systems of equal size in one call. ``vesin``: cell lists on the CPU, any
        boundary. ``vesin_torch`` (extra ``gpu``): the same for tensors on a GPU, without a copy on the CPU. ``auto``
        takes dense for batches of small isolated systems, else on a GPU a Triton kernel for systems that are isolated
        or three cutoffs wide, else vesin_torch on a GPU if it is installed, else vesin.

    Raises
    ------
    GraphError
        If the back-end is unknown, the cutoff not positive, or the skin negative.
    MissingDependencyError
        On the first call, if ``vesin_torch`` is asked for and not installed.
    """

    cutoff: float
    skin: float

    def __init__(self, cutoff: float, skin: float = 0.0, backend: str = "auto"):
        if backend != "auto" and backend not in BACKENDS:
            raise GraphError(f"unknown neighbour list {backend!r}; available: {', '.join(BACKENDS)}")
        if not cutoff > 0 or not skin >= 0:
            raise GraphError(f"cutoff is {cutoff} Å and skin {skin} Å; expected more than 0, and 0 or more")
        self.cutoff, self.skin, self.backend = float(cutoff), float(skin), backend
        self._systems: dict[tuple[str, int], _CellLists] = {}

    def __call__(self, state: State) -> EdgeList:
        """All pairs of each system of a batch that are closer than the cutoff.

        Parameters
        ----------
        state : State
            Positions may be unwrapped: pairs and vectors do not change when an atom is moved by a lattice vector.

        Raises
        ------
        GraphError
            If the back-end is unfit for the systems, two atoms lie on each other, a cell is so flat that 100,000 of its
            images are within reach, or the atoms are spread over a volume that cell lists cannot divide.
        """
        backend = self._backend_for(state)
        index, vector = _dense(state, self.cutoff) if backend == "dense" else self._cell_lists(state, backend)
        distance = vector.norm(dim=1, keepdim=True)
        if distance.numel() and float(distance.detach().min()) < OVERLAP:
            i, j = index[:, int(distance.argmin())].tolist()
            raise GraphError.overlapping(i, j, float(distance.detach().min()))
        return EdgeList(index, vector, distance)

    def _backend_for(self, state: State) -> str:
        if self.backend != "auto":
            return self.backend
        if _dense_fits(state):
            return "dense"
        on_gpu = state.device.type == "cuda" and find_spec("vesin_torch") is not None
        return "vesin_torch" if on_gpu else "vesin"

    def _cell_lists(self, state: State, backend: str) -> tuple[Tensor, Tensor]:
        assert state.pbc is not None  # set by State
        counts = [state.n_atoms] if state.n_systems == 1 else state.atom_counts.tolist()
        indices, vectors, start = [], [], 0
        for system, count in enumerate(counts):
            x = state.positions[start : start + count]
            cell = state.cell[system] if state.cell is not None and any(state.boundaries[system]) else None
            which = (backend, system if self.skin else 0)
            if which not in self._systems:
                self._systems[which] = _CellLists(backend, self.cutoff, self.skin, kernel=self.backend == "auto")
            index, vector = self._systems[which](x, cell, state.pbc[system], state.boundaries[system])
            indices.append(index + start)
            vectors.append(vector)
            start += count
        return torch.cat(indices, dim=1), torch.cat(vectors)


def neighbour_list(state: State, cutoff: float, backend: str = "auto") -> EdgeList:
    """Pairs of one state: :class:`NeighbourSearch` once; parameters and errors are its."""
    return NeighbourSearch(cutoff, backend=backend)(state)


def minimum_image(vectors: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """Shortest of the periodic images of each vector, for vectors shorter than half of the shortest cell height.

    Parameters
    ----------
    vectors : Tensor, shape (M, 3), Å
    cell : Tensor, shape (M, 3, 3), Å
        Cell vectors in rows.
    pbc : Tensor of bool, shape (M, 3)
    """
    shift = torch.where(pbc, fractional(vectors, cell).round(), 0.0)
    if _same_cell(cell):
        return vectors - shift @ cell[0]
    return vectors - torch.bmm(shift[:, None], cell).squeeze(1)


def fractional(vectors: Tensor, cell: Tensor) -> Tensor:
    """Coordinates in units of the cell vectors; shapes as in :func:`minimum_image`."""
    if _same_cell(cell):
        return vectors @ torch.linalg.inv(cell[0])
    return torch.linalg.solve(cell, vectors[:, None], left=False).squeeze(1)


def _same_cell(cell: Tensor) -> bool:
    """Whether one cell was expanded to all vectors: it is inverted once."""
    return len(cell) > 0 and cell.stride(0) == 0


def _dense_fits(state: State) -> bool:
    return not state.periodic and state.n_atoms <= _DENSE_ATOMS * state.n_systems and state.equal_counts is not None


def _dense(state: State, cutoff: float) -> tuple[Tensor, Tensor]:
    size = state.equal_counts
    if state.periodic or size is None:
        raise GraphError("the dense neighbour list takes isolated systems of equal size; use 'vesin'")
    x = state.positions.view(-1, size, 3)
    square = (x[:, :, None] - x[:, None]).square().sum(-1)
    near = (square < cutoff * cutoff) & ~torch.eye(size, dtype=torch.bool, device=x.device)
    system, i, j = near.nonzero().unbind(1)
    index = torch.stack([i, j]) + system * size
    return index, state.positions.index_select(0, index[0]) - state.positions.index_select(0, index[1])


class _CellLists:
    """Pairs of one system by vesin, which also keeps them while nobody has moved half the skin.

    With ``kernel`` those of systems on a GPU that it serves are found by the Triton kernel, anew in less time.
    """

    def __init__(self, backend: str, cutoff: float, skin: float, *, kernel: bool):
        self._cutoff, self._skin, self._kernel = cutoff, skin, kernel
        self._on_tensors = backend == "vesin_torch"
        self._kind: Any = vesin.NeighborList
        if self._on_tensors:
            with naming_extras("the neighbour list 'vesin_torch'"):
                import vesin_torch
            self._kind = vesin_torch.NeighborList
        self._finder: Any = None
        self._coarser = 0.0  # Å, added to the skin of the finder
        self._images: Tensor | None = None
        self._cell: Tensor | None = None
        self._boundary: Sequence[bool] = ()
        self._heights: list[float] = []  # Å, of the periodic directions

    def __call__(self, x: Tensor, cell: Tensor | None, pbc: Tensor, boundary: Sequence[bool]) -> tuple[Tensor, Tensor]:
        """Edges (2, E) and x_i - x_j (E, 3) of positions (n, 3) in an optional cell (3, 3); ``boundary`` is ``pbc``."""
        box = x.new_zeros(3, 3)
        if cell is not None:
            self._notice(cell.detach(), boundary)
        if self._kernel and cells.serves(x, boundary, self._heights, self._cutoff):
            return cells.near_pairs(x, cell, self._heights, self._cutoff)
        if cell is not None:
            box, x = cell, x - self._kept_images(x, cell, pbc) @ cell
        points, box = x.detach().double(), box.detach().double()
        self._provide(points, boundary)
        if self._on_tensors:
            pairs, shifts = self._on_device(points, box, pbc, boundary)
        else:
            pairs, shifts = self._on_cpu(points, box, boundary)
        index = torch.as_tensor(pairs, device=x.device).long().T.contiguous()
        vector = x.index_select(0, index[0]) - x.index_select(0, index[1])
        if cell is not None:
            vector = vector - torch.as_tensor(shifts, dtype=x.dtype, device=x.device) @ cell
        return index, vector

    def _on_device(self, points: Tensor, box: Tensor, pbc: Tensor, boundary: Sequence[bool]) -> tuple[Any, Any]:
        """Pairs and shifts by vesin_torch; by vesin where it has no room for all pairs of a GPU."""
        try:
            pairs, shifts = self._finder.compute(points, box, pbc, "PS")
        except RuntimeError:
            if not points.is_cuda:
                raise
            # It takes as many pairs an atom as the cutoff has cubic Å, 128 at least: denser systems are not of atoms.
            self._on_tensors, self._kind, self._finder = False, vesin.NeighborList, None
            self._provide(points, boundary)
            return self._on_cpu(points, box, boundary)
        if not points.is_cuda:
            return pairs, shifts
        reach, heights = self._cutoff + self._skin, iter(self._heights)
        most = [math.ceil(reach / next(heights)) + 2 if periodic else 0 for periodic in boundary]
        return _in_order(pairs, shifts, len(points), most)

    def _on_cpu(self, points: Tensor, box: Tensor, boundary: Sequence[bool]) -> tuple[Any, Any]:
        found: tuple[Any, Any] = self._finder.compute(
            points=points.cpu().numpy(), box=box.cpu().numpy(), periodic=boundary, quantities="PS"
        )
        return found

    def _notice(self, cell: Tensor, boundary: Sequence[bool]) -> None:
        """Search another cell anew, if it is one that can be searched.

        vesin keeps pairs while the corners of a cell have moved little. That is enough for the nearest images; the n-th
        moves n times as far.
        """
        if self._cell is not None and torch.equal(cell, self._cell) and boundary == self._boundary:
            return
        reach = self._cutoff + self._skin
        inverse = np.linalg.pinv(cell.double().cpu().numpy()[np.asarray(boundary)])
        heights = (1.0 / np.linalg.norm(inverse, axis=0)).tolist()
        images = math.prod(2 * math.ceil(reach / height) + 1 for height in heights)
        if images > _MAX_IMAGES:
            raise GraphError(
                f"a cell {_show(heights)} Å high has {images} images within {reach:g} Å; give cell vectors that are "
                "neither short nor nearly parallel (ase.geometry.minkowski_reduce finds others of the same lattice)"
            )
        self._cell, self._boundary, self._heights = cell.clone(), boundary, heights
        if self._skin or self._coarser:
            self._finder = None  # and with it what it keeps

    def _provide(self, points: Tensor, boundary: Sequence[bool]) -> None:
        """Have a finder that survives these points, in double precision."""
        coarser = 0.0
        alone = self._on_tensors and points.is_cuda  # the grid of vesin on a GPU is another one
        if not alone:
            heights = iter(self._heights)
            spread = [0.0, 0.0, 0.0] if all(boundary) else (points.amax(0) - points.amin(0)).tolist()
            widths = [next(heights) if boundary[k] else 1.01 * spread[k] for k in range(3)]
            coarser = _coarser(widths, self._cutoff + self._skin)
        if self._finder is None or coarser != self._coarser:
            self._coarser, skin = coarser, self._skin + coarser
            # On a GPU its sort takes longer than a jump, and leaves the senders of a receiver in an order of chance.
            self._finder = self._kind(cutoff=self._cutoff, full_list=True, sorted=not alone, skin=skin)

    def _kept_images(self, x: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
        """Which image of the cell each atom is in, (n, 3): far images would cost precision, and cell lists refuse them.

        With a skin they are kept from call to call while atoms are near the cell: an atom that crosses a face has not
        moved far. Without, edges and their order depend on nothing that was searched before.
        """
        place = torch.where(pbc, fractional(x.detach(), cell.expand(len(x), 3, 3)), 0.0)
        kept = self._images if self._skin else None
        if kept is None or kept.shape != place.shape or bool((place - kept.to(place) - 0.5).abs().gt(0.75).any()):
            kept = place.floor()
        self._images = kept.to(place)
        return self._images


def _in_order(pairs: Tensor, shifts: Tensor, atoms: int, most: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Pairs (E, 2) and shifts (E, 3) in the one order of receiver, sender and image; no shift is above ``most``."""
    key = pairs[:, 0] * atoms + pairs[:, 1]
    for axis, bound in enumerate(most):
        if bound:
            key = key * (2 * bound + 1) + (shifts[:, axis] + bound)
    order = key.argsort()
    return pairs[order], shifts[order]


def _coarser(widths: Sequence[float], reach: float) -> float:
    """What to add to a reach (Å) so that vesin (0.6) does not divide by zero, which would end the process.

    Its grid has cells as wide as the reach. Where these are too many, their numbers along the axes are scaled down in
    turn and rounded: along an axis hardly wider than the reach none may remain.

    Raises
    ------
    GraphError
        If twice the reach is not enough.
    """
    if math.prod(max(1.0, width / reach) for width in widths) <= _VESIN_CELLS:
        return 0.0
    for coarse in np.linspace(reach, 2 * reach, 9).tolist():
        # a width that is a multiple of it may be rounded either way
        if all(_divides(widths, coarse * factor) for factor in (1 - 1e-9, 1 + 1e-9)):
            return coarse - reach
    raise GraphError(
        f"atoms spread over {_show(widths)} Å are more than cell lists with a reach of {reach:g} Å divide; look for "
        "an atom that has flown away ('dense' takes a few isolated atoms however far apart they are)"
    )


def _divides(widths: Sequence[float], reach: float) -> bool:
    """Whether the grid of vesin for this reach has a cell along each axis."""
    x, y, z = (max(1.0, width // reach) for width in widths)
    if x * y * z <= _VESIN_CELLS:
        return True
    fewer_z = math.cbrt(_VESIN_CELLS / ((x / y) * (y / z) ** 2)) // 1
    fewer_y = y / z * fewer_z // 1
    return x / y * fewer_y >= 1


def _show(lengths: Sequence[float]) -> str:
    return " × ".join(f"{length:.3g}" for length in lengths)
