"""OpenMM integrator that samples the canonical distribution of a System exactly, by jumps and a Metropolis test."""

from __future__ import annotations

import copy
import dataclasses
import time
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.description import describe_system
from fastegnn_md.engines.openmm.force import DEFAULT_GROUP, JumpForce, bound_context, check_binding
from fastegnn_md.errors import ConfigError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.propagator.learned_map import LearnedMap

from ..arguments import ANEW, TIMESTEP, ReadOnce, propagator_of
from ..metropolis import MetropolisStatistics, MetropolisStep
from ..thermostats import in_unit
from .binding import check_integrator, rebind_on_reinitialize
from .classical import StepGenerator, check_timestep, checked_seed
from .host import Host

with naming_extras(__name__):
    import openmm
    from openmm import unit


# What an energy belongs to: positions and box in nm, parameters of the Context.
_About = tuple[np.ndarray, np.ndarray, dict[str, float]]


class MetropolizedJumpIntegrator(ReadOnce, openmm.CustomIntegrator):
    """Every step is a jump that is accepted or rejected with the potential energy of the Context.

    A step refreshes the velocities, jumps, evaluates the energy once, and accepts with probability min(1, exp(-ΔH/kT));
    where it rejects, positions stay and velocities turn round. The distribution is that of the System at this
    temperature whatever the error of the propagator (:class:`~fastegnn_md.integrators.metropolis.MetropolisStep`).
    The Context must be bound (:class:`LearnedSimulation` does it), with the back-end ``host``. If the System has a
    CMMotionRemover, velocities are drawn without motion of the centre of mass, as it is to be. A barostat acts after
    each step, by its own frequency.

    Parameters
    ----------
    propagator : LearnedMap
        Reversible and volume preserving: one of kind "kick-drift", "symplectic" or "conservative".
    temperature : Quantity or float
        Of the canonical distribution, K.
    friction : Quantity or float, optional
        Velocities are refreshed partially, with this friction in 1/ps. None draws them anew for each step.
    jumps : int
        Of a step: more make a longer proposal at the same one energy.
    seed : int, optional
        Drawn by default. The random numbers of a step follow from seed and step count, so that a simulation that is
        resumed repeats them.
    group : int
        Force group of the jump force.

    Attributes
    ----------
    statistics : MetropolisStatistics
    jump_seconds : float
        Time spent in steps.

    Raises
    ------
    CompatibilityError
        If the propagator is not reversible and volume preserving.
    ConfigError
        If an option is out of range.
    """

    propagator: LearnedMap
    group: int
    jump_seconds: float

    def __init__(
        self,
        propagator: LearnedMap | str | Path,
        temperature: Any,
        friction: Any = None,
        *misplaced: Any,
        jumps: int = 1,
        seed: int | None = None,
        group: int = DEFAULT_GROUP,
    ):
        given = tuple(one for one in (temperature, friction) if isinstance(one, LearnedMap))
        call = "MetropolizedJumpIntegrator(propagator, temperature, friction)"
        propagator = propagator_of(propagator, call, (*given, *misplaced))
        temperature = in_unit(temperature, "temperature")
        friction = None if friction is None else in_unit(friction, "friction")
        self._metropolis = MetropolisStep(propagator, temperature, friction, jumps)
        super().__init__(self._metropolis.timestep)
        self.addGlobalVariable("seed", checked_seed(seed))
        self.addUpdateContextState()
        self._between = False
        self.propagator, self.group, self.jump_seconds = propagator, group, 0.0
        self._bound: tuple[Callable[[], openmm.Context | None], Host, Constraints] | None = None
        self._known: tuple[_About, float] | None = None  # energy in amu Å²/ps²
        self._generator = StepGenerator()
        self._made = True

    _read_once: ClassVar[dict[str, str]] = {
        "temperature": "call setTemperature",
        "friction": "call setFriction",
        **dict.fromkeys(("dt", "timestep", "stepSize", "step_size"), TIMESTEP),
        **dict.fromkeys(("propagator", "jumps"), ANEW),
    }

    @property
    def needs_host(self) -> bool:
        """True: steps ask for the classical potential, which the back-end ``host`` alone can evaluate."""
        return True

    @property
    def statistics(self) -> MetropolisStatistics:
        """What became of the jumps so far."""
        return self._metropolis.statistics

    def bind(self, context: openmm.Context, force: JumpForce, learned_forces: Collection[str] = ()) -> None:
        """Serve this Context; see :meth:`LearnedIntegrator.bind`. Its energies hold all forces, learned or not.

        Raises
        ------
        CompatibilityError, ConfigError
            If the Context has another integrator, or the force is not that of its System or not of the back-end
            ``host``.
        ConstraintError
            If atoms that jump are held or have fixed bond lengths.
        """
        if force.backend != "host":
            raise ConfigError(
                f"the jump force has the back-end {force.backend!r}; the Metropolis test needs energies during a step: "
                "give backend='host'"
            )
        check_integrator(context, self)
        system, part = context.getSystem(), force.part
        check_binding(system, force)
        constraints = part.constraints
        rests = any(isinstance(one, openmm.CMMotionRemover) for one in system.getForces())
        if rests and part.whole_system and not constraints.holds_atoms:
            constraints = dataclasses.replace(constraints, fixed_com=True)
        self._metropolis.check(constraints)
        host = Host(system, part, {i for i in range(32) if i != force.group})
        self._between = describe_system(system, force.topology).barostat is not None
        self._bound, self._known = (weakref.ref(context), host, constraints), None
        rebind_on_reinitialize(context, self, force, learned_forces)

    def unbind(self) -> None:
        """Serve no Context; steps then raise."""
        self._bound = None

    def getTemperature(self) -> unit.Quantity:
        """Temperature of the canonical distribution."""
        return self._metropolis.temperature * unit.kelvin

    def setTemperature(self, temperature: Any) -> None:
        """Another temperature (K or Quantity) from the next step on.

        Raises
        ------
        ConfigError
            If it is no number > 0.
        """
        self._metropolis.change(temperature=in_unit(temperature, "temperature"))

    def getFriction(self) -> unit.Quantity | None:
        """Friction of the partial refreshment; None if velocities are drawn anew."""
        friction = self._metropolis.friction
        return None if friction is None else friction / unit.picosecond

    def setFriction(self, friction: Any) -> None:
        """Another friction (1/ps, Quantity or text) from the next step on; None draws velocities anew."""
        self._metropolis.change(friction=None if friction is None else in_unit(friction, "friction"))

    @property
    def context(self) -> openmm.Context:
        """The Context that was bound.

        Raises
        ------
        ConfigError
            If none was, or it was deleted.
        """
        return bound_context(None if self._bound is None else self._bound[0])

    def step(self, steps: int) -> None:
        """Jump.

        Raises
        ------
        FastEGNNMDError, OpenMMException
            If the Context is not bound or does not fit any more, or the energy cannot be evaluated. The Context is then
            as it was before that step.
        """
        context = self.context
        for _ in range(steps):
            begun = time.perf_counter()
            counted = dataclasses.replace(self.statistics)
            now, count = context.getTime(), context.getStepCount()
            try:
                self._propose(context, count)
            except BaseException:
                self._metropolis.statistics = counted
                raise
            if self._between:  # a barostat
                super().step(1)
            context.setTime(now + self._metropolis.timestep * unit.picosecond)
            context.setStepCount(count + 1)
            self.jump_seconds += time.perf_counter() - begun

    def _propose(self, context: openmm.Context, count: int) -> None:
        """Leave in the Context what was accepted; an error leaves it as it was."""
        assert self._bound is not None  # the Context was found
        _, host, constraints = self._bound
        state = host.read(context)
        rng = self._generator.at(int(self.getGlobalVariableByName("seed")), count)
        about, known = (host.positions, host.box, dict(context.getParameters())), None
        if self._known is not None and _same(self._known[0], about):
            known = self._known[1]
        try:
            engine = host.classical(context)
            ended, energy = self._metropolis(state, engine.energy, rng, constraints, known, engine.forces)
        except BaseException:
            host.restore(context)
            raise
        host.write(context, ended)
        # Read again: a platform in single precision does not hold what it is given.
        held = context.getState(positions=True).getPositions(asNumpy=True)._value
        self._known = (held, *about[1:]), energy

    def setStepSize(self, size: Any) -> None:
        """Refuse a step that is not that of the jumps."""
        check_timestep(self._metropolis.timestep, size)

    def __copy__(self) -> MetropolizedJumpIntegrator:
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> MetropolizedJumpIntegrator:
        step, seed = self._metropolis, int(self.getGlobalVariableByName("seed"))
        return MetropolizedJumpIntegrator(
            self.propagator, step.temperature, step.friction, jumps=step.jumps, seed=seed, group=self.group
        )


def _same(one: _About, other: _About) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]) and one[2] == other[2]
