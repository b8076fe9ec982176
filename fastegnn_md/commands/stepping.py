"""Atoms that a command steps through ASE: from a state, with the engine asked for, with velocities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .._extras import naming_extras
from ..errors import ConfigError, DataError
from .forcefields import calculator_factory, openmm_system

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from torch import Tensor

    from ..propagator.learned_map import LearnedMap
    from ..state import State


def ase_atoms(state: State) -> Atoms:
    """ASE Atoms of a state, without velocities."""
    with naming_extras("stepping ASE Atoms"):
        from ase import Atoms

    atoms = Atoms(
        numbers=state.numbers.numpy(),
        positions=state.positions.numpy(),
        cell=None if state.cell is None else state.cell[0].numpy(),
        pbc=state.periodic,
    )
    atoms.set_masses(state.masses.numpy())
    return atoms


def trained_masses(propagator: LearnedMap, state: State, moving: bool = False) -> tuple[State, bool]:
    """A state of natural masses with those of a model that knows others, as of heavier hydrogens; the user is told.

    Where the model knows natural masses, or the state has others of its own, it is returned as it is. Beside it stands
    whether its velocities are still to be used: those of other masses are not.

    Raises
    ------
    CompatibilityError
        As :meth:`.Domain.masses_of`.
    """
    import torch

    from ..propagator.domain import MASS_TOLERANCE

    with naming_extras("stepping ASE Atoms"):
        from ase.data import atomic_masses, chemical_symbols

    natural = torch.as_tensor(atomic_masses)[state.numbers]
    domain = propagator.domain
    own = (state.masses / natural - 1).abs() > MASS_TOLERANCE
    if bool(own.any()) or bool(domain.knows(state.numbers, natural).all()):
        return state, moving
    masses = domain.masses_of(state.numbers.tolist())
    changed = {
        int(number): float(mass)
        for number, mass, before in zip(state.numbers, masses, natural, strict=True)
        if abs(mass / before - 1) > MASS_TOLERANCE
    }
    said = ", ".join(f"{chemical_symbols[number]} {mass:g} u" for number, mass in sorted(changed.items()))
    typer.echo(
        f"atoms get the masses that the model was trained with ({said}): positions are distributed as with those of "
        "nature, how fast they change is not" + ("; velocities of START are drawn anew" if moving else ""),
        err=True,
    )
    return state.replace(masses=masses.to(state.dtype)), False


def attach_engine(
    atoms: Atoms,
    bonds: np.ndarray | None,
    structure: Path,
    forcefield: list[str] | None,
    system: Path | None,
    constraints: str,
    cutoff: str,
    calculator: str | None,
    *,
    isolated: bool = False,
    trust: bool = False,
) -> np.ndarray | None:
    """Give the atoms their calculator, the masses of its System, and the constraints asked for; all bonds known.

    An ``isolated`` molecule gets a force field without the box of its structure.
    """
    import numpy as np
    from ase.constraints import FixAtoms, FixBondLengths

    if calculator is not None and (forcefield or system):
        raise ConfigError("--calculator and --forcefield (or --system) exclude each other; give one of them")
    if calculator is not None:
        from ..engines.ase.calculators import new_calculator

        atoms.calc = new_calculator(calculator_factory(calculator))
    elif forcefield or system:
        from ..data.topology import join_bonds
        from ..engines.openmm import OpenMMCalculator
        from ..engines.openmm.system import system_bonds

        built = openmm_system(structure, forcefield, system, constraints, cutoff, isolated=isolated, trust=trust)
        if built.getNumParticles() != len(atoms):
            raise DataError(
                f"the force field describes {built.getNumParticles()} particles, {len(atoms)} atoms are selected; "
                "give a structure of these atoms only"
            )
        atoms.calc = OpenMMCalculator(built)
        resting = atoms.calc.masses == 0  # what OpenMM calls so keeps its place
        atoms.set_masses(np.where(resting, atoms.get_masses(), atoms.calc.masses))
        held: list[Any] = [FixAtoms(mask=resting)] if resting.any() else []
        if built.getNumConstraints():
            held.append(atoms.calc.bond_constraints())
        atoms.set_constraint(held)
        return join_bonds(bonds, system_bonds(built, atoms.numbers))
    if constraints == "none":
        return bonds
    if constraints != "HBonds" or bonds is None:
        why = "the topology has no bonds" if constraints == "HBonds" else "only HBonds can be"
        raise ConfigError(f"--constraints {constraints} cannot be set up without a force field: {why}")
    atoms.set_constraint(FixBondLengths(bonds[(atoms.numbers[bonds] == 1).any(axis=1)]))
    return bonds


def keep_constraints(atoms: Atoms, path: Path, of: int) -> None:
    """Give the atoms the constraints that a file of ASE brings along for its ``of`` atoms, beside those of the engine.

    Raises
    ------
    ConfigError
        If it has some, and the atoms are a selection of its atoms.
    """
    from ase.constraints import FixBondLengths

    from ..data.ase_files import file_constraints

    held = file_constraints(path)
    if held and len(atoms) != of:
        names = ", ".join(type(one).__name__ for one in held)
        raise ConfigError(f"{path} has constraints ({names}) that count all its atoms; leave --select out")
    if atoms.constraints:  # bond lengths are the force field's
        held = [one for one in held if not isinstance(one, FixBondLengths)]
    atoms.set_constraint([*atoms.constraints, *held])


def keep_labels(atoms: Atoms, path: Path) -> None:
    """Give the atoms what a file of ASE says of charge and spin, where it has as many atoms."""
    from ..data.ase_files import file_labels

    said, moments = file_labels(path)
    atoms.info.update(said)
    if moments is not None and len(moments) == len(atoms):
        atoms.set_initial_magnetic_moments(moments)


def set_velocities(atoms: Atoms, stored: Tensor | None, temperature: float | None, rng: np.random.Generator) -> None:
    """Velocities of the frame, else drawn from Maxwell-Boltzmann, the centre of mass at rest."""
    import torch

    from ..engines.ase.stepper import PICOSECOND
    from ..mechanics.thermal import thermal_velocities

    masses = atoms.get_masses()[:, None]
    if stored is not None:
        velocities = stored.numpy()
    elif temperature is None:
        raise ConfigError("START has no velocities; give --temperature to draw them")
    else:
        velocities = thermal_velocities(torch.from_numpy(atoms.get_masses()), temperature, rng).numpy()
        velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    atoms.set_velocities(velocities / PICOSECOND)
