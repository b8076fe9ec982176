"""A box of TIP3P water: a large periodic system that anyone can run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..._extras import naming_extras
from ..._progress import progress_bar
from ...engines.openmm.calculator import platform_named
from ...engines.openmm.system import NM
from ...errors import ConfigError, DataError

with naming_extras(__name__):
    import openmm
    from openmm import app, unit

FORCE_FIELD = "tip3p.xml"
_TIMESTEP = 0.002  # ps
_FRICTION = 1.0  # 1/ps


@dataclass(frozen=True)
class WaterBox:
    """What is simulated: constant volume, Langevin dynamics, rigid molecules, PME.

    Attributes
    ----------
    edge : float, Å
        Edge of the cube; 43.5 Å hold about 8,000 atoms.
    frames : int
        Frames of the trajectory.
    frame_every, equilibration : int
        Steps of 2 fs between frames and before the first.
    temperature : float, K
    seed : int
        Of velocities and thermostat. OpenMM places the molecules the same way every time.

    Raises
    ------
    ConfigError
        If a number is not positive, or the box is too small for a cutoff.
    """

    edge: float = 43.5
    frames: int = 200
    frame_every: int = 50
    equilibration: int = 5000
    temperature: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.frame_every < 1 or self.equilibration < 0 or self.temperature <= 0:
            raise ConfigError(f"{self}: frames, frame_every and temperature must be positive, equilibration at least 0")
        if self.edge < 15.0:
            raise ConfigError(f"edge is {self.edge} Å; a periodic box of water needs at least 15 Å")

    @property
    def cutoff(self) -> float:
        """Of direct-space sums, Å: 9 Å, less in a small box."""
        return min(9.0, 0.45 * self.edge)


def write_water_box(
    topology: str | os.PathLike[str],
    trajectory: str | os.PathLike[str],
    box: WaterBox | None = None,
    *,
    platform: str | None = None,
    progress: bool = True,
) -> None:
    """Build a box of water, equilibrate it, and write a trajectory without velocities to harvest pairs from.

    Parameters
    ----------
    topology : path
        PDB file.
    trajectory : path
        DCD file; it appears when it is complete.
    box : WaterBox, optional
    platform : str, optional
        OpenMM platform; the fastest by default.
    progress : bool

    Raises
    ------
    ConfigError
        If OpenMM has no such platform.
    DataError
        If a file cannot be written.
    """
    box = WaterBox() if box is None else box
    chosen = platform_named(openmm, platform)
    field = app.ForceField(FORCE_FIELD)
    model = app.Modeller(app.Topology(), [])
    model.addSolvent(field, boxSize=openmm.Vec3(*[box.edge / NM] * 3), model="tip3p")
    system = field.createSystem(
        model.topology, nonbondedMethod=app.PME, nonbondedCutoff=box.cutoff / NM, rigidWater=True, removeCMMotion=False
    )
    integrator = openmm.LangevinMiddleIntegrator(box.temperature, _FRICTION, _TIMESTEP)
    integrator.setRandomNumberSeed(box.seed + 1)  # zero means a random seed to OpenMM
    simulation = app.Simulation(model.topology, system, integrator, chosen)
    simulation.context.setPositions(model.positions)
    simulation.minimizeEnergy(maxIterations=100)
    simulation.context.setVelocitiesToTemperature(box.temperature * unit.kelvin, box.seed + 1)
    simulation.step(box.equilibration)
    state = simulation.context.getState(positions=True)
    target = Path(trajectory)
    partial = target.with_name(f".{target.name}.partial.dcd")
    try:
        with open(topology, "w", encoding="utf-8") as file:
            app.PDBFile.writeFile(model.topology, state.getPositions(), file)
        simulation.reporters.append(app.DCDReporter(str(partial), box.frame_every, enforcePeriodicBox=False))
        for _ in progress_bar(range(box.frames), desc="water", unit="frame", disable=not progress):
            simulation.step(box.frame_every)
        simulation.reporters.clear()  # closes the file
        partial.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {topology} and {trajectory}: {error}; choose another folder") from error
    finally:
        partial.unlink(missing_ok=True)
