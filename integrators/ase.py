"""ASE molecular dynamics whose steps are learned jumps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastegnn_md.engines.ase_atoms import PICOSECOND
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError
from fastegnn_md.jump import as_generator
from fastegnn_md.optional import naming_extras

from .ase_jump import AtomsJump
from .conservation import EnergyRescale
from .guarded import GuardedStep, JumpStatistics
from .guards import GuardSettings, guard_settings
from .thermostats import LangevinHalfStep, StochasticVelocityRescaling, Thermostat

with naming_extras(__name__):
    from ase import Atoms, units
    from ase.md.logger import MDLogger
    from ase.md.md import MolecularDynamics

if TYPE_CHECKING:
    from fastegnn_md.propagator import Propagator


class LearnedDynamics(MolecularDynamics):
    """Molecular dynamics by learned jumps: NVE, or NVT with half steps of a thermostat around each jump.

    One step is O(Δt/2) Ψ(Δt) O(Δt/2): Ψ the propagator, O the exact Ornstein-Uhlenbeck process (``friction``) or
    stochastic velocity rescaling (``taut``), absent without them. Ψ is followed by conservation of linear and angular
    momentum (where physics has them), by projection onto constraints, and by guards. A jump that a guard refuses is
    never written to the atoms: classical sub-steps take its place, or :class:`~fastegnn_md.errors.JumpError` stops the
    run with the atoms as they were before the step.

    The calculator of the atoms is called once per jump by force-informed propagators, for classical sub-steps, and
    where ``log_energy`` asks for it; never otherwise.

    Parameters
    ----------
    atoms : ase.Atoms
    propagator : Propagator
    timestep : float, optional
        ASE time units. A propagator has one time step; giving it checks it.
    temperature_K : float, optional
        Of the thermostat, or of redrawn velocities (position-only propagators).
    friction : float, optional
        Of the Langevin thermostat in 1/(ASE time), as in ``ase.md.langevin``: ``0.01 / ase.units.fs`` is 10/ps.
    taut : float, optional
        Of stochastic velocity rescaling in ASE time units, as in ``ase.md.bussi``: the time in which the kinetic energy
        relaxes. Neither is NVE.
    rng : numpy.random.Generator or int, optional
        Generator or seed. By default a seed is drawn, printed if random numbers are needed, and kept as ``seed``.
    bonds : array of int, shape (M, 2), optional
        Bonded pairs, for propagators trained with bonds and for the bond guard.
    types : array of int, shape (N,), optional
        Topology types.
    guard : bool or GuardSettings
        Hold jumps against the ranges of training. With False only values that are not finite are refused.
    fallback : {"classical", "stop"}
        What replaces a refused jump: velocity Verlet with the calculator of the atoms (``JumpError`` if there is
        none), or ``JumpError`` at once.
    fallback_timestep : float, optional
        Sub-step of velocity Verlet in ASE time units, by default 0.5 fs; rounded so that Δt is a multiple.
    relax_steps : int
        Sub-steps of velocity Verlet after each jump of a position-only propagator. Not counted as time.
    conserve_momentum : bool, optional
        Keep total momentum and the drift of the centre of mass exactly. By default without friction and frozen atoms,
        unless the propagator learned that momentum is not conserved.
    conserve_angular_momentum : bool, optional
        Keep the angular momentum about the centre of mass exactly. By default where momentum is, if no direction is
        periodic. Atoms in a field need False.
    conserve_energy : bool
        NVE only: after each jump scale velocities towards the total energy before the first one, by a factor within
        0.9 and 1.1 (:class:`~fastegnn_md.integrators.conservation.EnergyRescale`). One energy of the calculator per
        jump. It hides where energy leaks from stiff into soft motion: look at the temperature of each element.
    log_energy : bool
        Evaluate the calculator after each step, so that logfile and trajectory hold energies; else they hold nan.
    trajectory, logfile, loginterval, append_trajectory
        As in every ASE dynamics. To continue a run use :meth:`restart`.
    restart_file : str or Path, optional
        Written by :meth:`save_restart` every ``restart_interval`` steps.
    restart_interval : int, optional
        Default ``loginterval`` where a ``restart_file`` is given.

    Attributes
    ----------
    statistics : JumpStatistics
    seed : int or None
    rng : numpy.random.Generator

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the system or the time step, or a calculator is needed and missing.
    ConstraintError
        If the atoms have a constraint other than FixAtoms, FixCom and FixBondLengths, or frozen atoms where a momentum
        is to be conserved.
    ConfigError
        If an option is out of range or temperature, friction, taut and conserve_energy do not go together.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: Propagator,
        timestep: float | None = None,
        *,
        temperature_K: float | None = None,
        friction: float | None = None,
        taut: float | None = None,
        rng: np.random.Generator | int | None = None,
        bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
        types: Sequence[int] | np.ndarray | None = None,
        guard: bool | GuardSettings = True,
        fallback: str = "classical",
        fallback_timestep: float | None = None,
        relax_steps: int = 0,
        conserve_momentum: bool | None = None,
        conserve_angular_momentum: bool | None = None,
        conserve_energy: bool = False,
        log_energy: bool = False,
        trajectory: Any = None,
        logfile: IO | str | Path | None = None,
        loginterval: int = 1,
        append_trajectory: bool = False,
        restart_file: str | Path | None = None,
        restart_interval: int | None = None,
    ):
        _check_timestep(propagator, timestep)
        thermostat = _thermostat(propagator, temperature_K, friction, taut)
        if log_energy and atoms.calc is None:
            raise CompatibilityError("log_energy=True needs a calculator; attach one: atoms.calc = ...")
        self.fallback_timestep = 0.5 * units.fs if fallback_timestep is None else fallback_timestep
        self.guarded = GuardedStep(
            propagator,
            thermostat=thermostat,
            temperature=temperature_K,
            guard=guard_settings(guard),
            fallback=fallback,
            substep=self.fallback_timestep / PICOSECOND,
            relax_steps=relax_steps,
            momentum=conserve_momentum,
            angular_momentum=conserve_angular_momentum,
            energy=EnergyRescale() if conserve_energy else None,
        )
        self.propagator = propagator
        self.temperature_K, self.friction, self.taut, self.log_energy = temperature_K, friction, taut, log_energy
        self.loginterval, self.restart_file = loginterval, restart_file
        self.restart_interval = max(1, loginterval) if restart_interval is None else restart_interval
        if self.restart_interval < 1:
            raise ConfigError(f"restart_interval is {self.restart_interval}; expected a number of steps >= 1")
        self.begun = False  # whether observers have seen step 0
        self.jump = AtomsJump(atoms, self.guarded, bonds, types)
        self.rng, self.seed = as_generator(rng)
        if rng is None and (thermostat is not None or not propagator.predicts_velocities):
            print(f"LearnedDynamics: random seed {self.seed}")
        # Only now: the base class removes an earlier trajectory of that name.
        super().__init__(
            atoms,
            propagator.timestep * PICOSECOND,
            trajectory=trajectory,
            loginterval=loginterval,
            append_trajectory=append_trajectory,
        )
        if logfile:
            self.attach_logfile(logfile)
        if restart_file is not None:
            self.attach_restart(restart_file)

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far."""
        return self.guarded.statistics

    def get_temperature(self) -> float:
        """Temperature of the atoms in K, without motion that constraints forbid or that is conserved.

        ``atoms.get_temperature()`` counts overall translation and rotation as heat, which they are not in NVE.
        """
        return self.jump.temperature()

    def attach_logfile(self, logfile: IO | str | Path, header: bool = True) -> None:
        """Write time, energies and temperature to a file (or ``"-"``) every ``loginterval`` steps."""
        target = str(logfile) if isinstance(logfile, Path) else logfile
        self.attach(self.closelater(JumpLogger(self, self.atoms, target, header=header)), self.loginterval)

    def attach_restart(self, restart_file: str | Path) -> None:
        """Save a restart file every ``restart_interval`` steps."""
        self.restart_file = restart_file
        self.attach(self.save_restart, self.restart_interval, restart_file)

    def step(self) -> None:
        """One jump, or what replaces it.

        Raises
        ------
        JumpError
            If a guard refuses the jump and nothing can replace it. Atoms and random numbers are as before the step.
        """
        waiting = self.jump.waiting
        drawn = self.rng.bit_generator.state if waiting is None else waiting.drawn
        try:
            self.jump.step(self.rng)
        except BaseException as error:
            self.rng.bit_generator.state = drawn
            if isinstance(error, JumpError):
                raise JumpError(f"step {self.nsteps + 1}: {error}", error.atom) from error
            raise

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        return {
            **super().todict(),
            "temperature_K": self.temperature_K,
            "friction": self.friction,
            "taut": self.taut,
            "conserve_momentum": self.guarded.momentum,
            "conserve_angular_momentum": self.guarded.angular_momentum,
            "conserve_energy": self.guarded.energy is not None,
            "seed": self.seed,
            "fallback": self.guarded.fallback,
            "training-data": self.propagator.fingerprint,
        }

    def save_restart(self, path: str | Path) -> None:
        """Write everything :meth:`restart` needs; the previous file survives a full disk.

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        from .ase_restart import save

        save(self, path)

    @classmethod
    def restart(
        cls,
        path: str | Path,
        atoms: Atoms,
        propagator: Propagator,
        *,
        trajectory: str | Path | None = None,
        logfile: IO | str | Path | None = None,
        restart_file: str | Path | None = None,
    ) -> LearnedDynamics:
        """Continue a simulation as if it had never stopped (bit for bit on the CPU).

        Steps, time, random numbers and options continue; a trajectory is appended to without a frame given twice, and
        frames written after the restart file (by a run that was killed) are removed first. Lines of a log are not.

        Parameters
        ----------
        path : str or Path
            Written by :meth:`save_restart`.
        atoms : ase.Atoms
            The same system in any geometry, with its constraints and calculator. Positions, momenta and cell are set.
        propagator : Propagator
            The same.
        trajectory, logfile : optional
            Those of the interrupted run, or None.
        restart_file : str or Path, optional
            Where to save further restarts; default ``path`` if the interrupted run saved them automatically.

        Raises
        ------
        CheckpointError
            If the file is truncated or foreign, or the trajectory has fewer frames than it should.
        CompatibilityError
            If atoms, constraints or propagator are others.
        """
        from .ase_restart import resume

        return resume(cls, path, atoms, propagator, trajectory, logfile, restart_file)

    def _refresh_properties(self) -> None:
        # The base class would call the calculator after every step, whoever needs the result.
        self.begun = True
        if self.log_energy:
            self.jump.forces()
            self.atoms.get_potential_energy()


