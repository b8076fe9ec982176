"""What all dynamics of ASE that jump share: random numbers, log lines, restart files."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.ase.generators import as_generator
from fastegnn_md.errors import ConfigError
from fastegnn_md.propagator.learned_map import LearnedMap

with naming_extras(__name__):
    from ase import Atoms
    from ase.md.logger import MDLogger
    from ase.md.md import MolecularDynamics

from ..arguments import ReadOnce
from .restart import resume, save


def check_atoms(atoms: Any) -> None:
    """Refuse what is no Atoms object; raises ConfigError."""
    if not isinstance(atoms, Atoms):
        raise ConfigError(f"atoms is a {type(atoms).__name__}; expected an ase.Atoms object")


class JumpDynamics(ReadOnce, MolecularDynamics):
    """Base of dynamics that jump.

    A subclass keeps a dataclass :attr:`statistics` and adds what a restart needs beyond positions, momenta and random
    numbers: :meth:`restart_options`, :meth:`restart_arrays`, :meth:`restart_place`, and what takes them up again,
    :meth:`from_restart` and :meth:`continue_from`.

    Parameters
    ----------
    atoms : ase.Atoms
    propagator : LearnedMap
    rng : numpy.random.Generator or int, optional
        Generator or seed; a seed is drawn by default and kept as ``seed``.
    timestep : float
        Of a step, in ASE time units.
    trajectory, logfile, loginterval
        As in every ASE dynamics.
    restart_file : str or Path, optional
        Written every ``loginterval`` steps; :meth:`attach_restart` takes another interval.

    Raises
    ------
    ConfigError
        If ``rng`` or the interval is none.
    """

    propagator: LearnedMap
    loginterval: int
    rng: np.random.Generator
    seed: int | None
    restart_interval: int
    trajectory: Path

    def __init__(
        self,
        atoms: Atoms,
        propagator: LearnedMap,
        *,
        rng: np.random.Generator | int | None,
        timestep: float,
        trajectory: Any,
        logfile: IO[str] | str | Path | None,
        loginterval: int,
        restart_file: str | Path | None,
    ):
        self.propagator, self.loginterval = propagator, loginterval
        self.restart_file: str | Path | None = None
        self.restart_interval = max(1, loginterval)
        self.begun: bool = False  # whether observers have seen step 0
        self.rng, self.seed = as_generator(rng)
        # Only now: the base class removes an earlier trajectory of that name.
        super().__init__(atoms, timestep, trajectory=trajectory, loginterval=loginterval)
        if logfile:
            self.attach_logfile(logfile)
        if restart_file is not None:
            self.attach_restart(restart_file)

    def run(self, steps: int = 50) -> bool:
        """Make a number of steps; True when they are made."""
        done: bool = super().run(steps)
        return done

    @property
    def statistics(self) -> Any:
        """What became of the jumps so far, a dataclass."""
        raise NotImplementedError

    def logged_energy(self) -> float:
        """Potential energy for a line of the log, eV; nan if nobody asked for it."""
        raise NotImplementedError

    def restart_options(self) -> dict[str, Any]:
        """Options of the constructor, as JSON can hold them."""
        return {"loginterval": self.loginterval}

    @classmethod
    def from_restart(cls, atoms: Atoms, propagator: LearnedMap, options: dict[str, Any], **keywords: Any) -> Self:
        """Make the dynamics anew from what :meth:`restart_options` gave and ``bonds``, ``rng`` and ``classical``."""
        raise NotImplementedError

    def restart_place(self) -> dict[str, Any]:
        """Where the run is, beside its number of steps, as JSON can hold it."""
        return {}

    def restart_arrays(self) -> dict[str, np.ndarray | None]:
        """``bonds`` as the constructor takes them, and whatever :meth:`continue_from` wants to find."""
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

    def attach_logfile(self, logfile: IO[str] | str | Path, header: bool = True) -> None:
        """Write time, energies and temperature to a file (or ``"-"``) every ``loginterval`` steps."""
        target = str(logfile) if isinstance(logfile, Path) else logfile
        self.attach(self.closelater(JumpLogger(self, self.atoms, target, header=header)), self.loginterval)

    def attach_restart(self, restart_file: str | Path, interval: int | None = None) -> None:
        """Save a restart file every ``interval`` steps, by default every ``loginterval``.

        Raises
        ------
        ConfigError
            If the interval is no positive number.
        """
        interval = max(1, self.loginterval) if interval is None else interval
        if interval < 1:
            raise ConfigError(f"the interval of restart files is {interval}; expected a number of steps >= 1")
        self.restart_file, self.restart_interval = restart_file, interval
        self.attach(self.save_restart, interval, restart_file)

    def attach_trajectory(self, trajectory: str | Path) -> None:
        """Append to a trajectory every ``loginterval`` steps."""
        self._orig_trajectory, self.trajectory = trajectory, Path(trajectory)
        self.attach(self._traj_write_image, self.loginterval, description={"interval": self.loginterval})

    def save_restart(self, path: str | Path, notes: dict[str, Any] | None = None) -> None:
        """Write everything :meth:`restart` needs; the previous file survives a full disk.

        Parameters
        ----------
        path : str or Path
        notes : dict, optional
            What the caller wants to find again, as JSON can hold it: ``notes`` of the header.

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        save(self, path, notes)

    @classmethod
    def restart(
        cls,
        path: str | Path,
        atoms: Atoms,
        propagator: LearnedMap,
        *,
        classical: Any = None,
        trajectory: str | Path | None = None,
        logfile: IO[str] | str | Path | None = None,
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
        propagator : LearnedMap
            The same.
        classical : ase.md.md.MolecularDynamics, optional
            The dynamics of the classical steps, where the schedule of the interrupted run had one. Its random numbers
            continue if they come from a generator of its own (not from ``numpy.random``).
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
        return resume(cls, path, atoms, propagator, classical, trajectory, logfile, restart_file)

    def _refresh_properties(self) -> None:
        # The base class would call the calculator after every step, whoever needs the result.
        self.begun = True


class JumpLogger(MDLogger):
    """ASE's log lines, with nan for a potential energy that nobody asked to be computed, and volumes that change."""

    def __init__(self, dynamics: JumpDynamics, atoms: Atoms, logfile: Any, *, header: bool):
        super().__init__(dynamics, atoms, logfile, header=False)
        self._volumes = getattr(dynamics, "barostat", None) is not None
        self._columns = self.fmt.removesuffix("\n")
        if header:
            self.logfile.write(f"{self.hdr}{'V[A^3]':>13}\n" if self._volumes else f"{self.hdr}\n")

    def __call__(self) -> None:
        """Write a line."""
        self.fmt: str = f"{self._columns} {self.atoms.get_volume():12.3f}\n" if self._volumes else f"{self._columns}\n"
        super().__call__()

    def _potential_energy(self) -> float:
        return float("nan") if self.dyn is None else self.dyn.logged_energy()
