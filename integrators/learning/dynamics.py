"""ASE molecular dynamics that learns its propagator while it runs: classical segments first, then jumps."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import PICOSECOND, bond_array
from fastegnn_md.engines.ase.calculated import ATTACH
from fastegnn_md.engines.ase.generators import as_generator
from fastegnn_md.errors import CompatibilityError, Remedy
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.propagator.config import PropagatorConfig

from ..arguments import ANEW
from ..ase.base import JumpDynamics, check_atoms
from ..ase.description import described_barostat
from ..ase.volume import AtomsVolume
from ..barostat import MonteCarloBarostat
from ..guards import GuardSettings
from ..statistics import JumpStatistics
from ..thermostats import Thermostat
from .account import Account
from .course import Course
from .exams import RunningError
from .options import Options, guard_of, lag_of, learning_of, model_of, thermostat_of, timestep_of
from .restart import load_run, save_run
from .settings import Learning
from .words import line_of

with naming_extras(__name__):
    from ase import Atoms
    from ase.md.md import MolecularDynamics

_SHARE = 19.0  # times as long as a restart file takes nothing is written


class Paced:
    """Calls a function so seldom that it takes a twentieth of the time."""

    def __init__(self, act: Callable[[], None]):
        self._act = act
        self._due = 0.0

    def __call__(self) -> None:
        """Call it, if it is time."""
        begun = time.monotonic()
        if begun >= self._due:
            self._act()
            now = time.monotonic()
            self._due = now + _SHARE * (now - begun)


class LearningDynamics(JumpDynamics):
    """Molecular dynamics that begins classically, learns a propagator from itself, and jumps once that is good enough.

    Every step advances time by one lag. While *learning* a step is a classical segment, O(Δt/2) V(Δt) O(Δt/2): V are
    small steps of velocity Verlet, O is the thermostat. That is the map a jump stands for, so each segment is a pair to
    learn from; it is first an exam for the model, which has not seen it (test, then train). Once the error on unseen
    segments is below the target the dynamics is *jumping*: guarded jumps, of which some, drawn by chance, are audited
    by the whole classical segment, whose result then counts. Refused and audited jumps are pairs as well; audits out of
    bounds send the run back to learning. :meth:`freeze` ends learning: collect statistics after it.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator. ``atoms.info["phase"]`` says ``"learning"``, ``"jumping"`` or ``"frozen"`` of each frame.
    lag : float or str, optional
        Δt of a jump: ps, or with its unit (``"20 fs"``). Default: that of ``model``.
    timestep : float or str
        Of classical steps: ps, or with its unit.
    model : Propagator, str, Path or PropagatorConfig, optional
        A trained model to go on from, or the configuration of a new one. Default: a new one of kind "force-free", with
        a cutoff of 4.5 Å for periodic atoms.
    temperature_K, friction, thermostat
        As in :class:`~fastegnn_md.integrators.LearnedDynamics`; none of them is NVE.
    barostat : MonteCarloBarostat, optional
        Constant pressure, beside a thermostat: ``MonteCarloBarostat("1 bar")``. Default: constant volume.
    learning : Learning, optional
        Target, training, audits.
    guard : GuardSettings, optional
        Of jumps; its audits begin when learning has ended.
    bonds : array of int, shape (M, 2), optional
        Bonded pairs, for models with bonds and for the bond guard.
    rng, trajectory, logfile, loginterval, restart_file
        As in :class:`~fastegnn_md.integrators.LearnedDynamics`.

    Attributes
    ----------
    course : Course
        What it is made of: engine, learner, segments.
    phase : {"learning", "jumping", "frozen"}
    propagator : Propagator or None
        That jumps; None before there is one.
    account : Account
        Steps of each kind, seconds, the course of the run.
    statistics : JumpStatistics
        Of jumps.
    error : RunningError
        On segments the model had not seen.
    changed : tuple of str
        After :meth:`restart`: the settings that are not those of the interrupted run, in words.

    Raises
    ------
    CompatibilityError
        If there is no calculator, steps do not add up to the lag, or the model does not fit the atoms.
    ConfigError
        If an option is out of range or two exclude each other.
    ConstraintError
        If the atoms have a constraint other than FixAtoms, FixCom and FixBondLengths; beside a barostat all but FixCom.
    """

    course: Course
    restart_file: str | Path
    restart_interval: int

    def __init__(
        self,
        atoms: Atoms,
        lag: float | str | None = None,
        *,
        timestep: float | str = "1 fs",
        model: Propagator | PropagatorConfig | str | Path | None = None,
        temperature_K: float | None = None,
        friction: float | str | None = None,
        thermostat: Thermostat | None = None,
        barostat: MonteCarloBarostat | None = None,
        learning: Learning | None = None,
        guard: GuardSettings | None = None,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
        rng: np.random.Generator | int | None = None,
        trajectory: Any = None,
        logfile: IO[str] | str | Path | None = None,
        loginterval: int = 1,
        restart_file: str | Path | None = None,
    ):
        check_atoms(atoms)
        if atoms.calc is None:
            raise CompatibilityError(Remedy("learning needs forces; ", *ATTACH))
        initial, config = model_of(model, bool(atoms.pbc.any()))
        options = Options(
            lag=lag_of(lag, initial),
            timestep=timestep_of(timestep),
            thermostat=thermostat_of(temperature_K, friction, thermostat),
            learning=learning_of(learning),
            guard=guard_of(guard),
            bonds=None if bonds is None else bond_array(bonds),
            config=config,
            barostat=barostat,
        )
        generator, seed = as_generator(rng)
        self.course, self.changed = Course(atoms, options, initial, generator), ()
        self.log_energy = False
        super().__init__(
            atoms,
            initial,  # type: ignore[arg-type]  # none before one is learned
            rng=generator,
            timestep=options.lag * PICOSECOND,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            restart_file=restart_file,
        )
        self.seed = seed
        self._made = True

    changed: tuple[str, ...]
    _read_once: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            "temperature",
            "temperature_K",
            "friction",
            "thermostat",
            "barostat",
            "dt",
            "timestep",
            "lag",
            "learning",
            "guard",
        ),
        ANEW,
    )

    def step(self) -> None:
        """One segment or one jump, made whole or not at all.

        Raises
        ------
        EngineError, NotFiniteError
            If the calculator fails; atoms and random numbers are as before the step.
        CompatibilityError
            If somebody has made other atoms of them: elements, masses, boundaries.
        TrainingError
            If training goes wrong again and again; the same holds.
        """
        self.course.step()

    def run(self, steps: int = 50, **options: Any) -> bool:
        """Advance time by so many lags; the restart file, where there is one, is then that of the last step."""
        done: bool = super().run(steps, **options)
        if self.restart_file is not None:
            self.save_restart(self.restart_file)
        return done

    def attach_restart(self, restart_file: str | Path, interval: int | None = None) -> None:
        """Save a restart file at the end of each :meth:`run`, and every ``interval`` steps.

        By default every ``loginterval`` steps, but as long as pairs are many so seldom that it costs 5 % of the time.

        Raises
        ------
        ConfigError
            If the interval is no positive number.
        """
        due = Paced(lambda: self.save_restart(restart_file)) if interval is None else None
        every = max(1, self.loginterval) if interval is None else interval
        if due is None:
            super().attach_restart(restart_file, every)
            return
        self.restart_file, self.restart_interval = restart_file, every
        self.attach(due, every)

    def freeze(self) -> None:
        """End learning: the model stays as it is, and refused jumps become segments without being learned.

        Let it jump some hundred times first: guards know the ranges of the pairs so far, and of few pairs these are
        narrow. The guards' own audits begin (:class:`GuardSettings`): at jumps drawn by chance the engine says how the
        total energy changed.

        Raises
        ------
        ConfigError
            If there is no model yet.

        Warns
        -----
        LearningWarning
            If it is not known that its error is below the target.
        """
        self.course.freeze()

    def save_model(self, path: str | Path) -> None:
        """Write the propagator to a file that :func:`fastegnn_md.load` reads; while learning, as it is now.

        Raises
        ------
        ConfigError
            If there is none yet.
        CheckpointError
            If it cannot be written.
        """
        self.course.save_model(path)

    # what it says ---------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """``"learning"``, ``"jumping"`` or ``"frozen"``."""
        return self.course.phase

    @property  # type: ignore[override]  # of other dynamics it is there from the beginning
    def propagator(self) -> Propagator | None:
        """That jumps."""
        return self.course.propagator

    @propagator.setter
    def propagator(self, propagator: Propagator | None) -> None:
        self.course.propagator = propagator

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far; segments of the learning phase are none."""
        return self.course.statistics

    @property
    def account(self) -> Account:
        """Steps of each kind, seconds, the course of the run."""
        return self.course.account

    @property
    def error(self) -> RunningError:
        """On segments the model had not seen."""
        return self.course.error

    @property
    def thermostat(self) -> Thermostat | None:
        """None in NVE."""
        return self.course.thermostat

    @property
    def volume(self) -> AtomsVolume | None:
        """The barostat's moves: ``volume.moves.steps``, and what was tried and accepted; None at constant volume."""
        return self.course.volume

    @property
    def barostat(self) -> MonteCarloBarostat | None:
        """Of constant pressure; None at constant volume."""
        return None if self.volume is None else self.volume.barostat

    @property
    def saved_calls(self) -> int:
        """Calls of the engine that a classical run of the same time would have made beyond those made."""
        return self.course.saved_calls

    @property
    def pays_after_ps(self) -> float:
        """Simulated time after which the run, everything counted, is faster than a classical one; inf if never."""
        return self.course.pays_after_ps

    def report_line(self) -> str:
        """How far the run is, in one line."""
        return line_of(self.course)

    def report(self, path: str | Path) -> None:
        """Write how it went, with pictures, to one HTML file.

        Raises
        ------
        MissingDependencyError
            If the extra ``report`` is not installed.
        """
        from .page import write_page  # matplotlib is slow to import

        write_page(self.course, path)

    def logged_energy(self) -> float:
        """See :class:`JumpDynamics`."""
        return self.atoms.get_potential_energy() if self.log_energy else math.nan

    def get_temperature(self) -> float:
        """Temperature of the atoms in K, without motion that constraints forbid or that is conserved."""
        return self.course.temperature

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        described = MolecularDynamics.todict(self)
        learning = dataclasses.asdict(self.course.learning)
        barostat = described_barostat(self.barostat)
        return {**described, "seed": self.seed, "lag_ps": self.course.lag, "learning": learning, "barostat": barostat}

    # restarts -------------------------------------------------------------------------------------------------------

    def save_restart(self, path: str | Path, notes: dict[str, Any] | None = None) -> None:
        """Write everything :meth:`restart` needs into one file: pairs, weights, optimiser, random numbers, course.

        Raises
        ------
        CheckpointError
            If the file cannot be written; the previous one is untouched.
        """
        save_run(self, path, notes)

    @classmethod
    def restart(  # type: ignore[override]  # the model is in the file, and settings may be changed
        cls,
        path: str | Path,
        atoms: Atoms,
        *,
        trajectory: str | Path | None = None,
        logfile: IO[str] | str | Path | None = None,
        restart_file: str | Path | None = None,
        **changed: Any,
    ) -> Self:
        """Go on where a run was, on the CPU bit for bit.

        Parameters
        ----------
        path : str or Path
            Written by :meth:`save_restart`.
        atoms : ase.Atoms
            The same system in any geometry, with its constraints and calculator. Positions, momenta and cell are set.
        trajectory, logfile : optional
            Those of the interrupted run; a trajectory is cut to what the file knows of, then appended to.
        restart_file : str or Path, optional
            Default: ``path``, if the interrupted run saved it automatically.
        **changed
            ``timestep``, ``temperature_K``, ``friction``, ``thermostat``, ``barostat``, ``learning`` or ``guard``,
            where they are to be others than before. :attr:`changed` says which are.

        Raises
        ------
        CheckpointError
            If the file is truncated or foreign.
        CompatibilityError
            If the atoms or their constraints are others.
        ConfigError
            If a setting cannot be changed.
        """
        made: Self = load_run(cls, path, atoms, trajectory, logfile, restart_file, changed)
        return made
