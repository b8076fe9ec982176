"""OpenMM integrator that samples the canonical distribution of a System exactly, by jumps and a Metropolis test."""

from __future__ import annotations

import copy
import dataclasses
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.force import DEFAULT_GROUP, JumpForce, bound_context, check_binding
from fastegnn_md.engines.openmm.system import NM, JumpSystem
from fastegnn_md.errors import ConfigError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State
from fastegnn_md.units import KJ_PER_MOL

from ..metropolis import MetropolisStatistics, MetropolisStep
from ..thermostats import in_unit
from .classical import check_timestep, checked_seed, step_generator

with naming_extras(__name__):
    import openmm
    from openmm import unit


class MetropolizedJumpIntegrator(openmm.CustomIntegrator):
    """Every step is a jump that is accepted or rejected with the potential energy of the Context.

    A step refreshes the velocities, jumps, evaluates the energy once, and accepts with probability min(1, exp(-ΔH/kT));
    where it rejects, positions stay and velocities turn round. The distribution is that of the System at this
    temperature whatever the error of the propagator (:class:`~fastegnn_md.integrators.metropolis.MetropolisStep`).
    The Context must be bound (:class:`LearnedSimulation` does it), with the back-end ``host``. If the System has a
    CMMotionRemover, velocities are drawn without motion of the centre of mass, as it is to be. Barostats do not act.

    Parameters
    ----------
    propagator : LearnedMap
        Reversible and volume preserving: one of kind "kick-drift".
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

    def __init__(
        self,
        propagator: LearnedMap,
        temperature: Any,
        friction: Any = None,
        *,
        jumps: int = 1,
        seed: int | None = None,
        group: int = DEFAULT_GROUP,
    ):
        temperature = in_unit(temperature, "temperature")
        friction = None if friction is None else in_unit(friction, "friction")
        self._metropolis = MetropolisStep(propagator, temperature, friction, jumps)
        super().__init__(self._metropolis.timestep)
        self.addGlobalVariable("seed", checked_seed(seed))
        self.propagator, self.group, self.jump_seconds = propagator, group, 0.0
        self._bound: tuple[Callable[[], openmm.Context | None], _Host] | None = None

    @property
    def needs_host(self) -> bool:
        """True: steps ask for the classical potential, which the back-end ``host`` alone can evaluate."""
        return True

    @property
    def statistics(self) -> MetropolisStatistics:
        """What became of the jumps so far."""
        return self._metropolis.statistics

    def bind(self, context: openmm.Context, force: JumpForce) -> None:
        """Serve this Context; see :meth:`LearnedIntegrator.bind`.

        Raises
        ------
        CompatibilityError, ConfigError
            If the force is not that of the System of the Context, or not of the back-end ``host``.
        ConstraintError
            If atoms that jump are held or have fixed bond lengths.
        """
        if force.backend != "host":
            raise ConfigError(
                f"the jump force has the back-end {force.backend!r}; the Metropolis test needs energies during a step: "
                "give backend='host'"
            )
        system = context.getSystem()
        check_binding(system, force)
        host = _Host(system, force, {i for i in range(32) if i != force.group})
        self._metropolis.check(host.constraints)
        self._bound = weakref.ref(context), host

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
        assert self._bound is not None  # the Context was found
        host, seed = self._bound[1], int(self.getGlobalVariableByName("seed"))
        for _ in range(steps):
            begun = time.perf_counter()
            counted = dataclasses.replace(self.statistics)
            now, count = context.getTime(), context.getStepCount()
            try:
                host.step(context, self._metropolis, step_generator(seed, count))
            except BaseException:
                self._metropolis.statistics = counted
                raise
            context.setTime(now + self._metropolis.timestep * unit.picosecond)
            context.setStepCount(count + 1)
            self.jump_seconds += time.perf_counter() - begun

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


class _Known(NamedTuple):
    """A potential energy (amu Å²/ps²) and what it belongs to."""

    positions: np.ndarray
    box: np.ndarray
    parameters: dict[str, float]
    energy: float


class _Host:
    """Read a Context, jump, and leave in it what was accepted."""

    def __init__(self, system: openmm.System, force: JumpForce, groups: set[int]):
        self._part: JumpSystem = force.part
        self._groups, self._periodic = groups, system.usesPeriodicBoundaryConditions()
        self._sites = any(system.isVirtualSite(i) for i in range(system.getNumParticles()))
        self._known: _Known | None = None
        part = force.part
        rests = any(isinstance(one, openmm.CMMotionRemover) for one in system.getForces())
        self.constraints: Constraints = part.constraints
        if rests and part.whole_system and not bool(part.constraints.frozen.any()):
            self.constraints = dataclasses.replace(part.constraints, fixed_com=True)

    def step(self, context: openmm.Context, metropolis: MetropolisStep, rng: np.random.Generator) -> None:
        """One step of Metropolis; an error leaves the Context as it was."""
        part = self._part
        read = context.getState(positions=True, velocities=True)
        x, v = read.getPositions(asNumpy=True)._value, read.getVelocities(asNumpy=True)._value
        box = read.getPeriodicBoxVectors(asNumpy=True)._value
        cell = torch.tensor(box) if self._periodic else None
        state = part.state(torch.tensor(x[part.atoms]), torch.tensor(v[part.atoms]), None, cell)

        def moved(positions: Tensor) -> np.ndarray:
            after = x.copy()  # displacements, as the state may hold another image of a molecule
            after[part.atoms] += ((positions - state.positions) / NM).numpy()
            return after

        def potential(positions: Tensor) -> float:
            self._place(context, moved(positions))
            return context.getState(energy=True, groups=self._groups).getPotentialEnergy()._value * KJ_PER_MOL

        parameters = dict(context.getParameters())
        known = self._known
        valid = (
            known is not None
            and np.array_equal(known.positions, x)
            and np.array_equal(known.box, box)
            and known.parameters == parameters
        )
        try:
            ended, energy = metropolis(
                state, potential, rng, self.constraints, known.energy if known is not None and valid else None
            )
        except BaseException:
            self._place(context, x)
            raise
        self._write(context, x if ended.positions is state.positions else moved(ended.positions), v, ended)
        # Read again: a platform in single precision does not hold what it is given.
        held = context.getState(positions=True).getPositions(asNumpy=True)._value
        self._known = _Known(held, box, parameters, energy)

    def _write(self, context: openmm.Context, x: np.ndarray, v: np.ndarray, ended: State) -> None:
        self._place(context, x)
        after = v.copy()
        after[self._part.atoms] = (ended.velocities / NM).numpy()
        context.setVelocities(after)

    def _place(self, context: openmm.Context, positions: np.ndarray) -> None:
        context.setPositions(positions)
        if self._sites:
            context.computeVirtualSites()
