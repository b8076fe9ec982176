"""Temperature of each element, with the degrees of freedom that constraints leave to its atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from MDAnalysis.guesser.tables import Z2SYMB
from MDAnalysis.lib.distances import minimize_vectors
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...data.topology import quiet, read_topology
from ...errors import DataError
from ...units import BOLTZMANN, KJ_PER_MOL
from .frames import FrameAnalysis

if TYPE_CHECKING:
    from MDAnalysis import AtomGroup


class ElementTemperatures(FrameAnalysis):
    """Temperature of each element, T_s = 2 K_s / f_s k_B.

    f_s counts the degrees of freedom of the atoms of element s: three each, less what held distances take away, see
    :func:`degrees_of_freedom`; taken at the first frame of the run.

    Parameters
    ----------
    atoms : AtomGroup
        With velocities in the trajectory.
    bonds : array of int, shape (M, 2), optional
        Pairs of atoms (numbered within the group) at fixed distance.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    results.elements : list of str, length S
    results.degrees_of_freedom : ndarray, shape (S,)
    results.temperatures : ndarray, shape (n_frames, S), K
    results.kinetic_energy : ndarray, shape (n_frames,), kJ/mol
        Of all atoms.

    Raises
    ------
    DataError
        If a frame has no velocities.
    """

    def __init__(self, atoms: AtomGroup, bonds: np.ndarray | None = None, *, verbose: bool = False):
        super().__init__(atoms, verbose=verbose)
        self.bonds: np.ndarray = (
            np.empty((0, 2), dtype=np.int64) if bonds is None else np.asarray(bonds, dtype=np.int64)
        )
        with quiet():
            topology = read_topology(atoms)
        self._masses = topology.masses
        numbers, self._species = np.unique(topology.numbers, return_inverse=True)
        self._elements = [Z2SYMB[int(number)] for number in numbers]

    def row(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Kinetic energy of each element (amu Å²/ps²); of the first frame also its degrees of freedom."""
        if not self._ts.has_velocities:
            raise DataError(f"frame {self._ts.frame} has no velocities; a temperature needs them in every frame")
        freedom = None
        if not self.results.rows:
            each = degrees_of_freedom(self.atoms.positions, self._masses, self.bonds, self._ts.dimensions)
            freedom = np.bincount(self._species, weights=each)
        kinetic = 0.5 * self._masses * np.square(self.atoms.velocities.astype(np.float64)).sum(axis=1)
        return np.bincount(self._species, weights=kinetic), freedom

    def _conclude(self) -> None:
        rows = self.taken()
        kinetic = np.array([row[0] for row in rows]).reshape(-1, len(self._elements))
        self.results.elements = self._elements
        self.results.degrees_of_freedom = rows[0][1] if rows else np.full(len(self._elements), np.nan)
        self.results.temperatures = 2 * kinetic / (BOLTZMANN * self.results.degrees_of_freedom)
        self.results.kinetic_energy = kinetic.sum(axis=1) / KJ_PER_MOL


def degrees_of_freedom(
    positions: np.ndarray, masses: np.ndarray, bonds: np.ndarray, box: np.ndarray | None = None
) -> np.ndarray:
    """Degrees of freedom of each atom under held distances.

    Velocities of equilibrium have the covariance k_B T M^-½ P M^-½, where P = 1 − A (Aᵀ A)⁺ Aᵀ with A = M^-½ ∇σ
    projects mass-weighted velocities onto what the constraints σ allow; an atom has the trace of its block of P.

    Parameters
    ----------
    positions : ndarray, shape (N, 3), Å
    masses : ndarray, shape (N,), amu
    bonds : ndarray of int, shape (M, 2)
        Pairs of atoms at fixed distance.
    box : ndarray, shape (6,), optional
        Lengths in Å and angles in degrees, for bonds across a boundary.

    Returns
    -------
    ndarray, shape (N,)
        Their sum is 3N − M for independent constraints.
    """
    freedom = np.full(len(masses), 3.0)
    if not len(bonds):
        return freedom
    vectors = np.asarray(positions[bonds[:, 0]] - positions[bonds[:, 1]], dtype=np.float64)
    if box is not None and np.all(box[:3] > 0):
        vectors = minimize_vectors(vectors.astype(np.float32), box).astype(np.float64)
    _, group = connected_components(
        coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(len(masses),) * 2), directed=False
    )
    order = np.argsort(group[bonds[:, 0]], kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[bonds[order, 0]])) + 1):
        atoms, place = np.unique(bonds[rows], return_inverse=True)
        place = place.reshape(-1, 2)
        gradient = np.zeros((len(atoms), 3, len(rows)))
        for k, (a, b) in enumerate(place):
            gradient[a, :, k], gradient[b, :, k] = vectors[rows[k]], -vectors[rows[k]]
        scaled = (gradient / np.sqrt(masses[atoms])[:, None, None]).reshape(3 * len(atoms), len(rows))
        lost = np.einsum("ij,jk,ik->i", scaled, np.linalg.pinv(scaled.T @ scaled, rcond=1e-10), scaled)
        freedom[atoms] -= lost.reshape(-1, 3).sum(axis=1)
    return freedom
