"""Checks of the package ``physical_validation`` (Merz and Shirts, PLoS ONE 13, e0202764 (2018))."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..._extras import naming_extras
from ...errors import DataError
from ...units import BOLTZMANN, KJ_PER_MOL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from physical_validation.data import SimulationData

_FEWEST = 50  # frames, of which the package keeps the uncorrelated ones


class KineticCheck(NamedTuple):
    """Kinetic energies beside those of the canonical ensemble.

    Attributes
    ----------
    p : float
        Of a Kolmogorov-Smirnov test of the uncorrelated frames against the distribution of Maxwell and Boltzmann.
    from_mean, from_deviation : float, K
        Temperatures that belong to the mean and to the standard deviation.
    """

    p: float
    from_mean: float
    from_deviation: float


def kinetic_energy_check(kinetic: np.ndarray, temperature: float, degrees_of_freedom: float) -> KineticCheck:
    """``physical_validation.kinetic_energy.distribution``, strict.

    Parameters
    ----------
    kinetic : ndarray, shape (n_frames,), kJ/mol
        Kinetic energies.
    temperature : float, K
        Of the canonical ensemble.
    degrees_of_freedom : float
        Those that constraints leave.

    Returns
    -------
    KineticCheck
        What the test found.

    Raises
    ------
    DataError
        If there are fewer than 50 frames.
    MissingDependencyError
        If physical_validation is not installed.
    """
    data = _simulation(temperature, degrees_of_freedom, kinetic_energy=kinetic)
    with _quiet():
        from physical_validation.kinetic_energy import distribution

        p = distribution(data, strict=True, verbosity=0)
    unit = BOLTZMANN / KJ_PER_MOL
    return KineticCheck(
        float(p),
        float(2 * np.mean(kinetic) / (degrees_of_freedom * unit)),
        float(np.sqrt(2 / degrees_of_freedom) * np.std(kinetic) / unit),
    )


def ensemble_check(first: np.ndarray, second: np.ndarray, temperatures: tuple[float, float]) -> float:
    """``physical_validation.ensemble.check`` of two runs at constant volume and different temperatures.

    The ratio of the distributions of the potential energy at two temperatures is exp(−(β₂ − β₁) U) whatever the
    potential; the result is how many standard errors the fitted slope is off.

    Parameters
    ----------
    first, second : ndarray, shape (n_frames,), kJ/mol
        Potential energies.
    temperatures : tuple of float, K
        Of the first and of the second run.

    Returns
    -------
    float
        Standard errors between the fitted slope and the true one.

    Raises
    ------
    DataError
        If there are fewer than 50 frames, or the two distributions do not overlap.
    MissingDependencyError
        If physical_validation is not installed.
    """
    one, other = (
        _simulation(temperature, 3.0, potential_energy=energy)
        for temperature, energy in zip(temperatures, (first, second), strict=True)
    )
    with _quiet():
        from physical_validation.ensemble import check
        from physical_validation.util.error import InputError

        try:
            return float(check(one, other, verbosity=0)[0])
        except (InputError, ValueError, FloatingPointError) as error:
            raise DataError(
                f"physical_validation cannot compare the two runs: {' '.join(str(error).split())}"
            ) from error


def _simulation(temperature: float, degrees_of_freedom: float, **series: np.ndarray) -> SimulationData:
    for name, values in series.items():
        if len(values) < _FEWEST:
            raise DataError(f"{len(values)} frames of {name} are too few; give {_FEWEST} or more")
        if not np.isfinite(values).all():
            raise DataError(f"a {name.replace('_', ' ')} is not finite: the run blew up")
    with _quiet():
        from physical_validation.data import EnsembleData, ObservableData, SimulationData, SystemData, UnitData

        units = UnitData(
            kb=BOLTZMANN / KJ_PER_MOL,
            energy_str="kJ/mol",
            energy_conversion=1,
            length_str="nm",
            length_conversion=1,
            volume_str="nm^3",
            volume_conversion=1,
            temperature_str="K",
            temperature_conversion=1,
            pressure_str="bar",
            pressure_conversion=1,
            time_str="ps",
            time_conversion=1,
        )
        # The package counts 3 natoms - nconstraints; only the difference matters, and no volume enters.
        atoms = int(np.ceil(degrees_of_freedom / 3))
        system = SystemData(
            natoms=atoms,
            nconstraints=3 * atoms - degrees_of_freedom,
            ndof_reduction_tra=0,
            ndof_reduction_rot=0,
        )
        return SimulationData(
            units=units,
            system=system,
            ensemble=EnsembleData("NVT", natoms=atoms, volume=1.0, temperature=temperature),
            observables=ObservableData(**series),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pymbar's advertisement of JAX and its remarks on every time series."""
    loggers = [logging.getLogger(name) for name in ("pymbar", "pymbar.mbar_solvers", "pymbar.timeseries")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # far from the ensemble the package's fits overflow on their way
        with naming_extras("physical_validation's checks"), np.errstate(all="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
