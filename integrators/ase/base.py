"""What all dynamics of ASE that jump share: random numbers, log lines, restart files."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md._random import as_generator
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.errors import CompatibilityError, ConfigError

with naming_extras(__name__):
    from ase import Atoms, units
    from ase.md.logger import MDLogger
    from ase.md.md import MolecularDynamics

if TYPE_CHECKING:
    from fastegnn_md.propagator.committee import Committee
    from fastegnn_md.propagator.full import Propagator


class JumpDynamics(MolecularDynamics):
    """Base of dynamics that jump.

    A subclass keeps a dataclass :attr:`statistics` and adds what a restart needs beyond positions, momenta and random
    numbers: :meth:`restart_options`, :meth:`restart_arrays` and :meth:`continue_from`.

    Parameters
    ----------
    atoms : ase.Atoms
    propagator : Propagator or Committee
    rng : numpy.random.Generator or int, optional
        Generator or seed. By default a seed is drawn and kept as ``seed``.
    timestep : float
        Of a step, in ASE time units.
    trajectory, logfile, loginterval, append_trajectory
        As in every ASE dynamics.
    restart_file : str or Path, optional
        Written every ``restart_interval`` steps.
    restart_interval : int, optional
        Default ``loginterval``.

    Raises
    ------
    ConfigError
        If ``rng`` or the interval is none.
    """

    def __init__(
        self,
        atoms: Atoms,
        propagator: Propagator | Committee,
        *,
        rng: np.random.Generator | int | None,
        timestep: float,
        trajectory: Any,
        logfile: IO | str | Path | None,
        loginterval: int,
        append_trajectory: bool,
        restart_file: str | Path | None,
        restart_interval: int | None,
    ):
        self.propagator, self.loginterval, self.restart_file = propagator, loginterval, restart_file
        self.restart_interval = max(1, loginterval) if restart_interval is None else restart_interval
        if self.restart_interval < 1:
            raise ConfigError(f"restart_interval is {self.restart_interval}; expected a number of steps >= 1")
        self.begun = False  # whether observers have seen step 0
        self.rng, self.seed = as_generator(rng)
        # Only now: the base class removes an earlier trajectory of that name.
        super().__init__(
            atoms,
            timestep,
            trajectory=trajectory,
            loginterval=loginterval,
            append_trajectory=append_trajectory,
        )
        if logfile:
            self.attach_logfile(logfile)
        if restart_file is not None:
            self.attach_restart(restart_file)

    @property
    def statistics(self) -> Any:
        """What became of the jumps so far, a dataclass."""
        raise NotImplementedError

    def logged_energy(self) -> float:
        """Potential energy for a line of the log, eV; nan if nobody asked for it."""
        raise NotImplementedError

    def restart_options(self) -> dict[str, Any]:
        """Options of the constructor, as JSON can hold them."""
        return {"loginterval": self.loginterval, "restart_interval": self.restart_interval}

    @classmethod
    def restart_keywords(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Options of the constructor from what :meth:`restart_options` gave."""
        return dict(options)

    def restart_arrays(self) -> dict[str, np.ndarray | None]:
        """``bonds`` and ``types`` as the constructor takes them, and whatever :meth:`continue_from` wants to find."""
        raise NotImplementedError

    def continue_from(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take over the statistics of a restart header, and arrays."""
        raise NotImplementedError

    def get_temperature(self) -> float:
        """Temperature of the atoms in K."""
        return self.atoms.get_temperature()

    def todict(self) -> dict[str, Any]:
        """Description for trajectory headers."""
        return {**super().todict(), "seed": self.seed, "training-data": self.propagator.fingerprint}

    def attach_logfile(self, logfile: IO | str | Path, header: bool = True) -> None:
        """Write time, energies and temperature to a file (or ``"-"``) every ``loginterval`` steps."""
        target = str(logfile) if isinstance(logfile, Path) else logfile
        self.attach(self.closelater(JumpLogger(self, self.atoms, target, header=header)), self.loginterval)

    def attach_restart(self, restart_file: str | Path) -> None:
        """Save a restart file every ``restart_interval`` steps."""
        self.restart_file = restart_file
        self.attach(self.save_restart, self.restart_interval, restart_file)

    def save_restart(self, path: str | Path) -> None:
        """Write everything :meth:`restart` needs; the previous file survives a full disk.

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        from .restart import save

        save(self, path)

    @classmethod
    def restart(
        cls,
        path: str | Path,
        atoms: Atoms,
        propagator: Propagator | Committee,
        *,
        trajectory: str | Path | None = None,
        logfile: IO | str | Path | None = None,
        restart_file: str | Path | None = None,
    ) -> Self:
        """Continue a simulation as if it had never stopped (bit for bit on the CPU).

        Steps, time, random numbers and options continue; a trajectory is appended to without a frame given twice, and
        frames written after the restart file (by a run that was killed) are removed first. Lines of a log are not.

        Parameters
        ----------
        path : str or Path
            Written by :meth:`save_restart`.
        atoms : ase.Atoms
            The same system in any geometry, with its constraints and calculator. Positions, momenta and cell are set.
        propagator : Propagator or Committee
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
        from .restart import resume

        return resume(cls, path, atoms, propagator, trajectory, logfile, restart_file)

    def _refresh_properties(self) -> None:
        # The base class would call the calculator after every step, whoever needs the result.
        self.begun = True


class JumpLogger(MDLogger):
    """ASE's log lines, with nan for a potential energy that nobody asked to be computed."""

    def _potential_energy(self) -> float:
        return float("nan") if self.dyn is None else self.dyn.logged_energy()


def check_timestep(propagator: Propagator | Committee, timestep: float | None) -> None:
    """Refuse a time step (ASE units) that is not the propagator's; raises CompatibilityError."""
    learned = propagator.timestep * PICOSECOND
    if timestep is not None and abs(timestep - learned) > 1e-6 * learned:
        raise CompatibilityError(
            f"timestep is {timestep / units.fs:g} fs but this propagator advances by {learned / units.fs:g} fs; "
            "leave timestep out, or load a propagator trained for it (ASE time steps are given as 8 * ase.units.fs)"
        )
