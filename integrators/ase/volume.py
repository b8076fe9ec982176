"""Atoms at constant pressure: changes of their cell, between stretches of any dynamics at constant volume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import FORCE
from fastegnn_md.engines.ase.calculated import ATTACH, energy_of
from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, EngineError, Remedy
from fastegnn_md.propagator.provenance import Provenance

from ..barostat import MonteCarloBarostat, VolumeMoves
from ..home import UnlikeTrainingWarning, doubt_volume

with naming_extras(__name__):
    from ase import Atoms
    from ase.constraints import FixCom
    from ase.md.nptberendsen import NPTBerendsen


class AtomsVolume:
    """Moves of the cell of an ``Atoms`` object, for a dynamics that calls :meth:`attempt` after its steps.

    A move asks the calculator for two energies; for one, where it keeps that of the present positions, as ASE's do
    after a classical step. The centre of mass stays where it is, which changes no energy.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic in all directions, with a calculator.
    barostat : MonteCarloBarostat
    energy : callable, optional
        Atoms → potential energy in eV. Default: what their calculator says.

    Attributes
    ----------
    moves : VolumeMoves
        What was tried and accepted, and how large moves are.

    Raises
    ------
    ConfigError
        If the barostat is something else.
    CompatibilityError
        If the atoms are not periodic or have no calculator.
    ConstraintError
        If a constraint does not let atoms be scaled.
    """

    atoms: Atoms
    barostat: MonteCarloBarostat
    moves: VolumeMoves

    def __init__(self, atoms: Atoms, barostat: MonteCarloBarostat, energy: Callable[[Atoms], float] = energy_of):
        if not isinstance(barostat, MonteCarloBarostat):
            raise ConfigError(f"barostat is {barostat!r}; expected MonteCarloBarostat('1 bar')")
        if atoms.calc is None:
            raise CompatibilityError(Remedy("a barostat asks for the energy of each volume it tries; ", *ATTACH))
        if not atoms.pbc.all():
            raise CompatibilityError(
                Remedy(
                    f"a barostat changes the cell of atoms that are periodic in all directions, atoms.pbc is "
                    f"{atoms.pbc.tolist()}; ",
                    "set pbc and a cell, or leave barostat out",
                    "give a file with the box, or leave --pressure out",
                )
            )
        check_free(atoms)
        self.atoms, self.barostat, self.moves = atoms, barostat, VolumeMoves(barostat)
        self._energy, self._warned = energy, False

    def attempt(self, kelvin: float, rng: np.random.Generator) -> float | None:
        """Try a change of the volume.

        Parameters
        ----------
        kelvin : float
            Temperature of the heat bath, > 0.
        rng : numpy.random.Generator
            Advanced.

        Returns
        -------
        float or None
            By how much the potential energy has changed, eV; None where the move was rejected and nothing has changed.

        Raises
        ------
        ConfigError
            If the temperature is not positive.
        ConstraintError
            If the atoms have got a constraint that does not let them be scaled.
        EngineError
            If the calculator fails, or the energy before the move is not finite. The atoms are unchanged.
        """
        if not kelvin > 0:
            raise ConfigError(f"a barostat needs a temperature above zero, it is {kelvin} K")
        check_free(self.atoms)
        before = self._energy(self.atoms)
        if not math.isfinite(before):
            raise EngineError(f"the potential energy is {before} eV; no volume can be compared with this one")
        kind, change, factors = self.moves.propose(rng)
        trial = self._scaled(factors)
        energy, volume, size = self._energy(trial) - before, self.atoms.get_volume(), len(self.atoms)
        if not self.moves.accept(kind, change, energy * FORCE, volume=volume, atoms=size, kelvin=kelvin, rng=rng):
            return None
        self.atoms.set_cell(trial.cell)
        self.atoms.set_positions(trial.positions, apply_constraint=False)
        return energy

    def warn_outside(self, provenance: Provenance | None) -> None:
        """Warn, once, where the present volume is far from those of the training data of a propagator.

        Warns
        -----
        UnlikeTrainingWarning
        """
        if provenance is None or self._warned:
            return
        for doubt in doubt_volume(provenance, self.atoms.get_volume() / len(self.atoms)):
            self._warned = True
            warnings.warn(doubt, UnlikeTrainingWarning, stacklevel=2)

    def _scaled(self, factors: np.ndarray) -> Atoms:
        """A copy with longer or shorter cell vectors, by factors (3,): fractional coordinates stay, but for a shift."""
        trial = self.atoms.copy()
        trial.set_constraint()
        cell = np.array(trial.cell)
        scaled = factors[:, None] * cell
        masses = trial.get_masses()[:, None]
        centre = (masses * trial.positions).sum(axis=0) / masses.sum()
        trial.set_cell(scaled)
        trial.set_positions(centre + (trial.positions - centre) @ np.linalg.solve(cell, scaled))
        trial.calc = self.atoms.calc
        return trial


def check_free(atoms: Atoms) -> None:
    """Refuse to scale atoms that are not free to move; raises ConstraintError."""
    held = [type(one).__name__ for one in atoms.constraints if not isinstance(one, FixCom)]
    if held:
        raise ConstraintError(
            f"a barostat scales the positions of all atoms, which {', '.join(dict.fromkeys(held))} forbids; leave one "
            "of them out"
        )


def check_bath(kelvin: float | None, classical: Any) -> None:
    """Refuse a barostat where there is no temperature, or another barostat.

    Parameters
    ----------
    kelvin : float or None
        Of the heat bath.
    classical : ase.md.md.MolecularDynamics or None
        What makes classical steps.

    Raises
    ------
    ConfigError
        If a thermostat, or its temperature, is missing, or the classical steps change the volume themselves.
    """
    if isinstance(classical, NPTBerendsen):
        raise ConfigError(
            f"{type(classical).__name__} changes the volume itself, and not to that of an ensemble; take Langevin for "
            "the classical steps"
        )
    if kelvin is None or not kelvin > 0:
        found = "there is none" if kelvin is None else f"it has {kelvin:g} K"
        raise ConfigError(
            Remedy(
                f"a barostat needs a thermostat of a temperature above zero, {found}; give ",
                "temperature_K and friction, or thermostat= (classical steps of ASE: those of its Langevin)",
                "--temperature, without --nve",
            )
        )
