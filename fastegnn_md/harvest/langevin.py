"""Bursts at a temperature, longer than those of a harvest: Langevin dynamics of the user's engine, positions alone.

Recipes and runners have the shape of those of :mod:`.bursts`, so that the same processes run them.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import units
from .._extras import naming_extras
from ..errors import ConfigError, NotFiniteError
from .ase import ASERecipe, ASERunner
from .bursts import Burst, Start
from .openmm import OpenMMRecipe

_NM = 10.0  # Å
_FORCE = units.KJ_PER_MOL / _NM  # amu Å/ps² per kJ/mol/nm
_REFERENCE = threading.Lock()  # the platform has one random generator for all Contexts of a process


@dataclass(frozen=True, eq=False)
class SeededStart(Start):
    """Where a burst starts, and the seed of its random forces."""

    seed: int = 0


@dataclass(frozen=True, eq=False)
class LangevinRecipe:
    """An engine, and how its dynamics is held at a temperature.

    Attributes
    ----------
    engine : OpenMMRecipe or ASERecipe
    temperature : float, K
    friction : float, 1/ps
    integrator : str
        Serialised integrator of the user's own OpenMM Context; empty for Langevin dynamics.
    midpoint : None
        These bursts have no forces.
    """

    engine: OpenMMRecipe | ASERecipe
    temperature: float
    friction: float
    integrator: str = ""
    midpoint: None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The engine."""
        return self.engine.name

    @property
    def masses(self) -> np.ndarray:
        """Masses the engine uses, shape (N,), amu."""
        return self.engine.masses

    @property
    def n_constraints(self) -> int:
        """Number of constraints."""
        return self.engine.n_constraints

    @property
    def bonds(self) -> np.ndarray | None:
        """Bonds the engine knows of."""
        return self.engine.bonds

    @property
    def periodic(self) -> bool | None:
        """Whether the engine is periodic."""
        return self.engine.periodic

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the frames."""
        settings = f"{self.engine.fingerprint} {self.temperature!r} {self.friction!r} {self.integrator}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def build(self) -> OpenMMLangevin | ASELangevin:
        """Make a Context or a calculator in this process."""
        return OpenMMLangevin(self) if isinstance(self.engine, OpenMMRecipe) else ASELangevin(self)


class OpenMMLangevin:
    """One Context, used for every burst; random forces are those of the seed of the start."""

    def __init__(self, recipe: LangevinRecipe):
        with naming_extras("a burst with OpenMM"):
            import openmm

        engine = recipe.engine
        assert isinstance(engine, OpenMMRecipe)
        self._exception = openmm.OpenMMException
        self._unit = openmm.unit.kilojoule_per_mole
        self._alone = _REFERENCE if engine.platform == "Reference" else nullcontext()
        if recipe.integrator:
            self._integrator = openmm.XmlSerializer.deserialize(recipe.integrator)
        else:
            self._integrator = openmm.LangevinMiddleIntegrator(recipe.temperature, recipe.friction, engine.timestep)
        settings = {"Threads": "1"} if engine.platform == "CPU" else {}
        with self._alone:  # a new Context takes from the generator, too
            self._context = openmm.Context(
                openmm.XmlSerializer.deserialize(engine.xml),
                self._integrator,
                openmm.Platform.getPlatformByName(engine.platform),
                settings,
            )
        self.about: dict[str, Any] = {}

    def run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        """One burst; its energies are potential ones, and it has neither velocities nor forces."""
        with self._alone:
            return self._run(start, n_frames, steps_between)

    def _run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        context, tolerance = self._context, self._integrator.getConstraintTolerance()
        try:
            if hasattr(self._integrator, "setRandomNumberSeed"):
                self._integrator.setRandomNumberSeed(_seed(start) % (2**31 - 1) + 1)  # 0 means: any
                context.reinitialize()  # seeds are looked at here alone
            context.setPositions(start.positions / _NM)
            context.applyConstraints(tolerance)
            context.setVelocities(start.velocities / _NM)
            context.applyVelocityConstraints(tolerance)
            x, energies = [], []
            for index in range(n_frames):
                if index:
                    self._integrator.step(steps_between)
                state = context.getState(positions=True, energy=True)
                x.append(state.getPositions(asNumpy=True)._value * _NM)
                energies.append(state.getPotentialEnergy().value_in_unit(self._unit) * units.KJ_PER_MOL)
            return _burst(x, energies)
        except self._exception as error:
            return Burst.failed(n_frames, len(start.positions), None, error, False)

    def forces(self, x: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
        """Forces at positions (N, 3) in Å; units and failures as :meth:`BurstRunner.forces`."""
        try:
            with self._alone:
                self._context.setPositions(x / _NM)
                found = self._context.getState(forces=True).getForces(asNumpy=True)._value
        except self._exception:
            return np.full(x.shape, np.nan)
        return (found * _FORCE).astype(np.float32)

    def reset(self) -> None:
        """Nothing is kept between bursts."""


class ASELangevin(ASERunner):
    """One calculator, used for every burst, under the Langevin dynamics of ASE."""

    def __init__(self, recipe: LangevinRecipe):
        assert isinstance(recipe.engine, ASERecipe)
        super().__init__(recipe.engine)
        self._bath = recipe

    def _run(self, start: Start, n_frames: int, steps_between: int) -> Burst:
        from ase.md.langevin import Langevin

        atoms = self.atoms(start)
        dynamics = Langevin(
            atoms,
            self._recipe.timestep * self._ps,
            temperature_K=self._bath.temperature,
            friction=self._bath.friction / self._ps,
            fixcm=False,
            rng=np.random.default_rng(_seed(start)),
        )
        x, energies = [], []
        for index in range(n_frames):
            if index:
                dynamics.run(steps_between)
            x.append(atoms.get_positions())
            energies.append(atoms.get_potential_energy() * self._ps**2)
        if not np.isfinite(x).all():
            raise NotFiniteError("positions are not finite any more")
        return _burst(x, energies)


def context_recipe(context: Any) -> tuple[Any, str, float, float | None]:
    """System, serialised integrator, step (ps) and temperature (K, None where it has none) of an OpenMM Context.

    Raises
    ------
    ConfigError
        If its integrator cannot be written down.
    """
    import openmm

    integrator = context.getIntegrator()
    try:
        text = openmm.XmlSerializer.serialize(integrator)
    except openmm.OpenMMException as error:
        raise ConfigError(f"the integrator of the Context cannot be serialised ({error}); give its System") from error
    step = integrator.getStepSize().value_in_unit(openmm.unit.picosecond)
    temperature = None
    if hasattr(integrator, "getTemperature"):
        temperature = float(integrator.getTemperature().value_in_unit(openmm.unit.kelvin))
    return context.getSystem(), text, step, temperature


def _seed(start: Start) -> int:
    return start.seed if isinstance(start, SeededStart) else 0


def _burst(x: list[np.ndarray], energies: list[float]) -> Burst:
    nothing = np.zeros((len(x), 0, 3), dtype=np.float32)
    return Burst(np.asarray(x, dtype=np.float32), nothing, nothing, np.array(energies), 0.0, None)
