"""OpenMM: an ASE calculator over an OpenMM System, so that every force field OpenMM reads serves ASE."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._extras import naming_extras
from ...errors import CompatibilityError, ConfigError, Remedy, StateError
from .description import unusual_forces

if TYPE_CHECKING:
    import openmm
    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from ase.constraints import FixBondLengths
    from openmm.app import Topology
else:
    try:
        from ase.calculators.calculator import Calculator
    except ImportError:  # the class is still importable, and says what is missing when it is used
        Calculator = object

_NM = 10.0  # Å
# Tables of atomic masses differ by less; repartitioned hydrogens and isotopes by much more.
_MASS_TOLERANCE = 0.01


class OpenMMCalculator(Calculator):
    """Energy and forces of an OpenMM System for ASE.

    The System is copied; its constraints are not part of the forces. Bonds that OpenMM constrains usually have no
    force of their own: hold them in ASE with :meth:`bond_constraints`.

    Parameters
    ----------
    system : openmm.System
        Without virtual sites.
    topology : openmm.app.Topology, optional
        Lets elements be compared with those of the atoms, and restraints be told from a force field.
    platform : str or openmm.Platform, optional
        ``"Reference"`` computes in double precision, ``"CPU"`` in single. Default: the fastest OpenMM finds.
    properties : mapping of str to str, optional
        Of the platform, such as ``{"Threads": "1"}`` or ``{"Precision": "double"}``.

    Attributes
    ----------
    unusual_forces : tuple of str
        Forces beyond a force field, as :func:`~fastegnn_md.engines.openmm.description.unusual_forces` names them.

    Raises
    ------
    MissingDependencyError
        If OpenMM or ASE is not installed.
    CompatibilityError
        If the System has virtual sites, or another number of atoms than the topology.
    ConfigError
        If the platform or one of its properties does not exist.

    Examples
    --------
    >>> system = forcefield.createSystem(pdb.topology, constraints=app.HBonds)  # doctest: +SKIP
    >>> atoms.calc = OpenMMCalculator(system, topology=pdb.topology, platform="Reference")  # doctest: +SKIP
    >>> atoms.set_masses(atoms.calc.masses)  # doctest: +SKIP
    >>> atoms.set_constraint(atoms.calc.bond_constraints())  # doctest: +SKIP
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces"]  # noqa: RUF012  (as ASE declares it)
    name = "openmm"

    def __init__(
        self,
        system: openmm.System,
        *,
        topology: Topology | None = None,
        platform: str | openmm.Platform | None = None,
        properties: Mapping[str, str] | None = None,
    ):
        with naming_extras("OpenMMCalculator"):
            import ase  # noqa: F401
            import openmm
        super().__init__()
        self.system: Any = copy.deepcopy(system)
        n = self.system.getNumParticles()
        sites = [i for i in range(n) if self.system.isVirtualSite(i)]
        if sites:
            raise CompatibilityError(
                f"particle {sites[0]} of the System is a virtual site ({len(sites)} in all), and ASE moves every atom "
                "by its force; use a force field without virtual sites (TIP3P instead of TIP4P)"
            )
        self.masses: np.ndarray = np.array([self.system.getParticleMass(i)._value for i in range(n)])
        self.numbers: np.ndarray | None = None if topology is None else _numbers(topology, n)
        self.unusual_forces: tuple[str, ...] = unusual_forces(self.system, topology)
        self.platform = platform_named(openmm, platform)
        self.properties: dict[str, str] = dict(properties or {})
        if self.platform is None and self.properties:
            raise ConfigError("properties belong to a platform; give platform as well")
        if self.platform is not None:
            name, known = self.platform.getName(), self.platform.getPropertyNames()
            for key in self.properties:
                if key not in known:
                    raise ConfigError(f"platform {name} has no property {key!r}; it has {', '.join(known) or 'none'}")
        self._context: openmm.Context | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the Context, which belongs to this process."""
        return {**self.__dict__, "_context": None, "platform": self.platform and self.platform.getName()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild; the Context is made anew when it is needed."""
        import openmm

        self.__dict__.update(state)
        self.platform = platform_named(openmm, state["platform"])

    @property
    def context(self) -> openmm.Context:
        """The Context that evaluates the System, made on first use."""
        if self._context is None:
            import openmm

            integrator = openmm.VerletIntegrator(0.001)
            extra = [] if self.platform is None else [self.platform, *([self.properties] if self.properties else [])]
            self._context = openmm.Context(self.system, integrator, *extra)
        return self._context

    def bond_constraints(self) -> FixBondLengths:
        """The constraints of the System as ASE knows them, to be given to ``atoms.set_constraint``.

        Raises
        ------
        CompatibilityError
            If the System has none.
        """
        from ase.constraints import FixBondLengths

        found = [self.system.getConstraintParameters(k) for k in range(self.system.getNumConstraints())]
        if not found:
            raise CompatibilityError("the System has no constraints; there is nothing to give to set_constraint")
        return FixBondLengths([(i, j) for i, j, _ in found], bondlengths=np.array([d._value * _NM for *_, d in found]))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] | None = None,
    ) -> None:
        """Evaluate energy (eV) and forces (eV/Å) in one call of OpenMM.

        Raises
        ------
        CompatibilityError
            If the atoms are not those of the System: number, elements, masses, periodicity.
        StateError
            If positions, energy or forces are not finite, or OpenMM refuses the box.
        """
        import openmm
        from ase import units

        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise StateError("there are no atoms to evaluate; give them")
        super().calculate(atoms)
        self._check(atoms)
        positions = atoms.positions
        if not np.isfinite(positions).all():
            raise StateError(f"atom {_first_not_finite(positions)} has a position that is not finite")
        turn = np.eye(3)
        try:
            if self.system.usesPeriodicBoundaryConditions():
                box, turn = reduced_box(np.asarray(atoms.cell))
                self._check_turn(turn)
                self.context.setPeriodicBoxVectors(*(box / _NM))
            self.context.setPositions(positions @ turn.T / _NM)
            state = self.context.getState(energy=True, forces=True)
        except openmm.OpenMMException as error:
            raise StateError(f"OpenMM cannot evaluate these atoms: {error}") from error
        kj = units.kJ / units.mol
        energy = state.getPotentialEnergy()._value * kj
        forces = state.getForces(asNumpy=True)._value @ turn * (kj / _NM)
        if not np.isfinite(forces).all():
            atom = _first_not_finite(forces)
            raise StateError(f"the force on atom {atom} is not finite; look for atoms that lie on each other")
        if not np.isfinite(energy):
            raise StateError(f"the energy is {energy}; look for atoms that lie on each other")
        self.results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}

    def _check(self, atoms: Atoms) -> None:
        n = len(self.masses)
        if len(atoms) != n:
            raise CompatibilityError(
                f"there are {len(atoms)} atoms but the System has {n} particles; give the same system"
            )
        if self.numbers is not None and not np.array_equal(self.numbers, atoms.numbers):
            atom = int(np.flatnonzero(self.numbers != atoms.numbers)[0])
            raise CompatibilityError(
                f"atom {atom} is {atoms.symbols[atom]} but has atomic number {self.numbers[atom]} in the topology; "
                "keep the order of the topology"
            )
        # OpenMM's mass of zero means a particle that does not move, which is ASE's FixAtoms.
        wrong = (self.masses > 0) & (np.abs(atoms.get_masses() - self.masses) > _MASS_TOLERANCE * self.masses)
        if wrong.any():
            atom = int(np.flatnonzero(wrong)[0])
            raise CompatibilityError(
                f"atom {atom} has {atoms.get_masses()[atom]:.4f} amu but {self.masses[atom]:.4f} amu in the System; "
                "atoms.set_masses(calculator.masses) takes those of the System"
            )
        periodic = self.system.usesPeriodicBoundaryConditions()
        if periodic and not atoms.pbc.all():
            raise CompatibilityError(
                Remedy(
                    "the System is periodic but the atoms are not in all directions; ",
                    f"atoms.pbc is {atoms.pbc.tolist()}: set pbc and a cell",
                    "give a file with the box",
                )
            )
        if not periodic and atoms.pbc.any():
            raise CompatibilityError(
                Remedy(
                    "the System is not periodic but the atoms are; make it with a periodic nonbonded method, or ",
                    f"set pbc=False (atoms.pbc is {atoms.pbc.tolist()})",
                    "give a file without a box",
                )
            )

    def _check_turn(self, turn: np.ndarray) -> None:
        if np.array_equal(turn, np.eye(3)):
            return
        for force in self.system.getForces():
            if type(force).__name__ == "CustomExternalForce":
                raise CompatibilityError(
                    "the System has a CustomExternalForce, whose directions would turn with the cell; give a cell with "
                    "its first vector along x and its second in the xy plane"
                )


