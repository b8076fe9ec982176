"""Which engine a harvest was given, and the recipe for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .ase import ase_recipe
from .bursts import BurstRecipe, Start
from .openmm import openmm_recipe

if TYPE_CHECKING:
    from openmm import System


def burst_recipe(
    engine: System | Callable[[], Any],
    *,
    numbers: np.ndarray,
    masses: np.ndarray,
    timestep: float,
    first: Start,
    midpoint: float | None = None,
    platform: str | None = None,
    constraints: Sequence[Any] = (),
) -> BurstRecipe:
    """Find out which engine was given and check it against the atoms.

    Parameters
    ----------
    engine : openmm.System or callable
        An OpenMM System, or a function without arguments that returns an ASE calculator. The function must be
        importable by worker processes: defined at the top level of a module.
    numbers, masses : ndarray, shape (N,)
        Atomic numbers and masses (amu) of the topology.
    timestep : float, ps
    first : Start
        First starting point.
    midpoint : float, ps, optional
        Evaluate forces at x ± v midpoint/2 as well.
    platform : str, optional
        OpenMM platform.
    constraints : sequence of ase.constraints.FixBondLengths
        Constraints of the ASE engine.

    Raises
    ------
    DataError
        If the engine is none of the two, has another number of atoms, or does not keep the energy.
    """
    if not callable(engine) and hasattr(engine, "getNumParticles"):
        if len(constraints):
            raise DataError("an OpenMM System brings its own constraints; leave constraints out")
        return openmm_recipe(
            engine,
            numbers=numbers,
            masses=masses,
            timestep=timestep,
            midpoint=midpoint,
            first=first,
            platform=platform,
        )
    if callable(engine):
        if platform is not None:
            raise DataError("platform is for OpenMM Systems; this engine is an ASE calculator factory")
        return ase_recipe(
            engine,
            numbers=numbers,
            masses=masses,
            timestep=timestep,
            midpoint=midpoint,
            first=first,
            constraints=constraints,
        )
    raise DataError(
        f"engine is a {type(engine).__name__}; expected an OpenMM System, or a function that returns an ASE calculator "
        "(not the calculator itself: every process builds its own)"
    )
