"""One guarded jump of an OpenMM Context: either it happens whole, or positions, velocities, time and step stay."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.force import JumpForce, bound_context, check_binding, midpoint_advice
from fastegnn_md.engines.openmm.register import BACK_SHIFT, JUMP, RESTORE, TOKEN, Register
from fastegnn_md.engines.openmm.system import FORCE, NM, JumpSystem
from fastegnn_md.errors import ConfigError, FastEGNNMDError, JumpError
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.units import KJ_PER_MOL

from ..guards import GuardReport
from ..step import Classical, GuardedStep

with naming_extras(__name__):
    import openmm
    from openmm import unit

if TYPE_CHECKING:
    from fastegnn_md.propagator.committee import Committee
    from fastegnn_md.propagator.full import Propagator

_TOLERANCE = 1e-7  # of velocities along fixed bonds


class ContextJump:
    """Jumps of the Context of one integrator.

    Parameters
    ----------
    guarded : GuardedStep
    custom : openmm.CustomIntegrator
        With the protocol of :mod:`fastegnn_md.engines.openmm.register`.
    advance : callable
        Makes one step of ``custom``.
    group : int
        Force group of the jump force.
    """

    def __init__(
        self,
        guarded: GuardedStep,
        custom: openmm.CustomIntegrator,
        advance: Callable[[], None],
        group: int,
    ):
        self.guarded, self.group = guarded, group
        self._custom, self._advance = custom, advance
        self._groups = set(range(32)) - {group}
        self._bound: tuple[Callable[[], openmm.Context | None], _Transport] | None = None
        self._part: JumpSystem | None = None
        self._sites = False
        self._rng = np.random.default_rng(0)  # that of the present jump
        self._report: GuardReport | None = None
        self._kinetic = 0.0  # before it, of the atoms that jump

    def bind(self, context: openmm.Context, force: JumpForce) -> None:
        """Serve this Context from now on.

        Raises
        ------
        CompatibilityError, ConfigError
            If the force is not that of the System of the Context, or its group is another one; or angular momentum is
            to be conserved where it is not.
        ConstraintError
            If a momentum is to be conserved and particles are held.
        """
        if force.group != self.group:
            raise ConfigError(
                f"the jump force is in group {force.group}, the integrator was made for group {self.group}; "
                "give both the same group"
            )
        system = context.getSystem()
        check_binding(system, force)
        self.guarded.isolated = force.part.isolated
        self.guarded.check(force.part.constraints, system.usesPeriodicBoundaryConditions())
        self._sites = any(system.isVirtualSite(i) for i in range(system.getNumParticles()))
        propagator = self.guarded.propagator
        transport: _Transport
        if force.backend == "host":
            transport = _Host(context, force.part, self._jump, self._groups, propagator.needs_forces)
        elif propagator.needs_midpoint_forces:
            raise ConfigError(midpoint_advice(force.backend))
        else:
            register = Register(
                self._jump, propagator.needs_forces, free_flight(propagator), context.getPlatform().getName()
            )
            transport = _Inside(self._custom, self._advance, register)
            if not force.part.whole_system:
                flies = np.zeros((force.part.n_particles, 3))
                flies[force.part.atoms] = 1.0
                self._custom.setPerDofVariableByName("flies", flies)
        self._part, self._bound = force.part, (weakref.ref(context), transport)

    @property
    def context(self) -> openmm.Context:
        """The Context that was bound.

        Raises
        ------
        ConfigError
            If none was, or it was deleted.
        """
        return bound_context(None if self._bound is None else self._bound[0])

    def attempt(self, half_step: float, rng: np.random.Generator) -> GuardReport:
        """Try a jump. If a guard refuses it, the Context is as it was before; nothing is counted.

        Parameters
        ----------
        half_step : float
            ps; half the classical time step where velocities are those of half a step ago, else zero.
        rng : numpy.random.Generator

        Raises
        ------
        JumpError
            If the propagator raised, or predicted what is not finite.
        FastEGNNMDError
            If the Context is not bound, or its box does not fit any more. The Context is as it was before, here too.
        """
        context = self.context
        assert self._bound is not None  # the Context was found
        transport = self._bound[1]
        time, count = context.getTime(), context.getStepCount()
        self._rng, self._report = rng, None
        done = False
        try:
            before = self._energy(context) if self.guarded.needs_energy_before else 0.0
            transport.jump(context, half_step)
            self._place_sites(context)
            report = self._judge(context, before)
            if report.ok and half_step:
                transport.back_shift(context, half_step)
                # Along a fixed bond half a step of raw force means nothing, and would show as temperature.
                context.applyVelocityConstraints(_TOLERANCE)
            done = report.ok
        except (FastEGNNMDError, openmm.OpenMMException, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
            raise _named(error, count + 1) from error
        finally:
            if not done:
                transport.restore(context)
                self._place_sites(context)
            # The integrator that moves particles counts each of its parts as a step.
            context.setTime(time + self.guarded.propagator.timestep * unit.picosecond if done else time)
            context.setStepCount(count + 1 if done else count)
        return report

    def _judge(self, context: openmm.Context, before: float) -> GuardReport:
        """What the guards say; energies are looked at after minimisation."""
        report = self._report
        if report is None:
            raise ConfigError(
                "the jump force was not asked; the System of this Context has none, or another process bound it"
            )
        if report.ok and self.guarded.minimize_steps:
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=self.guarded.minimize_steps)
            context.applyVelocityConstraints(_TOLERANCE)
        if report.ok and self.guarded.needs_energy:
            after = self._energy(context)
            report = self.guarded.check_energy(before, after)
            if report.ok and self.guarded.energy is not None:
                self._conserve_energy(context, before + self._kinetic, after)
        return report

    def _conserve_energy(self, context: openmm.Context, before: float, after: float) -> None:
        """Scale the velocities of the atoms that jumped, and end the step with half a step of the thermostat.

        ``before`` is the total energy before the jump, ``after`` the potential energy after it.
        """
        assert self._part is not None  # the Context was bound with it
        part = self._part.to(torch.device("cpu"))
        state = context.getState(positions=True, velocities=True)
        x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
        box = torch.tensor(state.getPeriodicBoxVectors(asNumpy=True)._value) if part.periodic else None
        ended = part.state(torch.tensor(x[part.atoms]), torch.tensor(v[part.atoms]), None, box)
        ended = self.guarded.conserve_energy(ended, before, after, part.constraints, self._rng)
        v[part.atoms] = ended.velocities.numpy() / NM
        context.setVelocities(v)

    def _jump(
        self, positions: Tensor, velocities: Tensor, forces: Tensor | None, box: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The science, on tensors in OpenMM's units: Δx and Δv of the atoms that jump."""
        assert self._part is not None  # the Context was bound with it
        part = self._part = self._part.to(positions.device)
        state = part.state(positions, velocities, forces, box)
        classical = Classical(self._forces_at) if self.guarded.propagator.needs_midpoint_forces else None
        prepared = self.guarded.prepare(state, part.constraints, self._rng, classical)
        if self.guarded.energy is not None:
            self._kinetic = kinetic_energy(prepared.velocities, prepared.masses)
        try:
            ended, report = self.guarded.attempt(prepared, part.constraints, self._rng)
        except JumpError as error:
            raise JumpError(*_as_particle(str(error), error.atom, part)) from error
        message, atom = _as_particle(report.message, report.atom, part)
        self._report = replace(report, message=message, atom=atom)
        return (ended.positions - state.positions) / NM, (ended.velocities - state.velocities) / NM

    def _forces_at(self, positions: Tensor) -> Tensor:
        """Classical forces with the atoms that jump at other places (N, 3) in Å, amu Å/ps²; the others stay."""
        assert self._bound is not None and isinstance(self._bound[1], _Host)  # no other takes such propagators
        context = self.context
        self._bound[1].place(context, positions / NM)
        self._place_sites(context)
        return self._bound[1].forces(context) * FORCE

    def _place_sites(self, context: openmm.Context) -> None:
        # GPU platforms leave virtual sites where they were when a CustomIntegrator ends inside a block.
        if self._sites:
            context.computeVirtualSites()

    def _energy(self, context: openmm.Context) -> float:
        return context.getState(energy=True, groups=self._groups).getPotentialEnergy()._value * KJ_PER_MOL


