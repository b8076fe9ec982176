"""The systems of the learning benchmarks: atoms, engine, and the settings of classical and learned dynamics.

``silicon``: 64 atoms of silicon with CHGNet. ``salt``: 64 atoms of molten NaCl with CHGNet, at the density of
experiment. ``molecule``: formaldehyde with PBE by PySCF. They need chgnet and pyscf, which the package does not.
``copper`` has an engine that costs nothing, to try the scripts with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT


@dataclass(frozen=True)
class System:
    """What is simulated, and how classical dynamics would be run by one who knows the material.

    Attributes
    ----------
    build : callable
        Copies of the cell along each axis → Atoms at the place where dynamics start, without velocities.
    engine : callable
        A new calculator.
    temperature : float, K
    timestep : float, fs
        Of classical dynamics.
    friction : float, 1/ps
    lag : float, fs
        Of a jump.
    saved : float, fs
        Between frames of the reference.
    settle : tuple of (float, float)
        Stretches (K, ps) of dynamics before the first frame counts.
    """

    build: Callable[..., Atoms]
    engine: Callable[[], Calculator]
    temperature: float
    timestep: float
    friction: float
    lag: float
    saved: float
    settle: tuple[tuple[float, float], ...]


def chgnet() -> Calculator:
    """CHGNet 0.3.0 on the CPU, asked for energy and forces alone; stress and moments double the time of a call."""
    from chgnet.model.dynamics import CHGNetCalculator

    class EnergyAndForces(CHGNetCalculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            super().calculate(atoms, properties, system_changes, task="ef")

    return EnergyAndForces(use_device="cpu")


def pbe() -> Calculator:
    """PBE/def2-SVP by PySCF with density fitting on a coarse grid; each SCF starts from the density of the last."""
    from pyscf import dft, gto
    from pyscf.pbc.tools.pyscf_ase import PySCF

    start = formaldehyde()
    places = [[atom.symbol, atom.position] for atom in start]
    method = dft.RKS(gto.M(atom=places, basis="def2-svp", verbose=0), xc="pbe").density_fit()
    method.grids.level, method.conv_tol = 1, 1e-8
    return PySCF(method=method)


def silicon(copies: int = 2) -> Atoms:
    """Diamond structure at the lattice constant of PBE."""
    return bulk("Si", "diamond", a=5.46, cubic=True) * (copies, copies, copies)


def salt(copies: int = 2) -> Atoms:
    """Rock salt spread to the density of the melt at 1,200 K (1.488 g/cm³)."""
    return bulk("NaCl", "rocksalt", a=6.389, cubic=True) * (copies, copies, copies)


def copper(copies: int = 2) -> Atoms:
    """Face centred cubic."""
    return bulk("Cu", a=3.61, cubic=True) * (copies, copies, copies)


def formaldehyde(copies: int = 1) -> Atoms:
    """One molecule, isolated."""
    return molecule("H2CO")


SYSTEMS = {
    "silicon": System(silicon, chgnet, 600.0, 2.0, 10.0, 20.0, 10.0, ((600.0, 1.0),)),
    "salt": System(salt, chgnet, 1200.0, 4.0, 10.0, 20.0, 20.0, ((2500.0, 2.0), (1200.0, 2.0))),
    "copper": System(copper, EMT, 600.0, 5.0, 10.0, 40.0, 20.0, ((600.0, 0.5),)),
    "molecule": System(formaldehyde, pbe, 350.0, 1.0, 10.0, 4.0, 1.0, ((350.0, 0.1),)),
}
