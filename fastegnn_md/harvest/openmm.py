"""Bursts by OpenMM: a System, a velocity Verlet integrator with RATTLE, one Context for all bursts of a process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import units
from .._extras import naming_extras
from ..errors import DataError
from .bursts import Burst, Start, midpoint_mark

if TYPE_CHECKING:
    from openmm import System

_NM = 10.0  # Å
_FORCE = units.KJ_PER_MOL / _NM  # amu Å/ps² per kJ/mol/nm
_REFERENCE_LIMIT = 100  # atoms; up to here OpenMM's Reference platform is the fastest on one thread
_DRIVEN = (
    "AndersenThermostat",
    "MonteCarloBarostat",
    "MonteCarloAnisotropicBarostat",
    "MonteCarloMembraneBarostat",
    "MonteCarloFlexibleBarostat",
)


@dataclass(frozen=True, eq=False)
class OpenMMRecipe:
    """An OpenMM System as XML."""

    xml: str
    masses: np.ndarray
    timestep: float
    midpoint: float | None
    platform: str
    n_constraints: int
    periodic: bool
    bonds: np.ndarray | None
    name: str = field(default="OpenMM", init=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the frames."""
        settings = f"{self.timestep!r} {self.platform}{midpoint_mark(self.midpoint)}"
        return hashlib.sha256(f"{self.xml} {settings}".encode()).hexdigest()

    def build(self) -> OpenMMRunner:
        """Make a Context in this process."""
        return OpenMMRunner(self)


def openmm_recipe(
    system: System,
    *,
    numbers: np.ndarray,
    masses: np.ndarray,
    timestep: float,
    midpoint: float | None,
    first: Start,
    platform: str | None,
) -> OpenMMRecipe:
    """Check an OpenMM System and write it as XML.

    Without a platform small systems get Reference, in boxes with right angles: in others it misses neighbours (OpenMM
    8.6.1; from off-diagonal elements of a fifth of the diagonal on, and cutoffs near half of the box).

    Raises
    ------
    DataError
        If the System holds a thermostat or barostat, has another number of particles than there are atoms, massless
        particles, masses that cannot belong to these elements, or the platform does not exist.
    """
    from ..engines.openmm.system import system_bonds

    openmm = _openmm()
    xml = openmm.XmlSerializer.serialize(system)
    system = openmm.XmlSerializer.deserialize(xml)  # a copy, the user's stays as it is
    for index in reversed(range(system.getNumForces())):
        kind = type(system.getForce(index)).__name__
        if kind in _DRIVEN:
            raise DataError(f"the System holds a {kind}; bursts run at constant energy: build the System without it")
        if kind == "CMMotionRemover":
            system.removeForce(index)
            xml = openmm.XmlSerializer.serialize(system)
    n = system.getNumParticles()
    if n != len(numbers):
        raise DataError(
            f"the System has {n} particles, the universe {len(numbers)} atoms; give the atoms of the System"
        )
    own = np.array([system.getParticleMass(i).value_in_unit(openmm.unit.dalton) for i in range(n)])
    if np.any(own == 0):
        raise DataError(
            f"particle {int(np.flatnonzero(own == 0)[0])} of the System has no mass (virtual site or frozen atom); "
            "such particles cannot be propagated: use a model without virtual sites, with all atoms free"
        )
    ratio = own / masses
    odd = np.flatnonzero((ratio < 1 / 3) | (ratio > 4.5))  # beyond what hydrogen mass repartitioning does
    if len(odd):
        i = int(odd[0])
        raise DataError(
            f"atom {i} (atomic number {numbers[i]}) has mass {own[i]:g} in the System and {masses[i]:g} in the "
            "universe: their atoms are not in the same order"
        )
    names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    periodic = system.usesPeriodicBoundaryConditions()
    if platform is None:
        skewed = periodic and first.cell is not None and np.count_nonzero(np.round(first.cell, 3)) > 3
        platform = "Reference" if (n <= _REFERENCE_LIMIT and not skewed) or "CPU" not in names else "CPU"
    if platform not in names:
        raise DataError(f"OpenMM has no platform {platform!r} here; it has {', '.join(names)}")
    return OpenMMRecipe(
        xml=xml,
        masses=own,
        timestep=timestep,
        midpoint=midpoint,
        platform=platform,
        n_constraints=system.getNumConstraints(),
        periodic=periodic,
        bonds=system_bonds(system, numbers),
    )


