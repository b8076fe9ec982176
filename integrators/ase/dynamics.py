"""ASE molecular dynamics whose steps are learned jumps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError
from fastegnn_md.mechanics.conservation import EnergyRescale

from ..guards import GuardSettings, JumpStatistics, guard_settings
from ..step import GuardedStep
from ..thermostats import LangevinHalfStep, StochasticVelocityRescaling, Thermostat
from .base import JumpDynamics, check_timestep
from .jump import AtomsJump

with naming_extras(__name__):
    from ase import Atoms, units

if TYPE_CHECKING:
    from fastegnn_md.propagator.committee import Committee
    from fastegnn_md.propagator.full import Propagator


class LearnedDynamics(JumpDynamics):
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
    propagator : Propagator or Committee
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
        Generator or seed. By default a seed is drawn and kept as ``seed``.
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
        After each jump scale velocities towards the total energy before the first one and the heat that a thermostat
        has brought since, by a factor within 0.9 and 1.1
        (:class:`~fastegnn_md.mechanics.conservation.EnergyRescale`). One energy of the calculator per jump. It hides
        where energy leaks from stiff into soft motion: look at the temperature of each element.
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
        Repeats the run as ``rng=``; None where a generator was given.
    rng : numpy.random.Generator

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the system or the time step, or a calculator is needed and missing.
    ConstraintError
        If the atoms have a constraint other than FixAtoms, FixCom and FixBondLengths, or frozen atoms where a momentum
        is to be conserved.
    ConfigError
        If an option is out of range or temperature, friction and taut do not go together.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: Propagator | Committee,
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
        check_timestep(propagator, timestep)
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
        self.temperature_K, self.friction, self.taut, self.log_energy = temperature_K, friction, taut, log_energy
        self.jump = AtomsJump(atoms, self.guarded, bonds, types)
        super().__init__(
            atoms,
            propagator,
            rng=rng,
            timestep=propagator.timestep * PICOSECOND,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            append_trajectory=append_trajectory,
            restart_file=restart_file,
            restart_interval=restart_interval,
        )

    @property
    def statistics(self) -> JumpStatistics:
        """What became of the jumps so far."""
        return self.guarded.statistics

    def get_temperature(self) -> float:
        """Temperature of the atoms in K, without motion that constraints forbid or that is conserved.

        ``atoms.get_temperature()`` counts overall translation and rotation as heat, which they are not in NVE.
        """
        return self.jump.temperature()

    def step(self) -> None:
        """One jump, or what replaces it.

        Raises
        ------
        JumpError
            If a guard refuses the jump and nothing can replace it. Atoms and random numbers are as before the step.
        """
        before = self.jump.before(self.rng)
        try:
            self.jump.step(self.rng)
        except BaseException as error:
            self.jump.undo(before, self.rng)
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
            "fallback": self.guarded.fallback,
        }

    def restart_options(self) -> dict[str, Any]:
        """See :class:`JumpDynamics`."""
        guarded = self.guarded
        return {
            **super().restart_options(),
            "temperature_K": self.temperature_K,
            "friction": self.friction,
            "taut": self.taut,
            "guard": None if guarded.guard is None else dataclasses.asdict(guarded.guard),
            "fallback": guarded.fallback,
            "fallback_timestep": self.fallback_timestep,
            "relax_steps": guarded.relax_steps,
            "conserve_momentum": guarded.momentum,
            "conserve_angular_momentum": guarded.angular_momentum,
            "conserve_energy": guarded.energy is not None,
            "log_energy": self.log_energy,
        }

    @classmethod
    def restart_keywords(cls, options: dict[str, Any]) -> dict[str, Any]:
        """See :class:`JumpDynamics`."""
        guard = options["guard"]
        # Files of format 1 know nothing of angular momentum: their runs did not conserve it.
        older = {"conserve_angular_momentum": False}
        return {**older, **options, "guard": False if guard is None else GuardSettings(**guard)}

    def restart_arrays(self) -> dict[str, np.ndarray | None]:
        """See :class:`JumpDynamics`."""
        energy = self.guarded.energy
        return {
            "bonds": self.jump.bonds,
            "types": self.jump.types,
            "forces": self.jump.known_forces(),
            "energy": None if energy is None or energy.target is None else np.array(energy.target),
        }

    def continue_from(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """See :class:`JumpDynamics`."""
        self.guarded.statistics = JumpStatistics(**header["statistics"])
        if self.guarded.energy is not None and "energy" in arrays:
            self.guarded.energy.target = arrays["energy"].item()
        if "forces" in arrays:
            self.jump.remember_forces(arrays["forces"])

    def _refresh_properties(self) -> None:
        super()._refresh_properties()
        if self.log_energy:
            self.jump.forces()
            self.atoms.get_potential_energy()

    def logged_energy(self) -> float:
        """See :class:`JumpDynamics`."""
        return self.atoms.get_potential_energy() if self.log_energy else float("nan")


def _thermostat(
    propagator: Propagator | Committee, temperature_K: float | None, friction: float | None, taut: float | None
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