def reduced_box(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Describe a lattice the way OpenMM asks for it.

    OpenMM wants a = (a_x, 0, 0), b = (b_x, b_y, 0), c = (c_x, c_y, c_z) with a_x, b_y, c_z > 0, 2|b_x| ≤ a_x,
    2|c_x| ≤ a_x and 2|c_y| ≤ b_y. Every lattice has such a description, after a rotation.

    Parameters
    ----------
    cell : ndarray, shape (3, 3), Å
        Cell vectors in rows.

    Returns
    -------
    box : ndarray, shape (3, 3), Å
        Reduced vectors of the same lattice, turned.
    turn : ndarray, shape (3, 3)
        Rotation: positions (N, 3) of the cell are ``positions @ turn.T`` in the box. The exact identity where the cell
        is lower triangular already.

    Raises
    ------
    StateError
        If the cell has no volume.
    """
    from ase.geometry import minkowski_reduce

    if not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-6:
        raise StateError("the System is periodic but the cell has no volume; give three independent cell vectors")
    turn, box = np.eye(3), np.array(cell, dtype=float)
    if np.any(np.triu(box, 1)) or np.linalg.det(box) < 0:
        # The shortest vectors leave the most room for the cutoff. Reversing one leaves the lattice as it is and makes a
        # left-handed cell right-handed.
        box = np.array(minkowski_reduce(box)[0], dtype=float)
        box[2] *= np.sign(np.linalg.det(box))
        q, r = np.linalg.qr(box.T)
        signs = np.sign(np.diag(r))
        turn, box = (q * signs).T, np.tril((signs[:, None] * r).T)
    box *= np.where(np.diag(box) < 0, -1.0, 1.0)[:, None]
    a, b, c = box
    c -= b * np.round(c[1] / b[1])
    c -= a * np.round(c[0] / a[0])
    b -= a * np.round(b[0] / a[0])
    # A hexagonal cell sits on the border, and OpenMM refuses what rounding has put one digit beyond it.
    b[0], c[0], c[1] = np.clip([b[0], c[0], c[1]], [-a[0] / 2, -a[0] / 2, -b[1] / 2], [a[0] / 2, a[0] / 2, b[1] / 2])
    return box, turn


def _first_not_finite(values: np.ndarray) -> int:
    return int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])


def _numbers(topology: Topology, particles: int) -> np.ndarray:
    numbers = np.array([0 if atom.element is None else atom.element.atomic_number for atom in topology.atoms()])
    if len(numbers) != particles:
        raise CompatibilityError(f"the topology has {len(numbers)} atoms but the System {particles} particles")
    return numbers


def platform_named(module: Any, platform: str | openmm.Platform | None) -> openmm.Platform | None:
    """The platform of a name; raises ConfigError where OpenMM (``module``) does not have it."""
    if not isinstance(platform, str):
        return platform
    known = [module.Platform.getPlatform(i).getName() for i in range(module.Platform.getNumPlatforms())]
    if platform not in known:
        raise ConfigError(f"OpenMM has no platform {platform!r} here; it has {', '.join(known)}")
    return module.Platform.getPlatformByName(platform)