class OpenMMRunner:
    """One Context, used for every burst."""

    def __init__(self, recipe: OpenMMRecipe):
        openmm = _openmm()
        from ..engines.openmm.description import theory_of

        self._vec3, self._unit, self._exception = openmm.Vec3, openmm.unit, openmm.OpenMMException
        system = openmm.XmlSerializer.deserialize(recipe.xml)
        platform = openmm.Platform.getPlatformByName(recipe.platform)
        # one thread: processes share the work, and sums in a fixed order make a burst repeat bit by bit
        settings = {"Threads": "1"} if recipe.platform == "CPU" else {}
        self._integrator = velocity_verlet(openmm, recipe.timestep)
        self._tolerance = 1e-9 if recipe.platform == "Reference" else 1e-7
        self._integrator.setConstraintTolerance(self._tolerance)
        self._context = openmm.Context(system, self._integrator, platform, settings)
        self._periodic, self._midpoint = recipe.periodic, recipe.midpoint
        self.about: dict[str, Any] = {"theory": theory_of(system), "charge": None}

    def run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        """One burst.

        Raises
        ------
        DataError
            If the System is periodic and the start has no cell.
        """
        cell = self._set_cell(start.cell)
        try:
            return self._run(start, n_frames, steps_between, cell)
        except self._exception as error:  # coordinates became NaN, or constraints cannot be satisfied
            return Burst.failed(n_frames, len(start.positions), cell, error, self._midpoint is not None)

    def forces(self, x: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
        """Forces at positions (N, 3) in Å; units and failures as :meth:`BurstRunner.forces`."""
        self._set_cell(cell)
        try:
            return self._forces(x[None] / _NM)[0]
        except self._exception:
            return np.full(x.shape, np.nan)

    def reset(self) -> None:
        """Make the Context anew: neighbour lists of before change how forces round."""
        self._context.reinitialize()

    def _set_cell(self, cell: np.ndarray | None) -> np.ndarray | None:
        """Give the Context the cell of a frame (Å), in its own form, which is returned."""
        if not self._periodic:
            return None
        if cell is None:
            raise DataError("the System is periodic but the frame has no cell; write the box with the trajectory")
        cell = reduced_cell(cell)
        self._context.setPeriodicBoxVectors(*(self._vec3(*(row / _NM)) for row in cell))
        return cell

    def _run(self, start: Start, n_frames: int, steps_between: int, cell: np.ndarray | None) -> Burst:
        context = self._context
        context.setPositions(start.positions / _NM)
        context.applyConstraints(self._tolerance)
        context.setVelocities(start.velocities / _NM)
        context.applyVelocityConstraints(self._tolerance)
        frames = []
        for index in range(n_frames):
            if index:
                self._integrator.step(steps_between)
            frames.append(context.getState(positions=True, velocities=True, forces=True, energy=True))
        energy = self._unit.kilojoule_per_mole
        kinetic = [one.getKineticEnergy().value_in_unit(energy) * units.KJ_PER_MOL for one in frames]
        potential = [one.getPotentialEnergy().value_in_unit(energy) * units.KJ_PER_MOL for one in frames]
        x, v, f = (
            np.stack([getattr(one, name)(asNumpy=True)._value for one in frames])
            for name in ("getPositions", "getVelocities", "getForces")
        )
        ahead = behind = None
        if self._midpoint is not None:
            flight = 0.5 * self._midpoint * v
            ahead, behind = self._forces(x + flight), self._forces(x - flight)
        return Burst(
            positions=(x * _NM).astype(np.float32),
            velocities=(v * _NM).astype(np.float32),
            forces=(f * _FORCE).astype(np.float32),
            energies=np.array(kinetic) + np.array(potential),
            kinetic=kinetic[0],
            cell=cell,
            ahead=ahead,
            behind=behind,
        )

    def _forces(self, places: np.ndarray) -> np.ndarray:
        """Forces at several places (n_frames, N, 3) in nm; the Context ends at the last one."""
        found = []
        for x in places:
            self._context.setPositions(x)
            found.append(self._context.getState(forces=True).getForces(asNumpy=True)._value)
        return (np.stack(found) * _FORCE).astype(np.float32)


def _openmm() -> Any:
    with naming_extras("harvest with an OpenMM System"):
        import openmm
    return openmm


def velocity_verlet(openmm: Any, timestep: float) -> Any:
    """A CustomIntegrator of velocity Verlet with RATTLE; ``timestep`` in ps."""
    integrator = openmm.CustomIntegrator(timestep)
    integrator.addPerDofVariable("x1", 0)
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("x1", "x")
    integrator.addConstrainPositions()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m+(x-x1)/dt")
    integrator.addConstrainVelocities()
    return integrator


def reduced_cell(cell: np.ndarray) -> np.ndarray:
    """The same lattice in the form OpenMM asks for.

    Parameters
    ----------
    cell : ndarray, shape (3, 3), Å
        Lower triangular, as MDAnalysis gives it.

    Returns
    -------
    ndarray, shape (3, 3), Å
        Off-diagonal elements at most half of the diagonal element of their column.
    """
    a, b, c = np.array(cell, dtype=np.float64)
    c = c - b * np.round(c[1] / b[1])
    c = c - a * np.round(c[0] / a[0])
    b = b - a * np.round(b[0] / a[0])
    return np.stack([a, b, c])
