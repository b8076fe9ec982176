"""ASE molecular dynamics whose steps are learned jumps, or classical steps and learned jumps in turn."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import PICOSECOND, unchanged_on_error
from fastegnn_md.engines.ase.calculated import ATTACH, checked_calculator, energy_of
from fastegnn_md.errors import CompatibilityError, JumpError, Remedy
from fastegnn_md.propagator.learned_map import LearnedMap

from ..arguments import ANEW, TIMESTEP, propagator_of
from ..barostat import MonteCarloBarostat
from ..conserve import Conserve
from ..guards import GuardSettings
from ..heat import change_friction, change_temperature
from ..options import guarded_step
from ..schedule import Schedule, schedule_of
from ..statistics import JumpStatistics
from ..step import GuardedStep
from ..thermostats import Thermostat
from .base import JumpDynamics, check_atoms
from .classical import bath_of, change_engine, check_classical, check_engine, random_state, restore_random_state
from .description import from_json, to_json
from .jump import AtomsJump
from .volume import AtomsVolume, check_bath

with naming_extras(__name__):
    from ase import Atoms


class LearnedDynamics(JumpDynamics):
    """Molecular dynamics by learned jumps, alone or in turn with classical steps.

    A jump is O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the propagator, O a thermostat, absent in NVE. Ψ is followed by conservation of
    linear and angular momentum (where physics has them), by projection onto constraints, and by guards. A jump that a
    guard refuses is never written to the atoms: what follows is the schedule's business, by default classical sub-steps
    in its place.

    A stochastic Ψ (kind "flow") has no thermostat: after each draw velocities are those of a temperature, and some
    steps of Langevin dynamics follow that count as time. A refused jump is drawn anew first (``Schedule(redraws=…)``).

    The calculator of the atoms is called once per jump by force-informed propagators, for classical steps, for audits
    (``GuardSettings(audits=…)``), by a barostat, and where :attr:`log_energy` asks for it; never otherwise.

    Steps of both kinds count one: with a schedule of both, time does not grow evenly with their number.

    Parameters
    ----------
    atoms : ase.Atoms
    propagator : LearnedMap, str or Path
        A :class:`~fastegnn_md.Propagator` or a :class:`~fastegnn_md.Committee`, or the name or file of a model. It has
        one time step of its own.
    temperature_K : float, optional
        Of a Langevin thermostat, with ``friction``; alone, of the velocities that a propagator redraws.
    friction : float, optional
        Of the Langevin thermostat in 1/(ASE time), as in ``ase.md.langevin``: ``0.01 / ase.units.fs`` is 10/ps; or
        with its unit, ``"10/ps"``.
    thermostat : Thermostat, optional
        In place of the two: :class:`~fastegnn_md.integrators.Langevin` or
        :class:`~fastegnn_md.integrators.VelocityRescaling`. None of them is NVE.
    barostat : MonteCarloBarostat, optional
        Constant pressure, beside a thermostat: ``MonteCarloBarostat("1 bar")``. Default: constant volume.
    schedule : Schedule, optional
        Classical steps between jumps, and what follows a refused jump. Default: jumps alone. Classical steps are
        velocity Verlet with the thermostat around each, or those of an ASE dynamics for the same atoms
        (``Schedule(5, 1, classical=dynamics)``), of which only ``step`` is called.
    guard : bool or GuardSettings
        Hold jumps against the ranges of training. With False only values that are not finite are refused.
    conserve : Conserve, optional
        Momenta and energy. Default: the momenta that physics conserves.
    bonds : array of int, shape (M, 2), optional
        Bonded pairs, for propagators trained with bonds and for the bond guard.
    rng : numpy.random.Generator or int, optional
        Generator or seed. By default a seed is drawn and kept as ``seed``.
    trajectory, logfile, loginterval
        As in every ASE dynamics; to append to a trajectory give one that is open for it. To continue a run use
        :meth:`restart`.
    restart_file : str or Path, optional
        Written by :meth:`save_restart` every ``loginterval`` steps (:meth:`attach_restart` takes another interval).

    Attributes
    ----------
    statistics : JumpStatistics
    volume : AtomsVolume or None
        The barostat's moves: ``volume.moves.steps``, and what was tried and accepted.
    schedule : Schedule
    seed : int or None
        Repeats the run as ``rng=``; None where a generator was given.
    rng : numpy.random.Generator
    log_energy : bool
        Evaluate the calculator after each step, so that logfile and trajectory hold energies; else they hold nan.
        False; may be set before a run.

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the system, a calculator is needed and missing, steps of a classical dynamics do
        not add up to a jump, or a barostat is given for atoms that are not periodic.
    ConstraintError
        If the atoms have a constraint other than FixAtoms, FixCom and FixBondLengths, or frozen atoms where a momentum
        is to be conserved; beside a barostat all but FixCom.
    ConfigError
        If an option is out of range, two exclude each other, or the classical dynamics is for other atoms or of a kind
        that cannot be interleaved, or a barostat has no thermostat.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: LearnedMap | str | Path,
        *misplaced: Any,
        temperature_K: float | None = None,
        friction: float | str | None = None,
        thermostat: Thermostat | None = None,
        barostat: MonteCarloBarostat | None = None,
        schedule: Schedule | None = None,
        guard: bool | GuardSettings = True,
        conserve: Conserve | None = None,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
        rng: np.random.Generator | int | None = None,
        trajectory: Any = None,
        logfile: IO[str] | str | Path | None = None,
        loginterval: int = 1,
        restart_file: str | Path | None = None,
    ):
        propagator = propagator_of(propagator, "LearnedDynamics(atoms, propagator, temperature_K=…, …)", misplaced)
        check_atoms(atoms)
        self.schedule: Schedule = schedule_of(schedule)
        self.classical: Any = self.schedule.engine
        bath = None
        if self.classical is not None:
            check_classical(self.classical, atoms)
            bath = bath_of(self.classical)
        self.guarded: GuardedStep = guarded_step(
            propagator,
            thermostat=thermostat,
            temperature=temperature_K,
            friction=friction * PICOSECOND if isinstance(friction, Real) else friction,
            schedule=self.schedule,
            guard=guard,
            conserve=conserve,
            bath=bath,
        )
        if self.schedule.hybrid and atoms.calc is None:
            raise CompatibilityError(Remedy("classical steps need forces; ", *ATTACH))
        self.log_energy = False
        self.volume: AtomsVolume | None = None if barostat is None else AtomsVolume(atoms, barostat)
        if self.volume is not None:
            check_bath(self.guarded.bath_temperature, self.classical)
        self.jump: AtomsJump = AtomsJump(atoms, self.guarded, bonds)
        self._replacement = 0 if bath is None else self.schedule.replacement_steps(self.guarded.timestep, bath.timestep)
        self._pending, self._time = 0, 0.0
        assert self.guarded.substep is not None  # set when it was made
        super().__init__(
            atoms,
            propagator,
            rng=rng,
            timestep=(self.guarded.substep if self.schedule.hybrid else self.guarded.timestep) * PICOSECOND,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            restart_file=restart_file,
        )
        self._made = True

    @property
    def temperature_K(self) -> float | None:
        """Temperature of the heat bath in K, None in NVE; may be assigned."""
        self.follow_thermostat()
        return self.guarded.temperature

    @temperature_K.setter
    def temperature_K(self, kelvin: float) -> None:
        self.set_temperature(temperature_K=kelvin)

    @property
    def thermostat(self) -> Thermostat | None:
        """Thermostat of the jumps, None in NVE."""
        self.follow_thermostat()
        return self.guarded.thermostat

    @property
    def barostat(self) -> MonteCarloBarostat | None:
        """Of constant pressure; None at constant volume."""
        return None if self.volume is None else self.volume.barostat

    def set_temperature(self, temperature_K: float) -> None:
        """Another temperature (K) from the next step on, of jumps, classical steps and volumes.

        Raises
        ------
        ConfigError
            If it is no number >= 0, there is no heat bath (NVE), or the classical steps are those of a dynamics whose
            temperature cannot be set here.
        """
        check_engine(self.classical)
        change_temperature(self.guarded, temperature_K)
        change_engine(self.classical, temperature_K=self.guarded.temperature)

    def set_friction(self, friction: Any) -> None:
        """Another friction from the next step on: 1/(ASE time), or with its unit (``"10/ps"``).

        Raises
        ------
        ConfigError
            If it is no number >= 0, or the thermostat is not Langevin.
        """
        change_friction(self.guarded, friction * PICOSECOND if isinstance(friction, Real) else friction)
        change_engine(self.classical, friction=self.guarded.thermostat)

    def follow_thermostat(self) -> None:
        """Take over a temperature or friction that was changed on the dynamics of the classical steps (annealing)."""
        bath = None if self.classical is None else bath_of(self.classical)
        if bath is not None and bath.thermostat is not None and self.guarded.thermostat is not None:
            self.guarded.thermostat, self.guarded.temperature = bath.thermostat, bath.temperature

    _read_once: ClassVar[dict[str, str]] = {
        "temperature": "assign temperature_K",
        "friction": "call set_friction",
        "thermostat": "call set_temperature or set_friction, or make a new one",
        "barostat": ANEW,
        "dt": TIMESTEP,
        "timestep": TIMESTEP,
        **dict.fromkeys(("propagator", "schedule", "guard", "conserve", "bonds", "classical"), ANEW),
    }

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far."""
        return self.guarded.statistics

    @property
    def jumps_next(self) -> bool:
        """Whether the next step is a jump, and no classical step."""
        return not (self.schedule.hybrid and self.schedule.classical_steps_due(self.nsteps, self._pending))

    def get_time(self) -> float:
        """Time simulated, in ASE time units."""
        return self._time if self.schedule.hybrid else super().get_time()

    def get_temperature(self) -> float:
        """Temperature of the atoms in K, without motion that constraints forbid or that is conserved.

        ``atoms.get_temperature()`` counts overall translation and rotation as heat, which they are not in NVE.
        """
        return self.jump.temperature()

    def step(self) -> None:
        """One jump, or what replaces it; or one classical step. Whatever fails, a step is made whole or not at all.

        Raises
        ------
        JumpError
            If a guard refuses the jump and nothing can replace it. Atoms and random numbers are as before the step.
        EngineError
            If the calculator fails, with atoms and random numbers as before the step.
        NotFiniteError
            If it answers forces that are not finite in a classical step; atoms and random numbers as above.
        """
        self.follow_thermostat()
        before, own, place = self.jump.before(self.rng), random_state(self.classical), (self._pending, self._time)
        moves = None if self.volume is None else self.volume.moves.place()
        try:
            with unchanged_on_error(self.atoms):
                self._step()
                if self.volume is not None and self.volume.barostat.due(self.nsteps + 1):
                    self._move_volume(self.volume)
        except BaseException as error:
            self.jump.undo(before, self.rng)
            restore_random_state(self.classical, own)
            self._pending, self._time = place
            if self.volume is not None:
                self.volume.moves.take(moves)
            if isinstance(error, JumpError):
                raise JumpError(Remedy.after(f"step {self.nsteps + 1}: ", error), error.atom) from error
            raise

    def _step(self) -> None:
        if not self.jumps_next:
            self._classical_step()
            self._pending = max(0, self._pending - 1)
        elif self.schedule.adaptive or self.classical is not None:
            self._jump_or_engine()
        else:
            self.jump.step(self.rng)
            self._time += self.guarded.timestep * PICOSECOND

    def _jump_or_engine(self) -> None:
        """A jump; where it is refused, steps of the classical dynamics now or, in an adaptive schedule, next."""
        report = self.jump.attempt(self.rng)
        self.guarded.record(report)
        if report.ok:
            self._time += self.guarded.timestep * PICOSECOND
        elif self.schedule.adaptive:
            self._pending = self.schedule.classical_steps
            self._step()
        elif self.schedule.fallback == "stop":
            raise self.jump.refusal(report, "with fallback='classical' classical steps would replace it")
        else:
            for _ in range(self._replacement):
                self._classical_step()
            self.statistics.fallback_steps += self._replacement

    def _move_volume(self, volume: AtomsVolume) -> None:
        """Try another volume, and warn where it is none of training."""
        change = volume.attempt(self.guarded.bath_temperature or 0.0, self.rng)
        if change is not None:
            self.jump.take_energy(change)
            volume.warn_outside(self.propagator.provenance)
        self.statistics.volume_moves += 1
        self.statistics.volume_accepted += change is not None

    def _classical_step(self) -> None:
        if self.classical is None:
            self.jump.classical_step(self.rng)
        else:
            with checked_calculator(self.atoms):
                self.classical.step()
        self._time += self.dt if self.classical is None else self.classical.dt

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        described = to_json(self.guarded, self.schedule, self.barostat)
        if self.classical is not None:
            described["classical"] = self.classical.todict()
        return {**super().todict(), **described}

    def restart_options(self) -> dict[str, Any]:
        """See :class:`JumpDynamics`."""
        described = to_json(self.guarded, self.schedule, self.barostat)
        return {**super().restart_options(), **described, "log_energy": self.log_energy}

    @classmethod
    def from_restart(cls, atoms: Atoms, propagator: LearnedMap, options: dict[str, Any], **keywords: Any) -> Any:
        """See :class:`JumpDynamics`."""
        dynamics = cls(atoms, propagator, **from_json(options, keywords.pop("classical")), **keywords)
        dynamics.log_energy = options["log_energy"]
        return dynamics

    def restart_arrays(self) -> dict[str, np.ndarray | None]:
        """See :class:`JumpDynamics`."""
        energy = self.guarded.energy
        return {
            "bonds": self.jump.bonds,
            "forces": self.jump.known_forces(),
            "energy": None if energy is None or energy.target is None else np.array(energy.target),
        }

    def restart_place(self) -> dict[str, Any]:
        """See :class:`JumpDynamics`."""
        bath = None if self.classical is None else bath_of(self.classical).temperature
        return {
            "time": self._time,
            "pending": self._pending,
            "classical_rng": random_state(self.classical),
            "classical_temperature_K": bath,  # annealed, maybe
            "barostat": None if self.volume is None else self.volume.moves.place(),
        }

    def continue_from(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """See :class:`JumpDynamics`."""
        self.guarded.statistics = JumpStatistics(**header["statistics"])
        place = header.get("place", {})
        self._time, self._pending = place.get("time", 0.0), place.get("pending", 0)
        restore_random_state(self.classical, place.get("classical_rng"))
        if self.volume is not None:
            self.volume.moves.take(place.get("barostat"))
        if self.classical is not None and place.get("classical_temperature_K") is not None:
            change_engine(self.classical, temperature_K=place["classical_temperature_K"])
        if self.guarded.energy is not None and "energy" in arrays:
            self.guarded.energy.target = arrays["energy"].item()
        if "forces" in arrays:
            self.jump.remember_forces(arrays["forces"])

    def _refresh_properties(self) -> None:
        super()._refresh_properties()
        if self.log_energy:
            if self.atoms.calc is None:
                raise CompatibilityError(Remedy("log_energy=True needs a calculator; ", *ATTACH))
            self.jump.forces()
            energy_of(self.atoms)

    def logged_energy(self) -> float:
        """See :class:`JumpDynamics`."""
        return energy_of(self.atoms) if self.log_energy else float("nan")
