"""How the atoms of a molecule move together in the time of a lag: covariances of displacements, and their modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from ..errors import CompatibilityError
from ..graph.environments import environments, mixed
from ..state import State
from .molecules import like_molecules

# Keys of two atoms, the lower first, and the bonds between them -> mean of d_i·d_j / 3 over displacements d, Å².
#
# A key is that of an atom in its whole molecule. Means over what the graph of bonds cannot tell apart keep the
# matrix of a molecule positive; means over atoms with the same near surroundings do not.
Covariances: TypeAlias = dict[tuple[int, int, int], float]

_Name: TypeAlias = tuple[bytes, bytes]  # of a molecule: its elements and bonds

_LEAST = 1e-6  # Å², of a mode: the centre of mass does not move


class _Pairs(NamedTuple):
    """What each pair of atoms of one molecule is called in :data:`Covariances`."""

    names: np.ndarray  # (K, 3)
    which: np.ndarray  # (n, n), rows of names


def covariances(start: State, end: State, *, bonds: bool = True) -> Covariances:
    """Measure how atoms moved together, over pairs of which the ends were turned onto the starts.

    Parameters
    ----------
    start, end : State
        Batches of isolated molecules, of one kind or of several.
    bonds : bool
        Whether to look at bonds; without, atoms are known by their places.
    """
    sums: dict[tuple[int, int, int], tuple[float, int]] = {}
    moved = (end.positions - start.positions).double().cpu()
    for firsts, numbers, links in like_molecules(start, bonds=bonds):
        pairs, rows = _pairs(numbers, links), firsts[:, None] + torch.arange(len(numbers))
        d = moved[rows]  # (systems, n, 3)
        products = torch.einsum("bik,bjk->ij", d, d).numpy() / 3
        size = len(pairs.names)
        totals = np.bincount(pairs.which.ravel(), products.ravel(), size)
        counts = np.bincount(pairs.which.ravel(), minlength=size) * len(d)
        for name, total, count in zip(pairs.names.tolist(), totals.tolist(), counts.tolist(), strict=True):
            before = sums.get(tuple(name), (0.0, 0))
            sums[tuple(name)] = before[0] + total, before[1] + count
    return {name: total / count for name, (total, count) in sums.items()}


@dataclass(frozen=True)
class Modes:
    """The molecules of a batch and the modes of each: eigenvectors of the covariance of its displacements.

    One matrix serves the three components of all vectors, so that what is done in modes turns and reflects with them.

    Attributes
    ----------
    groups : sequence of (Tensor, Tensor)
        Of molecules that are alike: atoms, shape (B, n), and eigenvectors, shape (n, n).
    variance : Tensor, shape (N, 1)
        λ of the modes of each molecule, Å², in the places of its atoms.
    weight : Tensor, shape (N, 1)
        Of errors of the modes: λ^¼ over its mean in the molecule.
    """

    groups: Sequence[tuple[Tensor, Tensor]]
    variance: Tensor
    weight: Tensor

    def into(self, vectors: Tensor) -> Tensor:
        """Vectors (N, 3) of atoms as amplitudes of modes."""
        return self._turned(vectors, back=False)

    def back(self, amplitudes: Tensor) -> Tensor:
        """Undo :meth:`into`."""
        return self._turned(amplitudes, back=True)

    def _turned(self, vectors: Tensor, *, back: bool) -> Tensor:
        found = torch.zeros_like(vectors)
        for rows, basis in self.groups:
            turned = torch.matmul(basis if back else basis.T, vectors[rows])
            found = found.index_copy(0, rows.flatten(), turned.flatten(0, 1))
        return found


class ModesOf:
    """Finds the modes of molecules that training had; those of each molecule once.

    Parameters
    ----------
    known : Covariances
    bonds : bool
        As they were measured.
    """

    def __init__(self, known: Covariances, *, bonds: bool):
        self._known, self._bonds = known, bonds
        self._found: dict[_Name, tuple[Tensor, Tensor]] = {}

    def __call__(self, state: State, dtype: torch.dtype) -> Modes:
        """The modes of all molecules of a state.

        Raises
        ------
        CompatibilityError
            If training did not have one of them.
        """
        device, groups = state.device, []
        variance, weight = (torch.zeros(state.n_atoms, 1, dtype=torch.float64) for _ in range(2))
        for firsts, numbers, links in like_molecules(state, bonds=self._bonds):
            name = numbers.numpy().tobytes(), links.numpy().tobytes()
            rows = firsts[:, None] + torch.arange(len(numbers))
            if name not in self._found:
                self._found[name] = self._modes(numbers, links, int(rows[0, 0]))
            eigenvalues, vectors = self._found[name]
            root = eigenvalues.sqrt().sqrt()
            variance[rows], weight[rows] = eigenvalues[:, None], (root / root.mean())[:, None]
            groups.append((rows.to(device), vectors.to(device, dtype)))
        return Modes(groups, variance.to(device, dtype), weight.to(device, dtype))

    def _modes(self, numbers: Tensor, bonds: Tensor, atom: int) -> tuple[Tensor, Tensor]:
        pairs = _pairs(numbers, bonds)
        try:
            values = np.array([self._known[a, b, hops] for a, b, hops in pairs.names.tolist()])
        except KeyError as error:
            raise CompatibilityError(
                f"the molecule of atom {atom} is none of those of the training data, though its atoms are bonded as "
                "atoms there are; this model knows how whole molecules move: train it with this one, or with "
                "propagator.collective=false"
            ) from error
        eigenvalues, vectors = torch.linalg.eigh(torch.from_numpy(values[pairs.which]))
        return eigenvalues.clamp(min=_LEAST), vectors


def _pairs(numbers: Tensor, bonds: Tensor) -> _Pairs:
    n = len(numbers)
    if len(bonds):
        keys = environments(numbers, bonds)
        keys = mixed(keys * 3 + mixed(keys).sum())  # of this molecule alone
        a, b = bonds.numpy().T
        graph = coo_array((np.ones(len(bonds)), (a, b)), shape=(n, n))
        between = shortest_path(graph, directed=False, unweighted=True)
        between[~np.isfinite(between)] = -1
    else:
        keys, between = mixed(numbers + 1000 * torch.arange(n) + 1_000_000 * n), np.zeros((n, n))
    own = keys.numpy()
    one, other = np.broadcast_arrays(own[:, None], own[None])
    rows = np.stack([np.minimum(one, other), np.maximum(one, other), between.astype(np.int64)], axis=-1)
    names, which = np.unique(rows.reshape(-1, 3), axis=0, return_inverse=True)
    return _Pairs(names, which.reshape(n, n))
