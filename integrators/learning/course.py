"""The course of a run that learns: classical segments, exams, jumps, audits, and what leads from one to the other."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastegnn_md._extras import naming_extras
from fastegnn_md.data.ase_files import PHASE
from fastegnn_md.engines.ase.atoms import FORCE, unchanged_on_error
from fastegnn_md.engines.ase.calculators import about_calculator
from fastegnn_md.engines.ase.same_atoms import SameAtoms
from fastegnn_md.errors import ConfigError
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.motion import kinetic_energy
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

from ..ase.volume import AtomsVolume, check_bath
from ..audits import Audits
from ..conserve import Conserve
from ..guards import GuardSettings
from ..options import guarded_step
from ..statistics import JumpStatistics
from ..step import GuardedStep
from ..thermostats import Thermostat
from .account import AUDIT, FROZEN, JUMP, JUMPING, LEARNING, REFUSED, SEGMENT, Account, temperatures
from .engine import LoggedEngine
from .exams import FEWEST, RunningError
from .learner import Learner
from .options import Options
from .segments import Segments, steps_of
from .settings import Learning

with naming_extras(__name__):
    from ase import Atoms


class LearningWarning(UserWarning):
    """A model is used although nobody knows that it is as good as was asked for."""


class Course:
    """What dynamics that learn do in a step; see :class:`~fastegnn_md.integrators.LearningDynamics`.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator.
    options : Options
    initial : Propagator, optional
        To go on from.
    rng : numpy.random.Generator
        Of the thermostat.

    Attributes
    ----------
    phase : {"learning", "jumping", "frozen"}
    propagator : Propagator or None
        That jumps.
    engine : LoggedEngine
    learner : Learner
    account : Account
    error : RunningError
    volume : AtomsVolume or None
        The barostat's moves.
    """

    atoms: Atoms
    options: Options
    rng: np.random.Generator
    lag: float
    learning: Learning
    thermostat: Thermostat | None
    account: Account
    error: RunningError
    present: RunningError
    newest: RunningError
    phase: str

    def __init__(self, atoms: Atoms, options: Options, initial: Propagator | None, rng: np.random.Generator):
        self.atoms, self.options, self.rng = atoms, options, rng
        self.lag, self.learning, self.thermostat = options.lag, options.learning, options.thermostat
        self.engine: LoggedEngine = LoggedEngine(atoms)
        steps = steps_of(options.lag, options.timestep, options.config)
        self.segments: Segments = Segments(options.lag, steps, options.config, self.engine.forces)
        self._same = SameAtoms(atoms, options.bonds)
        state = self._same.read()
        self._same.constraints()
        self.volume: AtomsVolume | None = None
        if options.barostat is not None:
            self.volume = AtomsVolume(atoms, options.barostat, self.engine.energy_at)
            check_bath(None if self.thermostat is None else self.thermostat.temperature, None)
        self.learner: Learner = Learner(options.learning, options.config, options.lag, state, initial)
        self.account, self.error = Account(), RunningError(options.learning.window)
        self.phase, self.propagator = LEARNING, initial
        self.audits: Audits = Audits(options.learning.audits)
        self.audit_share: float = self.account.audited_jumps(options.learning.audits)
        self.in_a_row: int = 0  # jumps since one was refused
        # On the last pairs of the jumping phase: of the model that jumps, and of what would take its place.
        self.present, self.newest = (RunningError(options.learning.renew) for _ in range(2))
        self._change = math.nan  # of the total energy over the last jump that was audited, kT
        self._statistics = JumpStatistics()
        self._guarded: GuardedStep | None = None
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray, Any] | None = None
        if initial is not None:
            zeros = torch.zeros_like(state.positions)
            initial.check(state.replace(forces=zeros, midpoint_forces=zeros))
        atoms.info[PHASE] = self.phase

    # stepping -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One segment or one jump, made whole or not at all; see :meth:`LearningDynamics.step`."""
        self.learner.memory.check(self._same.read())
        before, begun = (self.rng.bit_generator.state, self._known), time.perf_counter()
        moves = None if self.volume is None else self.volume.moves.place()
        try:
            with unchanged_on_error(self.atoms):
                kind, pair = self._advance()
                advanced = time.perf_counter()
                accepted = self._move_volume()
                moved = time.perf_counter()
                if pair is not None and self.phase != FROZEN:
                    self._take(pair, kind != REFUSED)
        except BaseException:
            self.rng.bit_generator.state, self._known = before
            if self.volume is not None:
                self.volume.moves.take(moves)
            raise
        self.account.count(kind, advanced - begun)
        if accepted is not None:
            self.account.volume_seconds += moved - advanced
            self.statistics.volume_moves += 1
            self.statistics.volume_accepted += accepted
        self.in_a_row = self.in_a_row + 1 if kind == JUMP else self.in_a_row if kind == AUDIT else 0
        if kind == AUDIT:
            self.audits.record(self._change, advanced - begun)
        self._settle_phase()
        self.account.training_seconds += time.perf_counter() - moved
        kelvin = list(temperatures(self.atoms).values())
        self.account.record(pair is None, self.error.value, self.error.interval[1], kelvin)

    def _advance(self) -> tuple[str, Any]:
        """Move the atoms by a lag; how, and the pair of a segment."""
        if self.phase == LEARNING:
            return SEGMENT, self._segment(self._half_step(self._same.read()))[1]
        assert self._guarded is not None  # made when the phase changed
        guarded, constraints, classical = self._guarded, self._same.constraints(), self.engine.classical()
        wants = guarded.propagator.wants_forces == "start"
        begun = self._same.read(self._forces_now() if wants else None)
        state, proposed = guarded.prepare(begun, constraints, self.rng, classical), None
        if self.phase == JUMPING:
            proposed = guarded.propose(state, constraints, self.rng, classical, None)
            if proposed[1].ok and self._audited():
                return AUDIT, self._audit(state, proposed[0])
        ended, report = guarded.attempt(state, constraints, self.rng, classical, proposed=proposed)
        guarded.record(report)
        if not report.ok:
            return REFUSED, self._segment(state)[1]
        self._write(ended.replace(forces=None))
        return JUMP, None

    def _move_volume(self) -> bool | None:
        """Try another volume, if it is time: whether it was taken, None where none was tried."""
        if self.volume is None or not self.volume.barostat.due(self.account.steps + 1):
            return None
        assert self.thermostat is not None  # checked when the barostat was
        if self.volume.attempt(self.thermostat.temperature, self.rng) is None:
            return False
        self._know(self.engine.kept_forces())  # most calculators have those of the volume they were asked for last
        if self.phase != LEARNING and self.propagator is not None:
            self.volume.warn_outside(self.propagator.provenance)
        return True

    def _audit(self, state: State, jumped: State) -> Any:
        """The whole segment in place of a jump: its result counts, and says how wrong the jump was."""
        ended, pair = self._segment(state)
        # The segment conserves the total energy, so its end is what the jump's is held against; it was asked for last.
        change = -self.engine.energy(ended.positions) + self.engine.energy(jumped.positions)
        change += kinetic_energy(jumped.velocities, jumped.masses) - kinetic_energy(ended.velocities, ended.masses)
        self._change = change / (BOLTZMANN * self._kt_of(state))
        self.statistics.record_audit(self._change)
        return pair

    def _segment(self, state: State) -> tuple[State, Any]:
        """Make a classical segment from a state at the present positions; its end without thermostat, and the pair."""
        known = self.known_forces
        forces = None if known is None else torch.from_numpy(known * FORCE)
        ended, pair = self.segments.run(state.replace(forces=forces), self._same.constraints())
        self._write(self._half_step(ended))
        return ended, pair

    def _audited(self) -> bool:
        """Whether the present jump is audited; drawn from a generator of its own, so that jumps stay what they are."""
        return self.phase == JUMPING and float(self.learner.rng.random()) < self.audit_share

    # learning -------------------------------------------------------------------------------------------------------

    def _take(self, pair: Any, examined: bool) -> None:
        """An exam of the model that jumps, and where that is an older one of the newest as well; then learn."""
        kelvin = self._kt_of(self._same.read())
        newest = self.learner.examine(pair, kelvin)
        exam = newest
        if self.phase == JUMPING:
            exam = self.learner.examine(pair, kelvin, self.propagator)
            assert exam is not None and newest is not None  # there are models where there are jumps
            self.present.add(exam)
            self.newest.add(newest)
        if exam is not None and examined:
            self.error.add(exam)
        self.learner.learn(pair)

    def _settle_phase(self) -> None:
        """Begin to jump, renew the model that jumps, go back to learning, or end it: what the exams say."""
        low, high = self.error.interval
        if self.phase == LEARNING:
            if high < self.learning.target:
                self._publish()
                self.phase = JUMPING
        elif self.phase == JUMPING:
            verdict = self.audits.verdict(self._degrees())
            if verdict is not None or (low > self.learning.target and len(self.error) >= FEWEST):
                self._back()
            elif self.learning.freeze_after is not None and self.in_a_row >= self.learning.freeze_after:
                self.freeze()
            elif self.learner.untold >= self.learning.renew:
                if self.newest.value <= self.present.value:
                    self._publish()
                else:  # a bad update jumps with nobody
                    self.learner.untold = 0
        self.atoms.info[PHASE] = self.phase

    def _back(self) -> None:
        self.phase = LEARNING
        self.account.returns += 1
        self.in_a_row = 0
        self.error.clear()  # what comes are segments again
        self.audits = Audits(self.learning.audits)

    def _publish(self, guard: GuardSettings | None = None) -> None:
        """Let a copy of the model jump, with guards that know all pairs so far."""
        self.present.clear()
        self.newest.clear()
        self.propagator = self._published()
        self.use(dataclasses.replace(self.options.guard, audits=0.0) if guard is None else guard)
        self.audit_share = self.account.audited_jumps(self.learning.audits)

    def _published(self) -> Propagator:
        """The model as it is now, with what its file says of its origin and errors."""
        about = {"engine": "ASE", **about_calculator(self.atoms.calc, self.atoms)}
        return self.learner.publish(about, self._metrics())

    def use(self, guard: GuardSettings) -> None:
        """Jump with the propagator there is."""
        statistics = self.statistics
        assert self.propagator is not None  # one was published or loaded
        self._guarded = guarded_step(self.propagator, thermostat=self.thermostat, guard=guard)
        self._guarded.statistics = statistics
        self._guarded.check(self._same.constraints(), bool(self.atoms.pbc.any()))

    def freeze(self) -> None:
        """See :meth:`LearningDynamics.freeze`."""
        if self.phase == FROZEN:
            return
        if self.learner.model is None:
            raise self._no_model("to freeze ")
        if self.phase == LEARNING:
            warnings.warn(
                f"learning ends after {len(self.error)} exams with an error of {self.error.value:.3g} % of the thermal "
                f"velocity, which does not show that it is below the target of {self.learning.target:g} %: run longer, "
                "or look at what the jumps do",
                LearningWarning,
                stacklevel=3,
            )
        self._publish(self.options.guard)
        self.phase = self.atoms.info[PHASE] = FROZEN

    def save_model(self, path: str | Path) -> None:
        """See :meth:`LearningDynamics.save_model`."""
        if self.phase == LEARNING and self.learner.model is not None:
            untold = self.learner.untold
            self._published().save(path)
            self.learner.untold = untold
        elif self.propagator is not None:
            self.propagator.save(path)
        else:
            raise self._no_model()

    def _no_model(self, purpose: str = "") -> ConfigError:
        return ConfigError(
            f"there is no model {purpose}after {len(self.learner.memory)} segments; the first is made after "
            f"{self.learning.first}: run longer"
        )

    def restore(self, guarded: bool, statistics: JumpStatistics, forces: np.ndarray | None) -> None:
        """Last part of a restart: jump with the propagator, count on, and know the forces (N, 3) in eV/Å."""
        self._statistics = statistics
        if guarded:
            frozen = self.phase == FROZEN
            self.use(self.options.guard if frozen else dataclasses.replace(self.options.guard, audits=0.0))
        self._know(forces)
        self.atoms.info[PHASE] = self.phase

    def _metrics(self) -> dict[str, Any]:
        """What the file of a model says of its errors, all on pairs it had not seen."""
        low, high = self.error.interval
        learned = {
            "target": self.learning.target,
            "error": self.error.value,
            "interval": [low, high if math.isfinite(high) else None],
            "exams": len(self.error),
            "pairs": len(self.learner.memory),
            "calls": self.engine.calls,
        }
        known = {} if self.propagator is None else self.propagator.metrics
        return {**(self.error.metrics() or known), "learned": learned}

    # what steps are made of -----------------------------------------------------------------------------------------

    def _forces_now(self) -> np.ndarray:
        """Forces (N, 3) in eV/Å at the present positions."""
        known = self.known_forces
        return known if known is not None else self.engine.forces(self._same.read().positions).numpy() / FORCE

    @property
    def known_forces(self) -> np.ndarray | None:
        """Forces (N, 3) in eV/Å of the last segment, where nobody has moved the atoms since."""
        if self._known is None:
            return None
        positions, cell, forces, calculator = self._known
        same = np.array_equal(positions, self.atoms.positions) and np.array_equal(cell, self.atoms.cell)
        return forces if same and calculator is self.atoms.calc else None

    def _write(self, ended: State) -> None:
        self._same.write(ended)
        self._know(None if ended.forces is None else ended.forces.numpy() / FORCE)

    def _know(self, forces: np.ndarray | None) -> None:
        """Remember forces (N, 3) in eV/Å of the present geometry, or that there are none."""
        atoms, self._known = self.atoms, None
        if forces is not None:
            self._known = atoms.get_positions(), np.array(atoms.cell), forces, atoms.calc

    def _half_step(self, state: State) -> State:
        constraints = self._same.constraints()
        if self.thermostat is None:
            if not constraints:
                return state
            return state.replace(velocities=constraints.project_velocities(state, state.velocities))
        return state.replace(velocities=self.thermostat.half_step(state, self._freedom(state), self.lag, self.rng))

    def _freedom(self, state: State) -> Freedom:
        if self._guarded is not None:
            return self._guarded.freedom(state, self._same.constraints())
        kept = self.thermostat is None or self.thermostat.conserves_momenta
        return Conserve().freedom(state, self._same.constraints(), kept, True)

    def _degrees(self) -> int:
        state = self._same.read()
        return self._freedom(state).degrees(state)

    def _kt_of(self, state: State) -> float:
        """K, that thermal velocities and kT are of; in NVE that of the present motion."""
        if self.thermostat is not None and self.thermostat.temperature > 0:
            return self.thermostat.temperature
        return max(self._freedom(state).temperature(state), 1.0)

    # what it says ---------------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far; segments of the learning phase are none."""
        return self._statistics if self._guarded is None else self._guarded.statistics

    @property
    def saved_calls(self) -> int:
        """Calls of the engine that a classical run of the same time would have made beyond those made."""
        return self.account.steps * self.segments.steps - self.engine.calls

    @property
    def pays_after_ps(self) -> float:
        """Simulated time after which the run, everything counted, is faster than a classical one; inf if never."""
        return self.account.pays_after * self.lag

    @property
    def temperature(self) -> float:
        """K, of the motion that constraints and conserved momenta leave."""
        state = self._same.read()
        return self._freedom(state).temperature(state)
