"""Dynamics of ASE that make classical steps between jumps: which can, what they say of heat, their random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.engines.ase.calculated import ATTACH
from fastegnn_md.errors import CheckpointError, CompatibilityError, ConfigError, Remedy

from ..options import Bath
from ..restart_file import generator_state, restore_generator
from ..thermostats import Langevin

with naming_extras(__name__):
    from ase import Atoms, units
    from ase.md.contour_exploration import ContourExploration
    from ase.md.langevin import Langevin as ASELangevin
    from ase.md.md import MolecularDynamics
    from ase.md.melchionna import MelchionnaNPT
    from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
    from ase.md.verlet import VelocityVerlet

# They go on from positions of their own, not from those of the atoms.
_DEAF = (ContourExploration, MelchionnaNPT, NoseHooverChainNVT, IsotropicMTKNPT, MTKNPT)


def check_classical(classical: Any, atoms: Atoms) -> None:
    """Refuse what cannot make classical steps of these atoms between jumps.

    Raises
    ------
    ConfigError
        If it is no dynamics of ASE, is for other atoms, or goes on from positions of its own.
    CompatibilityError
        If the atoms have no calculator.
    """
    if not isinstance(classical, MolecularDynamics):
        raise ConfigError(
            f"classical is a {type(classical).__name__}; expected a time step or one of ASE's molecular dynamics"
        )
    if isinstance(classical, _DEAF):
        raise ConfigError(
            f"{type(classical).__name__} goes on from positions of its own and would undo each jump; use "
            "VelocityVerlet, Langevin, Andersen, Bussi or a Berendsen dynamics"
        )
    if classical.atoms is not atoms:
        raise ConfigError("the classical dynamics was made for other atoms; make it for these")
    if atoms.calc is None:
        raise CompatibilityError(Remedy("classical steps need forces; ", *ATTACH))


def bath_of(classical: MolecularDynamics) -> Bath:
    """Time step of a dynamics, and its thermostat where that is ASE's Langevin."""
    timestep = classical.dt / PICOSECOND
    if not isinstance(classical, ASELangevin):
        return Bath(timestep)
    temperature = classical.temp / units.kB
    return Bath(timestep, Langevin(temperature, float(np.mean(classical.fr)) * PICOSECOND), temperature)


def check_engine(classical: MolecularDynamics | None) -> None:
    """Refuse to set the temperature of a dynamics that has one of its own kind; raises ConfigError."""
    if classical is not None and not isinstance(classical, (ASELangevin, VelocityVerlet)):
        raise ConfigError(
            f"the classical steps are those of {type(classical).__name__}, whose temperature cannot be set here: make "
            "both anew"
        )


def change_engine(classical: Any, temperature_K: float | None = None, friction: Any = None) -> None:
    """Give ASE's Langevin another temperature (K), or the friction of a Langevin thermostat; others have none."""
    if isinstance(classical, ASELangevin):
        if temperature_K is not None:
            classical.set_temperature(temperature_K=temperature_K)
        if friction is not None:
            classical.set_friction(friction.friction / PICOSECOND)


def random_state(classical: MolecularDynamics | None) -> dict[str, Any] | None:
    """State of the random numbers that belong to a dynamics alone; None where it has none, or those of NumPy."""
    rng = getattr(classical, "rng", None)
    if isinstance(rng, np.random.Generator):
        return generator_state(rng)
    if isinstance(rng, np.random.RandomState):
        return {**generator_state(np.random.Generator(rng._bit_generator)), **_gauss(rng)}
    return None


def restore_random_state(classical: MolecularDynamics | None, state: dict[str, Any] | None) -> None:
    """Undo :func:`random_state`.

    Raises
    ------
    CheckpointError
        If the dynamics has random numbers of another kind than the one that was saved.
    """
    if state is None:
        return
    rng = getattr(classical, "rng", None)
    state = dict(state)
    gauss = {name: state.pop(name) for name in ("has_gauss", "gauss") if name in state}
    if not isinstance(rng, (np.random.Generator, np.random.RandomState)) or bool(gauss) != isinstance(
        rng, np.random.RandomState
    ):
        raise CheckpointError(
            f"the classical dynamics of the interrupted run had random numbers of its own "
            f"({state.get('bit_generator')}); make this one with rng= of the same kind"
        )
    restored = restore_generator(state).bit_generator.state
    if restored["bit_generator"] != _bits(rng).state["bit_generator"]:
        raise CheckpointError(
            f"the random numbers of the classical dynamics came from {restored['bit_generator']}, those of this one "
            f"from {_bits(rng).state['bit_generator']}; make it with the same kind"
        )
    if isinstance(rng, np.random.RandomState):
        rng.set_state(dict(restored) | gauss)
    else:
        rng.bit_generator.state = restored


def _bits(rng: np.random.Generator | np.random.RandomState) -> Any:
    return rng.bit_generator if isinstance(rng, np.random.Generator) else rng._bit_generator


def _gauss(rng: np.random.RandomState) -> dict[str, Any]:
    state: Any = rng.get_state(legacy=False)
    return {name: state[name] for name in ("has_gauss", "gauss")}
