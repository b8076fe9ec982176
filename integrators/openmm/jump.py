"""One guarded jump of an OpenMM Context: either it happens whole, or positions, velocities, time and step stay."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.description import theory_of
from fastegnn_md.engines.openmm.force import JumpForce, bound_context, check_binding
from fastegnn_md.engines.openmm.register import BETWEEN
from fastegnn_md.engines.openmm.system import NM, JumpSystem
from fastegnn_md.errors import ConfigError, FastEGNNMDError, JumpError
from fastegnn_md.state import State

from ..engine import Predicted
from ..guards import GuardReport
from ..home import check_home
from ..start import check_start
from ..step import GuardedStep
from ..verdict import RunWatch
from .binding import check_forces
from .host import Host, Leap
from .transport import Inside, OnHost, Transport

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
    leap : callable, optional
        Makes leap-frog steps, see :class:`~.host.Host`.
    """

    guarded: GuardedStep
    group: int

    def __init__(
        self,
        guarded: GuardedStep,
        custom: openmm.CustomIntegrator,
        advance: Callable[[], None],
        group: int,
        leap: Leap | None = None,
    ):
        self.guarded, self.group, self._leap = guarded, group, leap
        self._custom, self._advance = custom, advance
        self._bound: tuple[Callable[[], openmm.Context | None], JumpSystem, Transport] | None = None
        self._sites = self._between = self._looked_at = False

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
            drawn=self.guarded.propagator.stochastic,
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
            transport = OnHost(Host(system, part, set(range(32)) - {self.group}, self._leap), part, self.guarded)
        else:
            for what, asked in self.guarded.needs.items():
                if asked:
                    raise ConfigError(
                        f"{what}: needs the classical potential within a step, which the back-end {force.backend!r} "
                        "cannot evaluate; use backend='host'"
                    )
            transport = Inside(context, part, self.guarded, self._custom, self._advance, self.group)
        self._bound = weakref.ref(context), part, transport
        self._looked_at = False

    def recover(self) -> None:
        """Set variables of the integrator anew."""
        if self._bound is not None and isinstance(self._bound[2], Inside):
            self._bound[2].recover()

    def watch(self) -> RunWatch:
        """A watch over the temperatures of the atoms that jump."""
        context, part = self.context, self._part
        state = Host(context.getSystem(), part, set(range(32)) - {self.group}).read(context)
        return RunWatch(state, self.guarded.freedom(state, part.constraints), self.guarded.bath_temperature)

    def look_at_start(self) -> None:
        """Refuse the first positions of a Context if their bonds cannot be those of training.

        Raises
        ------
        DataError
        """
        if self._looked_at or self.guarded.guard is None:
            return
        context, part = self.context, self._part
        state = Host(context.getSystem(), part, set(range(32)) - {self.group}).read(context)
        check_start("the positions of the Context", state, self.guarded.propagator.limits, "Å in place of nm")
        self._looked_at = True

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
            self.guarded.record(report)
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
            context.setTime(present + self.guarded.timestep if done else present)
            context.setStepCount(count + 1 if done else count)
        message, atom = as_particle(report.message, report.atom, part)
        return replace(report, message=message, atom=atom), done

    def prepare(self, half_step: float, rng: np.random.Generator) -> State:
        """What the propagator is given at the attempt that comes next; arguments and errors of :meth:`attempt`.

        Raises
        ------
        ConfigError
            If the jump happens inside the Context, where nobody can look at it before.
        """
        context = self.context
        return self._host.prepare(context, half_step, rng)

    def take(self, predicted: Predicted) -> None:
        """Be given the prediction of the attempt that comes next."""
        self._host.take(predicted)

    def propose(self, rng: np.random.Generator) -> GuardReport:
        """Hold that prediction against the guards, and relax it in the Context."""
        context = self.context
        present, count = context.getTime(), context.getStepCount()
        try:
            return self._host.propose(rng)
        finally:
            context.setTime(present)
            context.setStepCount(count)

    def forget(self) -> None:
        """Forget what was prepared."""
        self._host.restore(self.context)

    @property
    def _host(self) -> OnHost:
        assert self._bound is not None  # the Context was found
        transport = self._bound[2]
        if not isinstance(transport, OnHost):
            raise ConfigError(
                "jumps of several Contexts are predicted together by the back-end 'host' alone: give "
                "LearnedSimulation(…, backend='host')"
            )
        return transport

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