def free_flight(propagator: Propagator | Committee) -> float:
    """Time in ps over which a jump is close to free flight; zero where velocities say nothing about it."""
    return propagator.timestep if propagator.predicts_velocities else 0.0


class _Transport(Protocol):
    """A way of a jump into a Context and out of it."""

    def jump(self, context: openmm.Context, half_step: float) -> None: ...

    def back_shift(self, context: openmm.Context, half_step: float) -> None: ...

    def restore(self, context: openmm.Context) -> None: ...


class _Inside:
    """Through the jump force; everything stays where the platform computes."""

    def __init__(self, custom: openmm.CustomIntegrator, advance: Callable[[], None], register: Register):
        self._custom, self._advance, self._register = custom, advance, register
        self._moved = False

    def jump(self, context: openmm.Context, half_step: float) -> None:
        self._moved = False
        # A CustomIntegrator takes the forces of its last step for valid, whatever another integrator of the same
        # CompoundIntegrator did since, until the Context is changed from outside: here the parameter does it.
        context.setParameter(TOKEN, self._register.token)
        for name, value in (("half_step", half_step), ("tau", self._register.tau), ("sigma", self._register.sigma)):
            self._custom.setGlobalVariableByName(name, value)
        self._step(JUMP)
        self._moved = True
        context.setParameter(TOKEN, 0)  # the classical integrator may be a CustomIntegrator as well
        if self._register.error is not None:
            raise self._register.error

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        self._step(BACK_SHIFT)

    def restore(self, context: openmm.Context) -> None:
        if self._moved:
            self._step(RESTORE)
            context.setParameter(TOKEN, 0)

    def _step(self, mode: int) -> None:
        self._custom.setGlobalVariableByName("mode", mode)
        self._advance()


