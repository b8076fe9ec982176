"""OpenMM integrator that jumps in turn with any classical integrator."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING, Any

from fastegnn_md.engines.openmm_force import DEFAULT_GROUP, JumpForce
from fastegnn_md.engines.openmm_integrators import (
    force_groups_of,
    holds_half_step_velocities,
    temperature_of,
)
from fastegnn_md.engines.openmm_register import write_protocol
from fastegnn_md.errors import ConfigError
from fastegnn_md.optional import naming_extras

from .guarded import GuardedStep
from .guards import GuardSettings, guard_settings
from .openmm_jump import ContextJump, free_flight
from .openmm_options import checked_seed, plain, step_generator, thermostat_like
from .schedule import Schedule

with naming_extras(__name__):
    import openmm
    from openmm import unit

if TYPE_CHECKING:
    from fastegnn_md.committee import Committee
    from fastegnn_md.propagator import Propagator


class HybridIntegrator(openmm.CompoundIntegrator):
    """Classical steps and learned jumps in turn.

    A jump is surrounded by half steps of a Langevin thermostat at the temperature and the friction of the classical
    integrator, where it has them. Velocities of half a step ago (Verlet, Langevin) are brought to the time of the
    positions before a jump and back after it. A jump that a guard refuses leaves the Context as it was; what follows
    is the :class:`Schedule`'s business. The barostat and the like act in classical steps only.

    Steps of both kinds count one, so time does not grow evenly with the step count. Reporters that take the time from
    the Context are right always; DCD and XTC files, which multiply steps with a step size, are right for frames at
    whole cycles (:meth:`getStepSize` is the mean step of a cycle).

    Parameters
    ----------
    classical : openmm.Integrator
        VerletIntegrator, LangevinMiddleIntegrator, LangevinIntegrator, NoseHooverIntegrator or a CustomIntegrator. It
        belongs to this integrator from now on; its temperature may still be changed.
    propagator : Propagator or Committee
    classical_steps, jumps : int
        Of a cycle; ``jumps=None`` jumps until a guard refuses. See :class:`Schedule`.
    temperature : Quantity or float, optional
        Of the velocities a position-only propagator redraws, and of the energy guard, where the classical integrator
        has no temperature; K.
    guard : bool or GuardSettings
        Hold jumps against the ranges of training. With False only values that are not finite are refused.
    relax_steps : int
        Classical steps after each jump of a position-only propagator. Counted neither as steps nor as time.
    minimize_steps : int
        Most iterations of OpenMM's energy minimiser after each jump of a position-only propagator, before relaxation.
    conserve_momentum : bool, optional
        By default without thermostat, held atoms and redrawn velocities.
    conserve_angular_momentum : bool, optional
        As in :class:`LearnedJumpIntegrator`. There is no ``conserve_energy``: classical steps may change the energy.
    half_step_velocities : bool, optional
        Whether velocities of a CustomIntegrator are those of half a step ago; must be given for one.
    seed : int, optional
        Of the thermostat around jumps; drawn by default. The random numbers of a step follow from seed and step count.
    group : int
        Force group of the jump force.

    Attributes
    ----------
    statistics : JumpStatistics
    jump_seconds, classical_seconds : float
        Time spent in jumps and in classical steps.
    classical_steps_taken : int
    schedule : Schedule

    Raises
    ------
    ConfigError
        If the classical integrator is of a kind that cannot be interleaved, or an option is out of range.
    CompatibilityError
        If its step does not divide the propagator's.

    Examples
    --------
    >>> classical = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 2 * unit.femtoseconds)
    >>> integrator = HybridIntegrator(classical, propagator, classical_steps=5, jumps=1)  # doctest: +SKIP
    >>> simulation = LearnedSimulation(topology, system, integrator)  # doctest: +SKIP
    """

    def __init__(
        self,
        classical: openmm.Integrator,
        propagator: Propagator | Committee,
        classical_steps: int = 5,
        jumps: int | None = 1,
        *,
        temperature: Any = None,
        guard: bool | GuardSettings = True,
        relax_steps: int = 0,
        minimize_steps: int = 0,
        conserve_momentum: bool | None = None,
        conserve_angular_momentum: bool | None = None,
        half_step_velocities: bool | None = None,
        seed: int | None = None,
        group: int = DEFAULT_GROUP,
    ):
        self.schedule = Schedule(classical_steps, jumps)
        self._half_step = holds_half_step_velocities(classical, half_step_velocities)
        temperature = plain(temperature, unit.kelvin)
        self._options = {
            "temperature": temperature,
            "guard": guard,
            "relax_steps": relax_steps,
            "minimize_steps": minimize_steps,
            "conserve_momentum": conserve_momentum,
            "conserve_angular_momentum": conserve_angular_momentum,
            "half_step_velocities": half_step_velocities,
            "group": group,
        }
        self._temperature = temperature
        thermostat = thermostat_like(classical, propagator)
        if temperature is None:
            temperature = temperature_of(classical)
        if temperature is None and not propagator.predicts_velocities:
            raise ConfigError(
                "this propagator predicts positions only and redraws velocities, and the classical integrator has no "
                "temperature: give one"
            )
        guarded = GuardedStep(
            propagator,
            thermostat=thermostat,
            temperature=temperature,
            guard=guard_settings(guard),
            relax_steps=relax_steps,
            minimize_steps=minimize_steps,
            momentum=conserve_momentum,
            angular_momentum=conserve_angular_momentum,
        )
        self._inner, self.propagator = classical, propagator
        self._replacement_steps()
        custom = openmm.CustomIntegrator(propagator.timestep)
        write_protocol(custom, group, propagator.needs_forces, free_flight(propagator))
        custom.addGlobalVariable("seed", checked_seed(seed))
        custom.addGlobalVariable("pending", 0)
        if hasattr(classical, "getRandomNumberSeed"):
            # It draws nothing, but the Reference platform has one generator for all, seeded by the last integrator.
            custom.setRandomNumberSeed(classical.getRandomNumberSeed())
        super().__init__()
        for one in (classical, custom):
            one.setIntegrationForceGroups(force_groups_of(one) - {group})
            self.addIntegrator(one)
        self.statistics = guarded.statistics
        self.jump_seconds, self.classical_seconds, self.classical_steps_taken = 0.0, 0.0, 0
        self._custom = custom
        self._jump = ContextJump(guarded, custom, self._advance, group)

    @property
    def group(self) -> int:
        """Force group of the jump force."""
        return self._jump.group

    def bind(self, context: openmm.Context, force: JumpForce) -> None:
        """Serve this Context from now on; :class:`LearnedSimulation` calls it.

        Parameters
        ----------
        context : openmm.Context
            Made with this integrator. It is not kept alive.
        force : JumpForce
            What :func:`~fastegnn_md.engines.openmm.add_jump_force` returned for its System.

        Raises
        ------
        CompatibilityError, ConfigError
            If the force is not that of the System of the Context, or its group is another one.
        """
        self._jump.bind(context, force)

    def step(self, steps: int) -> None:
        """Take steps, classical ones and jumps.

        Raises
        ------
        JumpError
            If the propagator fails or predicts what is not finite; the Context is as it was before that step.
        FastEGNNMDError
            If the Context is not bound or does not fit any more.
        """
        context = self._jump.context
        left = steps
        while left > 0:
            count = context.getStepCount()
            pending = int(self._custom.getGlobalVariableByName("pending")) if self.schedule.adaptive else 0
            classical = min(left, self.schedule.classical_steps_due(count, pending))
            if classical:
                self._classical(classical)
                left -= classical
                if self.schedule.adaptive:
                    self._custom.setGlobalVariableByName("pending", pending - classical)
            elif self._try_jump(context, count):
                left -= 1

    def getStepSize(self) -> unit.Quantity:
        """Mean step of a cycle; of an adaptive schedule, the classical step."""
        step = self._inner.getStepSize()
        classical, jumps = self.schedule.classical_steps, self.schedule.jumps
        if jumps is None:
            return step
        return (classical * step + jumps * self.propagator.timestep * unit.picosecond) / (classical + jumps)

    def _try_jump(self, context: openmm.Context, count: int) -> bool:
        """Jump, or do what the schedule says; whether a step was made."""
        begun = time.perf_counter()
        self._follow_thermostat()
        half = 0.5 * self._inner.getStepSize()._value if self._half_step else 0.0
        try:
            report = self._jump.attempt(half, step_generator(int(self._custom.getGlobalVariableByName("seed")), count))
        finally:
            self.setCurrentIntegrator(0)
        self.jump_seconds += time.perf_counter() - begun
        self.statistics.record(report)
        if report.ok:
            self._relax(context)
        elif self.schedule.adaptive:
            self._custom.setGlobalVariableByName("pending", self.schedule.classical_steps)
            return False
        else:
            steps = self._replacement_steps()
            self._classical(steps)
            self.statistics.fallback_steps += steps
            context.setStepCount(count + 1)
        return True

    def _replacement_steps(self) -> int:
        return self.schedule.replacement_steps(self.propagator.timestep, self._inner.getStepSize()._value)

    def _relax(self, context: openmm.Context) -> None:
        steps = self._jump.guarded.relax_steps
        if steps:
            now, count = context.getTime(), context.getStepCount()
            super().step(steps)
            context.setTime(now)
            context.setStepCount(count)
            self.statistics.relax_steps += steps

    def _classical(self, steps: int) -> None:
        begun = time.perf_counter()
        self.setCurrentIntegrator(0)
        super().step(steps)
        self.classical_seconds += time.perf_counter() - begun
        self.classical_steps_taken += steps

    def _advance(self) -> None:
        self.setCurrentIntegrator(1)
        super().step(1)

    def _follow_thermostat(self) -> None:
        """Take over a temperature or friction that was changed on the classical integrator (annealing)."""
        guarded = self._jump.guarded
        thermostat = thermostat_like(self._inner, self.propagator)
        if thermostat != guarded.thermostat:
            guarded.thermostat = thermostat
        if self._temperature is None:
            guarded.temperature = temperature_of(self._inner)

    def __copy__(self) -> HybridIntegrator:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> HybridIntegrator:
        return HybridIntegrator(
            copy.deepcopy(self._inner, memo),
            self.propagator,
            self.schedule.classical_steps,
            self.schedule.jumps,
            **self._options,
            seed=int(self._custom.getGlobalVariableByName("seed")),
        )