class JumpLogger(MDLogger):
    """ASE's log lines, with nan for a potential energy that nobody asked to be computed."""

    def _potential_energy(self) -> float:
        wanted = self.dyn is not None and self.dyn.log_energy
        return self.atoms.get_potential_energy() if wanted else float("nan")


def _check_timestep(propagator: Propagator, timestep: float | None) -> None:
    learned = propagator.timestep * PICOSECOND
    if timestep is not None and abs(timestep - learned) > 1e-6 * learned:
        raise CompatibilityError(
            f"timestep is {timestep / units.fs:g} fs but this propagator advances by {learned / units.fs:g} fs; "
            "leave timestep out, or load a propagator trained for it (ASE time steps are given as 8 * ase.units.fs)"
        )


def _thermostat(
    propagator: Propagator, temperature_K: float | None, friction: float | None, taut: float | None
) -> Thermostat | None:
    if friction is not None and taut is not None:
        raise ConfigError("friction and taut are of two thermostats; give friction for Langevin dynamics, or taut")
    if temperature_K is None:
        if not propagator.predicts_velocities:
            raise ConfigError("this propagator predicts positions only and redraws velocities: give temperature_K")
        for name, value in (("friction", friction), ("taut", taut)):
            if value is not None:
                raise ConfigError(f"{name} without temperature_K; give both for NVT, neither for NVE")
        return None
    if taut is not None and not propagator.predicts_velocities:
        raise ConfigError("a position-only propagator redraws velocities at each jump; leave taut out")
    if friction is not None:
        return LangevinHalfStep(temperature_K, friction * PICOSECOND, propagator.timestep)
    if taut is not None:
        return StochasticVelocityRescaling(temperature_K, taut / PICOSECOND, propagator.timestep)
    if propagator.predicts_velocities:
        raise ConfigError("temperature_K without friction or taut; give one of them for NVT, neither for NVE")
    return None