class _Host:
    """Read the Context, jump, write it."""

    def __init__(self, context: openmm.Context, part: JumpSystem, jump: Any, groups: set[int], forces: bool):
        system = context.getSystem()
        n = part.n_particles
        masses = np.array([system.getParticleMass(i)._value for i in range(n)])
        self._inverse = np.divide(1.0, masses, out=np.zeros(n), where=masses > 0)[:, None]
        self._periodic = system.usesPeriodicBoundaryConditions()
        self._jump, self._groups, self._forces = jump, groups, forces
        self._atoms: Any = slice(None) if part.whole_system else part.atoms
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    def jump(self, context: openmm.Context, half_step: float) -> None:
        self._before = None
        wanted = self._forces or half_step > 0
        state = context.getState(positions=True, velocities=True, forces=wanted, groups=self._groups)
        x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
        self._before = x, v
        on_step, forces = v, None
        if wanted:
            f = state.getForces(asNumpy=True)._value
            on_step = v + half_step * f * self._inverse
            if self._forces:
                forces = self._tensor(np.where(self._inverse > 0, f, 0.0))
        box = torch.tensor(state.getPeriodicBoxVectors(asNumpy=True)._value) if self._periodic else None
        dx, dv = self._jump(self._tensor(x), self._tensor(on_step), forces, box)
        after_x, after_v = x.copy(), on_step.copy()
        after_x[self._atoms] += dx.cpu().numpy()
        after_v[self._atoms] += dv.cpu().numpy()
        self._write(context, after_x, after_v)

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        state = context.getState(velocities=True, forces=True, groups=self._groups)
        v, f = state.getVelocities(asNumpy=True)._value, state.getForces(asNumpy=True)._value
        context.setVelocities(v - half_step * f * self._inverse)

    def restore(self, context: openmm.Context) -> None:
        if self._before is not None:
            self._write(context, *self._before)

    def place(self, context: openmm.Context, positions: Tensor) -> None:
        """Put the atoms that jump somewhere else for a moment, nm."""
        assert self._before is not None  # the Context has been read
        x = self._before[0].copy()
        x[self._atoms] = positions.cpu().numpy()
        context.setPositions(x)

    def forces(self, context: openmm.Context) -> Tensor:
        """Of the atoms that jump, where the particles are, kJ/mol/nm; zero for those without mass."""
        f = context.getState(forces=True, groups=self._groups).getForces(asNumpy=True)._value
        return self._tensor(np.where(self._inverse > 0, f, 0.0))

    def _write(self, context: openmm.Context, x: np.ndarray, v: np.ndarray) -> None:
        context.setPositions(x)
        context.setVelocities(v)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values[self._atoms])


def _as_particle(message: str, atom: int | None, part: JumpSystem) -> tuple[str, int | None]:
    """A guard's words about an atom of the state, with its number in the System."""
    if atom is None or part.whole_system:
        return message, atom
    particle = int(part.atoms[atom])
    return f"{message} (atom {atom} of those that jump is particle {particle})", particle


def _named(error: Exception, step: int) -> Exception:
    """The error of a jump with the number of the step it would have been."""
    if isinstance(error, JumpError):
        return JumpError(f"step {step}: {error}. The Context is as it was before the step", error.atom)
    if isinstance(error, FastEGNNMDError):
        named = copy.copy(error)
        named.args = (f"step {step}: {error}",)
        return named
    return JumpError(
        f"step {step}: the jump failed with {type(error).__name__}: {error}. The Context is as it was before the step"
    )
