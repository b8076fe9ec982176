"""OpenMM integrator whose every step is a jump."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING, Any

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.force import DEFAULT_GROUP, JumpForce
from fastegnn_md.engines.openmm.register import write_protocol
from fastegnn_md.errors import JumpError
from fastegnn_md.mechanics.conservation import EnergyRescale

from ..guards import GuardSettings, guard_settings
from ..step import GuardedStep
from .jump import ContextJump, free_flight
from .options import check_timestep, checked_seed, plain, step_generator, thermostat_for

with naming_extras(__name__):
    import openmm
    from openmm import unit

if TYPE_CHECKING:
    from fastegnn_md.propagator.committee import Committee
    from fastegnn_md.propagator.full import Propagator


_ENERGY = "energy"  # to be conserved, amu Å²/ps²; nan before the first jump


class LearnedJumpIntegrator(openmm.CustomIntegrator):
    """Every step is a jump: O(Δt/2) Ψ(Δt) O(Δt/2), Ψ the guarded propagator, O the thermostat.

    The Context must be bound (:class:`LearnedSimulation` does it). Nothing replaces a refused jump.

    Parameters
    ----------
    propagator : Propagator or Committee
    temperature : Quantity or float, optional
        Of the thermostat, and of the velocities that a position-only propagator redraws; K.
    friction : Quantity or float, optional
        Of the Langevin thermostat, 1/ps.
    timestep : Quantity or float, optional
        A propagator has one time step; giving it checks it; ps.
    guard : bool or GuardSettings
        Hold jumps against the ranges of training. With False only values that are not finite are refused.
    tau : Quantity or float, optional
        Of stochastic velocity rescaling: the time in which the kinetic energy relaxes; ps. Neither is NVE.
    conserve_momentum : bool, optional
        By default without friction, held atoms and redrawn velocities.
    conserve_angular_momentum : bool, optional
        By default where momentum is, if the whole System jumps and has no box. Particles in a field need False.
    conserve_energy : bool
        After each jump scale velocities towards the total energy before the first one and the heat that a thermostat
        has brought since, by a factor within 0.9 and 1.1
        (:class:`~fastegnn_md.mechanics.conservation.EnergyRescale`). One energy of the Context per jump.
    seed : int, optional
        Of the thermostat; drawn by default. The random numbers of a step follow from seed and step count, so that a
        simulation that is resumed repeats them.
    group : int
        Force group of the jump force.

    Attributes
    ----------
    statistics : JumpStatistics
    jump_seconds : float
        Time spent in jumps.

    Raises
    ------
    CompatibilityError
        If the time step is not the propagator's.
    ConfigError
        If an option is out of range or temperature, friction and tau do not go together.
    """

    def __init__(
        self,
        propagator: Propagator | Committee,
        temperature: Any = None,
        friction: Any = None,
        timestep: Any = None,
        *,
        tau: Any = None,
        guard: bool | GuardSettings = True,
        conserve_momentum: bool | None = None,
        conserve_angular_momentum: bool | None = None,
        conserve_energy: bool = False,
        seed: int | None = None,
        group: int = DEFAULT_GROUP,
    ):
        temperature, friction = plain(temperature, unit.kelvin), plain(friction, unit.picosecond**-1)
        tau = plain(tau, unit.picosecond)
        check_timestep(propagator, plain(timestep, unit.picosecond))
        guarded = GuardedStep(
            propagator,
            thermostat=thermostat_for(propagator, temperature, friction, tau),
            temperature=temperature,
            guard=guard_settings(guard),
            momentum=conserve_momentum,
            angular_momentum=conserve_angular_momentum,
            energy=EnergyRescale() if conserve_energy else None,
        )
        super().__init__(propagator.timestep)
        self._options = {
            "temperature": temperature,
            "friction": friction,
            "tau": tau,
            "guard": guard,
            "conserve_momentum": conserve_momentum,
            "conserve_angular_momentum": conserve_angular_momentum,
            "conserve_energy": conserve_energy,
            "group": group,
        }
        write_protocol(self, group, propagator.needs_forces, free_flight(propagator))
        self.addGlobalVariable("seed", checked_seed(seed))
        if conserve_energy:
            self.addGlobalVariable(_ENERGY, float("nan"))
        self.setIntegrationForceGroups(set(range(32)) - {group})
        self.propagator, self.statistics, self.jump_seconds = propagator, guarded.statistics, 0.0
        self._jump = ContextJump(guarded, self, self._advance, group)

    @property
    def group(self) -> int:
        """Force group of the jump force."""
        return self._jump.group

    def bind(self, context: openmm.Context, force: JumpForce) -> None:
        """Serve this Context; see :meth:`HybridIntegrator.bind`."""
        self._jump.bind(context, force)

    def step(self, steps: int) -> None:
        """Jump.

        Raises
        ------
        JumpError
            If a guard refuses a jump, or the propagator fails; the Context is as it was before that step.
        FastEGNNMDError
            If the Context is not bound or does not fit any more.
        """
        for _ in range(steps):
            begun = time.perf_counter()
            count = self._jump.context.getStepCount()
            self._read_energy()
            report = self._jump.attempt(0.0, step_generator(int(self.getGlobalVariableByName("seed")), count))
            self.jump_seconds += time.perf_counter() - begun
            self.statistics.record(report)
            if not report.ok:
                raise JumpError(
                    f"step {count + 1}: the {report.guard} guard refused the jump: {report.message}. The Context is as "
                    "it was before the step; with HybridIntegrator classical steps would replace the jump",
                    report.atom,
                )
            if self._jump.guarded.energy is not None:
                self.setGlobalVariableByName(_ENERGY, self._jump.guarded.energy.target)

    def setStepSize(self, size: Any) -> None:
        """Refuse a step that is not the propagator's."""
        check_timestep(self.propagator, plain(size, unit.picosecond))

    def __copy__(self) -> LearnedJumpIntegrator:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> LearnedJumpIntegrator:
        seed = int(self.getGlobalVariableByName("seed"))
        copied = LearnedJumpIntegrator(self.propagator, **self._options, seed=seed)
        if self._options["conserve_energy"]:
            copied.setGlobalVariableByName(_ENERGY, self.getGlobalVariableByName(_ENERGY))
        return copied

    def _read_energy(self) -> None:
        """Take over the energy to conserve, which a checkpoint may have brought."""
        energy = self._jump.guarded.energy
        if energy is not None:
            target = self.getGlobalVariableByName(_ENERGY)
            energy.target = None if math.isnan(target) else target

    def _advance(self) -> None:
        super().step(1)
