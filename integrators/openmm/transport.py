"""Two ways of a jump into a Context and out of it: read and written by the host, or through the jump force."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.register import BACK_SHIFT, JUMP, RESTORE, TOKEN, Register
from fastegnn_md.engines.openmm.system import NM, JumpSystem
from fastegnn_md.errors import ConfigError, JumpError
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.state import State
from fastegnn_md.units import KJ_PER_MOL

from ..engine import Classical, Predicted
from ..guards import GuardReport
from ..step import GuardedStep, Proposed
from .host import Host

with naming_extras(__name__):
    import openmm


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


class _Waiting(NamedTuple):
    """A jump that is prepared, and what is known of it."""

    state: State
    classical: Classical
    predicted: Predicted | None = None
    proposed: Proposed | None = None


class OnHost:
    """Read the Context, jump, write it."""

    def __init__(self, host: Host, part: JumpSystem, guarded: GuardedStep):
        self._host, self._constraints, self._guarded = host, part.constraints, guarded
        self._prepared: State | None = None
        self._waiting: _Waiting | None = None  # of the jump that comes next

    def prepare(self, context: openmm.Context, half_step: float, rng: np.random.Generator) -> State:
        """What the propagator is given; see :meth:`ContextJump.prepare`."""
        informed = self._guarded.propagator.wants_forces == "start"
        state, classical = self._host.read(context, half_step, informed=informed), self._host.classical(context)
        self._prepared = self._guarded.prepare(state, self._constraints, rng, classical)
        self._waiting = _Waiting(self._prepared, classical)
        return self._prepared

    def take(self, predicted: Predicted) -> None:
        """Be given a prediction; see :meth:`ContextJump.take`."""
        assert self._waiting is not None  # it was prepared
        self._waiting = self._waiting._replace(predicted=predicted)

    def propose(self, rng: np.random.Generator) -> GuardReport:
        """Hold it against the guards; see :meth:`ContextJump.propose`."""
        assert self._waiting is not None  # it was prepared
        state, classical, predicted, _ = self._waiting
        proposed = self._guarded.propose(state, self._constraints, rng, classical, predicted)
        self._waiting = self._waiting._replace(proposed=proposed)
        return proposed[1]

    def jump(self, context: openmm.Context, half_step: float, rng: np.random.Generator) -> GuardReport:
        """See :class:`Transport`."""
        if self._waiting is None:
            self.prepare(context, half_step, rng)
        assert self._waiting is not None  # it is prepared
        state, classical, predicted, proposed = self._waiting
        self._waiting = None
        ended, report = self._guarded.attempt(state, self._constraints, rng, classical, predicted, proposed)
        if report.ok:
            self._host.write(context, ended)
        return report

    def replace(self, context: openmm.Context, rng: np.random.Generator, report: GuardReport) -> None:
        """See :class:`Transport`."""
        assert self._prepared is not None  # there was a jump
        self._host.restore(context)
        classical = self._host.classical(context)
        ended = self._guarded.replace(self._prepared, self._constraints, rng, classical, report)
        self._host.write(context, ended)

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        """See :class:`Transport`."""
        self._host.back_shift(context, half_step)

    def restore(self, context: openmm.Context) -> None:
        """See :class:`Transport`."""
        self._waiting = None
        self._host.restore(context)


class Inside:
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
        """See :class:`Transport`."""
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
        """See :class:`Transport`."""
        self._step(BACK_SHIFT)

    def replace(self, context: openmm.Context, rng: np.random.Generator, report: GuardReport) -> None:
        """See :class:`Transport`."""
        raise JumpError(
            f"the {report.guard} guard refused the jump: {report.message}; with backend='host', or with a classical "
            "integrator in the schedule, classical steps would replace it",
            report.atom,
        )

    def restore(self, context: openmm.Context) -> None:
        """See :class:`Transport`."""
        if self._moved:
            self._step(RESTORE)
            context.setParameter(TOKEN, 0)

    def _step(self, mode: int) -> None:
        self._custom.setGlobalVariableByName("mode", mode)
        self._advance()
