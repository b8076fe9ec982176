"""Whether an engine is symmetric under reflection, as networks of this package are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Rounding of single precision and of PME stays below a fiftieth of these.
_SHARE = 1e-3  # of the RMS force of all atoms
_LARGEST = 1e-2  # of one atom: a peptide in much water is a small share
_KEY, _KEY_LARGEST, _KEY_ATOM = ("mirror asymmetry" + rest for rest in ("", " of one atom", ", atom"))


class MirrorWarning(UserWarning):
    """Forces of an engine change under reflection, which networks of this package cannot do."""


@dataclass(frozen=True)
class MirrorAsymmetry:
    """The part of the forces that has the other sign in the mirror image.

    Attributes
    ----------
    share : float
        Its RMS over the RMS force.
    largest : float
        The largest of one atom over the RMS force of an atom.
    atom : int
        That atom.
    """

    share: float
    largest: float
    atom: int

    @property
    def matters(self) -> bool:
        """Whether it is worth a warning: 0.1 % of all forces, or 1 % at an atom."""
        return self.share >= _SHARE or self.largest >= _LARGEST

    @property
    def provenance(self) -> dict[str, Any]:
        """What a store keeps of it."""
        return {_KEY: self.share, _KEY_LARGEST: self.largest, _KEY_ATOM: self.atom}

    @classmethod
    def of_store(cls, provenance: Mapping[str, Any]) -> MirrorAsymmetry | None:
        """What a store has kept; None for those that are not of a harvest, or older."""
        if _KEY not in provenance:
            return None
        return cls(float(provenance[_KEY]), float(provenance[_KEY_LARGEST]), int(provenance[_KEY_ATOM]))

    def message(self, of: str) -> str:
        """What it means for a propagator, ``of`` being whose forces these are."""
        return (
            f"{of} change under reflection (CMAP terms do, torsions with phases other than 0 and π, external fields): "
            f"{self.share:.2%} of the RMS force, up to {self.largest:.2%} at atom {self.atom}, has the other sign in "
            "the mirror image. Networks symmetric under reflection cannot learn this part where both mirror images "
            "occur; where only one does, as with L-amino acids, they are right for that one alone. If this matters, "
            "use a force field without such terms (amber14-all.xml)"
        )


def mirror_asymmetry(
    forces: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
    frames: Iterable[tuple[np.ndarray, np.ndarray | None]],
) -> MirrorAsymmetry | None:
    """Compare forces with those of the mirror image, two calls for each frame.

    With the mirror M, f₋(x) = (f(x) - M f(M x)) / 2 is the part of the forces that no function symmetric under
    reflection has.

    Parameters
    ----------
    forces : callable
        Forces (N, 3), any unit, of positions (N, 3) in Å and a cell (3, 3) in Å, or None; not finite where the engine
        gives up.
    frames : iterable of (ndarray, ndarray or None)
        Positions and cells, as given to ``forces``.

    Returns
    -------
    MirrorAsymmetry or None
        None if no frame has finite forces that are not all zero.
    """
    odd, total, count = 0.0, 0.0, 0
    largest, atom = 0.0, 0
    for x, cell in frames:
        here = np.asarray(forces(x, cell), dtype=np.float64)
        there = np.asarray(forces(*mirrored(x, cell)), dtype=np.float64)
        part = 0.5 * (here - there * _MIRROR)
        if not np.isfinite(part).all():
            continue
        lengths = np.square(part).sum(axis=1)
        if lengths.max() > largest:
            largest, atom = float(lengths.max()), int(lengths.argmax())
        odd, total, count = odd + float(lengths.sum()), total + float(np.square(here).sum()), count + len(x)
    if not total > 0:
        return None
    return MirrorAsymmetry((odd / total) ** 0.5, (largest * count / total) ** 0.5, atom)


_MIRROR = np.array([1.0, 1.0, -1.0])


def mirrored(x: np.ndarray, cell: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and cell reflected in the plane of x and y.

    Of the lattice, the vectors (a, b, -c) are given: right-handed where the cell was, lower triangular with a positive
    diagonal where it was, and reduced (in OpenMM's sense) where it was.

    Parameters
    ----------
    x : ndarray, shape (N, 3)
    cell : ndarray, shape (3, 3), or None
        Cell vectors in rows.
    """
    if cell is None:
        return x * _MIRROR, None
    return x * _MIRROR, cell * _MIRROR * np.array([[1.0], [1.0], [-1.0]])
