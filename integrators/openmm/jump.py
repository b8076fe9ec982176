"""One guarded jump of an OpenMM Context: either it happens whole, or positions, velocities, time and step stay."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

import numpy as np
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.description import theory_of
from fastegnn_md.engines.openmm.force import JumpForce, bound_context, check_binding
from fastegnn_md.engines.openmm.register import BACK_SHIFT, BETWEEN, JUMP, RESTORE, TOKEN, Register
from fastegnn_md.engines.openmm.system import NM, JumpSystem
from fastegnn_md.errors import ConfigError, FastEGNNMDError, JumpError
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State
from fastegnn_md.units import KJ_PER_MOL

from ..guards import GuardReport
from ..home import check_home
from ..step import GuardedStep
from ..verdict import RunWatch
from .binding import check_forces
from .host import Host

with naming_extras(__name__):
    import openmm

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

    def __init__(self, guarded: GuardedStep, custom: openmm.CustomIntegrator, advance: Callable[[], None], group: int):
        self.guarded, self.group = guarded, group
        self._custom, self._advance = custom, advance
        self._bound: tuple[Callable[[], openmm.Context | None], JumpSystem, Transport] | None = None
        self._sites = self._between = False

    def bind(self, context: openmm.Context, force: JumpForce, learned_forces: Collection[str] = ()) -> None:
        """Serve this Context from now on; see :meth:`LearnedIntegrator.bind`.

        Raises
        ------
        CompatibilityError, ConfigError
            If the force is not that of the System of the Context, or its group is another one; if its back-end cannot
            compute what a step asks for; if angular momentum or energy is to be conserved where it is not; or if a
            force of the System would be ignored.
        ConstraintError
            If a momentum is to be conserved and particles are held.
        """
        if force.group != self.group:
            raise ConfigError(
                f"the jump force is in group {force.group}, the integrator was made for group {self.group}; "
                "give both the same group"
            )
        system, part = context.getSystem(), force.part
        check_binding(system, force)
        self.guarded.isolated = part.isolated
        self.guarded.check(part.constraints, system.usesPeriodicBoundaryConditions())
        check_home(
            self.guarded.propagator.provenance,
            part.blank(system),
            part.constraints,
            temperature=self.guarded.temperature,
            engine="OpenMM",
            theory=theory_of(system),
            lenient=self.guarded.guard is None,
            holds_atoms=self.guarded.tolerates_frozen_atoms,
        )
        hybrid, informed = self.guarded.schedule.hybrid, self.guarded.propagator.wants_forces is not None
        described = check_forces(system, force, informed, hybrid, learned_forces)
        baths = [name for name in described.between_steps if name != "CMMotionRemover"]
        if baths and self.guarded.conserve.energy:
            raise ConfigError(f"Conserve(energy=True): {baths[0]} of this System changes the energy; leave one out")
        self._between = bool(described.between_steps) and not hybrid
        self._sites = any(system.isVirtualSite(i) for i in range(system.getNumParticles()))
        transport: Transport
        if force.backend == "host":
            transport = _OnHost(Host(system, part, set(range(32)) - {self.group}), part, self.guarded)
        else:
            for what, asked in self.guarded.needs.items():
                if asked:
                    raise ConfigError(
                        f"{what}: needs the classical potential within a step, which the back-end {force.backend!r} "
                        "cannot evaluate; use backend='host'"
                    )
            transport = _Inside(context, part, self.guarded, self._custom, self._advance, self.group)
        self._bound = weakref.ref(context), part, transport

    def recover(self) -> None:
        """Set variables of the integrator anew."""
        if self._bound is not None and isinstance(self._bound[2], _Inside):
            self._bound[2].recover()

    def watch(self) -> RunWatch:
        """A watch over the temperatures of the atoms that jump."""
        context, part = self.context, self._part
        state = Host(context.getSystem(), part, set(range(32)) - {self.group}).read(context)
        return RunWatch(state, self.guarded.freedom(state, part.constraints), self.guarded.bath_temperature)

    def unbind(self) -> None:
        """Serve no Context."""
        self._bound = None

    @property
    def context(self) -> openmm.Context:
        """The Context that was bound.

        Raises
        ------
        ConfigError
            If none was, or it was deleted.
        """
        return bound_context(None if self._bound is None else self._bound[0])

    @property
    def _part(self) -> JumpSystem:
        """The atoms that jump; a Context was bound."""
        assert self._bound is not None
        return self._bound[1]

    def attempt(
        self, half_step: float, rng: np.random.Generator, *, replacing: bool = False
    ) -> tuple[GuardReport, bool]:
        """Try a jump, and count it; whether the Context has advanced. If not, it is as it was before.

        Parameters
        ----------
        half_step : float
            ps; half the classical time step where velocities are those of half a step ago, else zero.
        rng : numpy.random.Generator
        replacing : bool
            Replace a refused jump by velocity Verlet.

        Raises
        ------
        JumpError
            If the propagator raised, predicted what is not finite, or a refused jump could not be replaced.
        FastEGNNMDError
            If the Context is not bound, or its box does not fit any more. The Context is as it was before, here too.
        """
        context = self.context
        assert self._bound is not None  # the Context was found
        _, part, transport = self._bound
        present, count = context.getTime()._value, context.getStepCount()  # ps
        done = False
        try:
            report = transport.jump(context, half_step, rng)
            self.guarded.statistics.record(report)
            done = report.ok
            self._place_sites(context)
            if done and half_step:
                done = False
                transport.back_shift(context, half_step)
                # Along a fixed bond half a step of raw force means nothing, and would show as temperature.
                context.applyVelocityConstraints(_TOLERANCE)
                done = True
            if not done and replacing:
                transport.replace(context, rng, report)
                self._place_sites(context)
                done = True
        except (FastEGNNMDError, openmm.OpenMMException, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
            raise _named(error, count + 1, part) from error
        finally:
            if not done:
                transport.restore(context)
                self._place_sites(context)
            # The integrator that moves particles counts each of its parts as a step.
            context.setTime(present + self.guarded.propagator.timestep if done else present)
            context.setStepCount(count + 1 if done else count)
        message, atom = as_particle(report.message, report.atom, part)
        return replace(report, message=message, atom=atom), done

    def act_between(self) -> None:
        """Let the barostat and the like act once, where no classical step does it."""
        if not self._between:
            return
        context = self.context
        time, count, energy = context.getTime(), context.getStepCount(), self.guarded.energy
        target = None if energy is None else energy.target
        before = 0.0 if target is None else self._kinetic_energy(context)
        self._custom.setGlobalVariableByName("mode", BETWEEN)
        self._advance()
        context.setTime(time)
        context.setStepCount(count)
        if energy is not None and target is not None:  # motion of the centre of mass that was removed
            energy.target = target + self._kinetic_energy(context) - before

    def _kinetic_energy(self, context: openmm.Context) -> float:
        """Of the atoms that jump, amu Å²/ps²."""
        assert self._bound is not None  # the Context was found
        _, part, _ = self._bound
        velocities = context.getState(velocities=True).getVelocities(asNumpy=True)._value[part.atoms] * NM
        return float(0.5 * part.masses.cpu().numpy() @ np.square(velocities).sum(axis=1))

    def _place_sites(self, context: openmm.Context) -> None:
        # GPU platforms leave virtual sites where they were when a CustomIntegrator ends inside a block.
        if self._sites:
            context.computeVirtualSites()


def free_flight(propagator: LearnedMap) -> float:
    """Time in ps over which a jump is close to free flight; zero where velocities say nothing about it."""
    return propagator.timestep if propagator.predicts_velocities else 0.0


class Transport(Protocol):
    """A way of a jump into a Context and out of it."""

    def jump(self, context: openmm.Context, half_step: float, rng: np.random.Generator) -> GuardReport:
        """Make a guarded jump, velocities being those of a time after those of the Context (ps)."""

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        """Bring velocities back to the time that the classical integrator has them at."""

    def replace(self, context: openmm.Context, rng: np.random.Generator, report: GuardReport) -> None:
        """Classical steps in place of the jump that was just refused."""

    def restore(self, context: openmm.Context) -> None:
        """Put back positions and velocities of before the jump."""


class _OnHost:
    """Read the Context, jump, write it."""

    def __init__(self, host: Host, part: JumpSystem, guarded: GuardedStep):
        self._host, self._constraints, self._guarded = host, part.constraints, guarded
        self._prepared: State | None = None

    def jump(self, context: openmm.Context, half_step: float, rng: np.random.Generator) -> GuardReport:
        informed = self._guarded.propagator.wants_forces == "start"
        state, classical = self._host.read(context, half_step, informed=informed), self._host.classical(context)
        self._prepared = self._guarded.prepare(state, self._constraints, rng, classical)
        ended, report = self._guarded.attempt(self._prepared, self._constraints, rng, classical)
        if report.ok:
            self._host.write(context, ended)
        return report

    def replace(self, context: openmm.Context, rng: np.random.Generator, report: GuardReport) -> None:
        assert self._prepared is not None  # there was a jump
        self._host.restore(context)
        classical = self._host.classical(context)
        ended = self._guarded.replace(self._prepared, self._constraints, rng, classical, report)
        self._host.write(context, ended)

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        self._host.back_shift(context, half_step)

    def restore(self, context: openmm.Context) -> None:
        self._host.restore(context)


class _Inside:
    """Through the jump force; everything stays where the platform computes."""

    def __init__(
        self,
        context: openmm.Context,
        part: JumpSystem,
        guarded: GuardedStep,
        custom: openmm.CustomIntegrator,
        advance: Callable[[], None],
        group: int,
    ):
        self._group = group
        self._part, self._guarded, self._custom, self._advance = part, guarded, custom, advance
        propagator = guarded.propagator
        self._register = Register(
            self._jump, propagator.wants_forces == "start", free_flight(propagator), context.getPlatform().getName()
        )
        self._rng = np.random.default_rng(0)  # that of the present jump
        self._report: GuardReport | None = None
        self._moved = False
        self._prepared: State | None = None  # by the present jump
        if not part.whole_system:
            self.recover()

    def recover(self) -> None:
        """Say which particles jump, as a variable of the integrator."""
        flies = np.zeros((self._part.n_particles, 3))
        flies[self._part.atoms] = 1.0
        self._custom.setPerDofVariableByName("flies", flies)

    def jump(self, context: openmm.Context, half_step: float, rng: np.random.Generator) -> GuardReport:
        self._moved, self._rng, self._report = False, rng, None
        audits = self._guarded.audits
        audited = audits is not None and self._guarded.isolated and audits.due()
        before = self._energy(context) if audited else 0.0
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
        report: GuardReport | None = self._report  # set by the call of the force
        if report is None:
            raise ConfigError(
                "the jump force was not asked; the System of this Context has none, or another process bound it"
            )
        if report.ok and audited:
            assert self._prepared is not None  # there was a jump
            jumped = time.perf_counter()
            change = self._energy(context) - before + self._guarded.kinetic_change
            # What the energy before took is about what the energy after takes.
            seconds = 2 * (time.perf_counter() - jumped)
            self._guarded.audit(change, self._prepared, self._part.constraints, seconds)
        return report

    def _energy(self, context: openmm.Context) -> float:
        """Potential energy without the jump force, amu Å²/ps²."""
        groups = set(range(32)) - {self._group}
        return context.getState(energy=True, groups=groups).getPotentialEnergy()._value * KJ_PER_MOL

    def _jump(
        self, positions: Tensor, velocities: Tensor, forces: Tensor | None, box: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The science, on tensors in OpenMM's units: Δx and Δv of the atoms that jump."""
        part = self._part = self._part.to(positions.device)
        state = part.state(positions, velocities, forces, box)
        self._prepared = self._guarded.prepare(state, part.constraints, self._rng)
        ended, self._report = self._guarded.attempt(self._prepared, part.constraints, self._rng)
        return (ended.positions - state.positions) / NM, (ended.velocities - state.velocities) / NM

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        self._step(BACK_SHIFT)

    def replace(self, context: openmm.Context, rng: np.random.Generator, report: GuardReport) -> None:
        raise JumpError(
            f"the {report.guard} guard refused the jump: {report.message}; with backend='host', or with a classical "
            "integrator in the schedule, classical steps would replace it",
            report.atom,
        )

    def restore(self, context: openmm.Context) -> None:
        if self._moved:
            self._step(RESTORE)
            context.setParameter(TOKEN, 0)

    def _step(self, mode: int) -> None:
        self._custom.setGlobalVariableByName("mode", mode)
        self._advance()


def as_particle(message: str, atom: int | None, part: JumpSystem) -> tuple[str, int | None]:
    """A guard's words about an atom of the state, with its number in the System."""
    if atom is None or part.whole_system:
        return message, atom
    particle = int(part.atoms[atom])
    return f"{message} (atom {atom} of those that jump is particle {particle})", particle


def _named(error: Exception, step: int, part: JumpSystem) -> Exception:
    """The error of a jump with the number of the step it would have been."""
    if isinstance(error, JumpError):
        message, atom = as_particle(str(error), error.atom, part)
        return JumpError(f"step {step}: {message}. The Context is as it was before the step", atom)
    if isinstance(error, FastEGNNMDError):
        named = copy.copy(error)
        named.args = (f"step {step}: {error}",)
        return named
    return JumpError(
        f"step {step}: the jump failed with {type(error).__name__}: {error}. The Context is as it was before the step"
    )
