"""OpenMM integrator whose steps are learned jumps, or classical steps and learned jumps in turn."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.force import DEFAULT_GROUP, JumpForce
from fastegnn_md.engines.openmm.integrators import force_groups_of
from fastegnn_md.engines.openmm.register import write_protocol
from fastegnn_md.errors import ConfigError, JumpError
from fastegnn_md.propagator.learned_map import LearnedMap

from ..arguments import ANEW, TIMESTEP, ReadOnce, propagator_of
from ..audits import Audits
from ..conserve import Conserve
from ..guards import GuardReport, GuardSettings
from ..options import guarded_step
from ..schedule import Schedule, schedule_of
from ..statistics import JumpStatistics
from ..thermostats import Thermostat
from ..verdict import RunWatch
from .ahead import Ahead
from .binding import check_integrator, rebind_on_reinitialize
from .classical import StepGenerator, bath_of, check_timestep, checked_seed, classical_integrator, half_step_of
from .host import fingerprint
from .jump import ContextJump
from .transport import free_flight

with naming_extras(__name__):
    import openmm
    from openmm import unit

_ENERGY = "energy"  # to be conserved, amu Å²/ps²; nan before the first jump
_OURS, _MARK = "ours", 20261126  # another value: a checkpoint of another integrator wrote over our variables
_LEFT = "left"  # fingerprint of what the last jump left


class LearnedIntegrator(Ahead, ReadOnce, openmm.CompoundIntegrator):
    """Learned jumps, alone or in turn with classical steps.

    A jump is O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the guarded propagator, O a thermostat, absent in NVE. A jump that a guard
    refuses leaves the Context as it was; what follows is the schedule's business. Velocities of half a step ago
    (Verlet, Langevin) are brought to the time of the positions before a jump and back after it. Barostat,
    CMMotionRemover and AndersenThermostat act in classical steps, and after each jump where there are none. The
    Context must be bound (:class:`LearnedSimulation` does it).

    Steps of both kinds count one, so with both time does not grow evenly with the step count. Reporters that take the
    time from the Context are right always; DCD and XTC files, which multiply steps with a step size, are right for
    frames at whole cycles (:meth:`getStepSize` is the mean step of a cycle).

    Parameters
    ----------
    propagator : LearnedMap
        A :class:`~fastegnn_md.Propagator` or a :class:`~fastegnn_md.Committee`. It has one time step of its own.
    thermostat : Thermostat, optional
        :class:`~fastegnn_md.integrators.Langevin` or :class:`~fastegnn_md.integrators.VelocityRescaling`; None is NVE.
        A classical integrator that is a Langevin integrator brings its own.
    temperature, friction : Quantity or float, optional
        In place of a Langevin thermostat, K and 1/ps. A temperature alone is that of the velocities that a
        propagator redraws (kinds "position" and "flow").
    schedule : Schedule, optional
        Classical steps between jumps, and what follows a refused jump. Default: jumps alone. Classical steps are those
        of the integrator that it names (VerletIntegrator, LangevinMiddleIntegrator, LangevinIntegrator,
        NoseHooverIntegrator or a CustomIntegrator; it belongs to this integrator from now on, its temperature may still
        be changed), or of one that fits the thermostat (LangevinMiddleIntegrator, VerletIntegrator). Jumps alone that
        are refused are replaced by velocity Verlet with the back-end ``host``, and raise with the others.
    guard : bool or GuardSettings
        Hold jumps against the ranges of training. With False only values that are not finite are refused.
    conserve : Conserve, optional
        Momenta and energy. Default: the momenta that physics conserves.
    half_step_velocities : bool, optional
        Whether velocities of a CustomIntegrator are those of half a step ago; must be given for one.
    seed : int, optional
        Of jumps and their thermostat; drawn by default. The random numbers of a step follow from seed and step count,
        so that a simulation that is resumed repeats them.
    group : int
        Force group of the jump force.

    Attributes
    ----------
    statistics : JumpStatistics
    schedule : Schedule
    jump_seconds, classical_seconds : float
        Time spent in jumps and in classical steps.
    classical_steps_taken : int

    Raises
    ------
    ConfigError
        If an option is out of range, two exclude each other, or the classical integrator is of a kind that cannot be
        interleaved.
    CompatibilityError
        If its step does not divide the propagator's.

    Examples
    --------
    >>> jumps = LearnedIntegrator(propagator, Langevin(300, "10/ps"))  # doctest: +SKIP
    >>> classical = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 2 * unit.femtoseconds)
    >>> both = LearnedIntegrator(propagator, schedule=Schedule(5, 1, classical=classical))  # doctest: +SKIP
    >>> simulation = LearnedSimulation(topology, system, both)  # doctest: +SKIP
    """

    propagator: LearnedMap
    jump_seconds: float
    classical_seconds: float
    classical_steps_taken: int

    def __init__(
        self,
        propagator: LearnedMap | str | Path,
        thermostat: Thermostat | None = None,
        *misplaced: Any,
        temperature: Any = None,
        friction: Any = None,
        schedule: Schedule | None = None,
        guard: bool | GuardSettings = True,
        conserve: Conserve | None = None,
        half_step_velocities: bool | None = None,
        seed: int | None = None,
        group: int = DEFAULT_GROUP,
    ):
        second: Any = thermostat
        if isinstance(second, LearnedMap):
            misplaced = (second, *misplaced)
        propagator = propagator_of(propagator, "LearnedIntegrator(propagator, temperature=…, friction=…)", misplaced)
        self.schedule: Schedule = schedule_of(schedule)
        self._options = {
            "thermostat": thermostat,
            "temperature": temperature,
            "friction": friction,
            "guard": guard,
            "conserve": conserve,
            "half_step_velocities": half_step_velocities,
            "group": group,
        }
        given = self.schedule.engine
        if isinstance(given, openmm.Integrator) and not given.thisown:
            raise ConfigError(
                f"the {type(given).__name__} of this schedule is part of another integrator already: make one for each"
            )
        guarded = guarded_step(
            propagator,
            thermostat=thermostat,
            temperature=temperature,
            friction=friction,
            schedule=self.schedule,
            guard=guard,
            conserve=conserve,
            bath=None if given is None else bath_of(given),
        )
        self._half_step = half_step_of(given, self.schedule, half_step_velocities)
        inner, seed = given, checked_seed(seed)
        if given is None and self.schedule.hybrid:
            assert guarded.substep is not None  # set when it was made
            inner = classical_integrator(guarded.thermostat, guarded.timestep, guarded.substep, seed)
        self._inner, self._follows, self.propagator, self._guarded = inner, given is not None, propagator, guarded
        if inner is not None:
            self._replacement_steps()  # says now if they do not add up
        custom = openmm.CustomIntegrator(propagator.timestep)
        write_protocol(custom, group, propagator.wants_forces == "start", free_flight(propagator))
        custom.addGlobalVariable("seed", seed)
        custom.addGlobalVariable("pending", 0)
        custom.addGlobalVariable(_OURS, _MARK)
        if guarded.conserve.energy:
            custom.addGlobalVariable(_ENERGY, math.nan)
            custom.addGlobalVariable(_LEFT, -1)
        if hasattr(inner, "getRandomNumberSeed"):
            # It draws nothing, but the Reference platform has one generator for all, seeded by the last integrator.
            custom.setRandomNumberSeed(inner.getRandomNumberSeed())
        super().__init__()
        for one in (custom,) if inner is None else (inner, custom):
            one.setIntegrationForceGroups(force_groups_of(one) - {group})
            self.addIntegrator(one)
        self.jump_seconds, self.classical_seconds, self.classical_steps_taken = 0.0, 0.0, 0
        self._custom, self._first_seed = custom, seed
        self._generator, self._ahead = StepGenerator(), None
        if propagator.stochastic:
            self._leaps = openmm.VerletIntegrator(guarded.substep)
            self._leaps.setIntegrationForceGroups(force_groups_of(self._leaps) - {group})
            self.addIntegrator(self._leaps)
        self._jump = ContextJump(guarded, custom, self._advance, group, self._leap if propagator.stochastic else None)
        self._made = True

    _read_once: ClassVar[dict[str, str]] = {
        "temperature": "call setTemperature",
        "friction": "call setFriction",
        "thermostat": "call setTemperature or setFriction, or make a new one",
        **dict.fromkeys(("dt", "timestep", "stepSize", "step_size"), TIMESTEP),
        **dict.fromkeys(("propagator", "schedule", "guard", "conserve"), ANEW),
    }

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far."""
        return self._guarded.statistics

    @property
    def seed(self) -> int:
        """Of jumps and their thermostat; a checkpoint brings its own."""
        return int(self._custom.getGlobalVariableByName("seed"))

    @property
    def group(self) -> int:
        """Force group of the jump force."""
        return self._jump.group

    @property
    def needs_host(self) -> bool:
        """Whether steps ask for the classical potential, which the back-end ``host`` alone can evaluate."""
        return any(self._guarded.needs.values())

    def bind(self, context: openmm.Context, force: JumpForce, learned_forces: Collection[str] = ()) -> None:
        """Serve this Context from now on; :class:`LearnedSimulation` calls it.

        Parameters
        ----------
        context : openmm.Context
            Made with this integrator. It is not kept alive.
        force : JumpForce
            What :func:`~fastegnn_md.engines.openmm.add_jump_force` returned for its System.
        learned_forces : collection of str
            Forces beyond a force field that were there when the propagator was trained, as the error about them names
            them.

        Raises
        ------
        CompatibilityError, ConfigError
            If the Context has another integrator, the force is not that of its System, its group is another one, its
            back-end cannot compute what a step asks for, or a restraint or bias of the System would be ignored.
        ConstraintError
            If a momentum is to be conserved and particles are held.
        """
        check_integrator(context, self)
        self._jump.bind(context, force, learned_forces)
        rebind_on_reinitialize(context, self, force, learned_forces)

    @property
    def audits(self) -> Audits | None:
        """What the engine was asked about the total energy; None where nobody asks."""
        return self._guarded.audits

    def watch(self) -> RunWatch:
        """A watch over the temperatures of the atoms that jump, of a run that begins here."""
        return self._jump.watch()

    def unbind(self) -> None:
        """Serve no Context; steps then raise."""
        self._jump.unbind()

    def step(self, steps: int) -> None:
        """Take steps, jumps and classical ones.

        Raises
        ------
        JumpError
            If a guard refuses a jump and nothing can replace it, or the propagator fails; the Context is as it was
            before that step.
        DataError
            If bonds of the first positions are far from those of training, as where they were given in Å.
        FastEGNNMDError
            If the Context is not bound or does not fit any more.
        """
        context, left = self._jump.context, steps
        self._jump.look_at_start()
        self._recover()
        while left > 0:
            count = context.getStepCount()
            pending = int(self._custom.getGlobalVariableByName("pending")) if self.schedule.adaptive else 0
            classical = min(left, self.schedule.classical_steps_due(count, pending)) if self.schedule.hybrid else 0
            if classical:
                self._classical(classical)
                left -= classical
                if self.schedule.adaptive:
                    self._custom.setGlobalVariableByName("pending", pending - classical)
            elif self._try_jump(context, count):
                left -= 1

    def take_up(
        self,
        statistics: JumpStatistics,
        jump_seconds: float = 0.0,
        classical_seconds: float = 0.0,
        classical_steps_taken: int = 0,
    ) -> None:
        """Go on counting from those of an interrupted run."""
        self._guarded.statistics = statistics
        self.jump_seconds, self.classical_seconds = jump_seconds, classical_seconds
        self.classical_steps_taken = classical_steps_taken

    def _recover(self) -> None:
        """Set our variables anew where a checkpoint of another integrator, such as a classical one, was loaded."""
        if self._custom.getGlobalVariableByName(_OURS) == _MARK:
            return
        fresh: dict[str, float] = {"seed": self._first_seed, "pending": 0, _OURS: _MARK}
        if self._guarded.conserve.energy:
            fresh |= {_ENERGY: math.nan, _LEFT: -1}
        for name, value in fresh.items():
            self._custom.setGlobalVariableByName(name, value)
        self._jump.recover()

    def getStepSize(self) -> unit.Quantity:
        """Mean step of a cycle; of an adaptive schedule, the classical step."""
        classical, jumps = self.schedule.classical_steps, self.schedule.jumps
        if not self.schedule.hybrid:
            return self._guarded.timestep * unit.picosecond
        step = self._inner.getStepSize()
        if jumps is None:
            return step
        return (classical * step + jumps * self._guarded.timestep * unit.picosecond) / (classical + jumps)

    def setStepSize(self, size: Any) -> None:
        """Set the step of the classical integrator; of jumps alone, refuse a step that is not the propagator's."""
        if self._inner is None:
            check_timestep(self._guarded.timestep, size)
        else:
            self._inner.setStepSize(size)

    def _try_jump(self, context: openmm.Context, count: int) -> bool:
        """Jump, or do what the schedule says; whether a step was made."""
        begun = time.perf_counter()
        if self._ahead is None:
            self._follow_thermostat()
            self._read_energy()
        rng = self._generator.at(self.seed, count) if self._ahead is None else self._ahead
        try:
            report, done = self._jump.attempt(self._half, rng, replacing=self._inner is None)
        finally:
            self._ahead = None
            self.setCurrentIntegrator(0)
            self.jump_seconds += time.perf_counter() - begun
        if done:
            self._jump.act_between()
            self._keep_energy()
            return True
        if self.schedule.adaptive:
            self._custom.setGlobalVariableByName("pending", self.schedule.classical_steps)
            return False
        self._replace(context, count, report)
        return True

    def _replace(self, context: openmm.Context, count: int, report: GuardReport) -> None:
        if self.schedule.fallback == "stop":
            raise JumpError(
                f"step {count + 1}: the {report.guard} guard refused the jump: {report.message}. The Context is as it "
                "was before the step; with fallback='classical' classical steps would replace the jump",
                report.atom,
            )
        steps = self._replacement_steps()
        self._classical(steps)
        self.statistics.fallback_steps += steps
        context.setStepCount(count + 1)

    def _replacement_steps(self) -> int:
        return self.schedule.replacement_steps(self._guarded.timestep, self._inner.getStepSize()._value)

    def _classical(self, steps: int) -> None:
        begun = time.perf_counter()
        self.setCurrentIntegrator(0)
        super().step(steps)
        self.classical_seconds += time.perf_counter() - begun
        self.classical_steps_taken += steps

    def _advance(self) -> None:
        self.setCurrentIntegrator(0 if self._inner is None else 1)
        super().step(1)

    def _leap(self, timestep: float, steps: int) -> None:
        if self._leaps.getStepSize()._value != timestep:
            self._leaps.setStepSize(timestep)
        self.setCurrentIntegrator(1 if self._inner is None else 2)
        super().step(steps)

    def _read_energy(self) -> None:
        """Take over the energy to conserve, which a checkpoint may have brought; none if somebody moved something."""
        if self._guarded.energy is not None:
            target = self._custom.getGlobalVariableByName(_ENERGY)
            same = self._custom.getGlobalVariableByName(_LEFT) == fingerprint(self._jump.context)
            self._guarded.energy.target = target if same and not math.isnan(target) else None

    def _keep_energy(self) -> None:
        energy = self._guarded.energy
        if energy is not None and energy.target is not None:
            self._custom.setGlobalVariableByName(_ENERGY, energy.target)
            self._custom.setGlobalVariableByName(_LEFT, fingerprint(self._jump.context))

    def __copy__(self) -> LearnedIntegrator:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> LearnedIntegrator:
        schedule = self.schedule
        if schedule.engine is not None:
            schedule = dataclasses.replace(schedule, classical=copy.deepcopy(self._inner, memo))
        copied = LearnedIntegrator(self.propagator, **self._options, schedule=schedule, seed=self.seed)
        if self._guarded.conserve.energy:
            for name in (_ENERGY, _LEFT):
                copied._custom.setGlobalVariableByName(name, self._custom.getGlobalVariableByName(name))
        return copied
