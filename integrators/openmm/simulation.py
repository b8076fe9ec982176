"""``app.Simulation`` with learned jumps, and a reporter of what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fastegnn_md._extras import naming_extras
from fastegnn_md._files import write_atomically
from fastegnn_md.engines.openmm.force import add_jump_force, choose_backend, find_jump_force
from fastegnn_md.engines.openmm.system import NM
from fastegnn_md.errors import ConfigError
from fastegnn_md.mechanics.thermal import temperature_per_element

from ..together import Waiting
from .integrator import LearnedIntegrator
from .metropolis import MetropolizedJumpIntegrator
from .states import set_state, state_xml

with naming_extras(__name__):
    import openmm
    from openmm import app, unit

if TYPE_CHECKING:
    from openmm.app import Topology


class LearnedSimulation(app.Simulation):
    """An ``app.Simulation`` whose integrator jumps: jump force added, Context made and bound.

    Parameters
    ----------
    topology : openmm.app.Topology
    system : openmm.System
        Gets the jump force, where the back-end needs one and it has none yet.
    integrator : LearnedIntegrator or MetropolizedJumpIntegrator
    platform, platformProperties, state
        As in ``app.Simulation``.
    atoms : iterable of int or of openmm.app.topology.Atom, optional
        Atoms that jump; the others take classical steps only. Default: all but virtual sites.
    backend : {"auto", "host", "python", "torch", "python_torch"}
        See :func:`~fastegnn_md.engines.openmm.add_jump_force`.
    learned_forces : collection of str
        Forces beyond a force field (restraints, biases, …) that were there when the propagator was trained, as the
        error about them names them. A force-free propagator does not feel others: with jumps alone they are refused.

    Raises
    ------
    FastEGNNMDError
        As :func:`~fastegnn_md.engines.openmm.add_jump_force`; ConfigError for another integrator, arguments in another
        order, the name of a platform, or where the System has a jump force already and options ask for another one.
    """

    def __init__(
        self,
        topology: Topology,
        system: openmm.System,
        integrator: LearnedIntegrator | MetropolizedJumpIntegrator,
        platform: openmm.Platform | None = None,
        platformProperties: Mapping[str, str] | None = None,
        state: Any = None,
        *,
        atoms: Iterable[Any] | None = None,
        backend: str = "auto",
        learned_forces: Collection[str] = (),
    ):
        if not isinstance(integrator, (LearnedIntegrator, MetropolizedJumpIntegrator)):
            raise ConfigError(
                f"the integrator is a {type(integrator).__name__}; LearnedSimulation takes a LearnedIntegrator "
                "or a MetropolizedJumpIntegrator"
            )
        if not isinstance(system, openmm.System):
            raise ConfigError(
                f"system is a {type(system).__name__}; the order is LearnedSimulation(topology, system, integrator)"
            )
        if not isinstance(platform, (openmm.Platform, type(None))):
            raise ConfigError(f"platform is {platform!r}; give openmm.Platform.getPlatformByName({platform!r})")
        force = find_jump_force(system, topology, integrator.propagator)
        if force is None:
            asked = "host" if backend == "auto" and integrator.needs_host else backend
            force = add_jump_force(
                system, topology, integrator.propagator, atoms, asked, integrator.group, platform=platform
            )
        elif atoms is not None or backend not in ("auto", force.backend):
            raise ConfigError(
                f"the System has a jump force already (back-end {force.backend}, {len(force.part.atoms)} atoms); leave "
                "atoms and backend out, or remove the force first"
            )
        self._placed = False
        choose_backend(force.backend, platform)  # says what to install where the plugin is missing
        extra = [] if platform is None else [platform, *([dict(platformProperties)] if platformProperties else [])]
        super().__init__(topology, system, integrator, *extra)
        integrator.bind(self.context, force, learned_forces)
        if state is not None:
            self.loadState(state) if isinstance(state, (str, Path)) else self._set_state(state)

    def saveState(self, file: Any) -> None:
        """Save the State to a file, as XML that a classical Simulation of the same System can load as well.

        Parameters
        ----------
        file : str, Path or writable
        """
        xml = state_xml(self.context)
        if isinstance(file, (str, Path)):
            write_atomically(file, xml.encode())
        else:
            file.write(xml)

    def loadState(self, file: Any) -> None:
        """Load a State, of this or of a classical Simulation of the same System.

        Of the State of another kind of integrator positions, velocities, box, time, step and parameters are taken;
        seed and schedule stay those of this integrator.

        Parameters
        ----------
        file : str, Path or readable

        Raises
        ------
        OpenMMException
            If it is of another System.
        """
        set_state(self.context, Path(file).read_text("utf-8") if isinstance(file, (str, Path)) else file.read())

    def _set_state(self, state: openmm.State) -> None:
        set_state(self.context, openmm.XmlSerializer.serialize(state))

    def prepare(self) -> Waiting | None:
        """Make ready for the jump of the next step; see :meth:`LearnedIntegrator.prepare`."""
        self._look_for_positions()
        waiting: Waiting | None = self.integrator.prepare()
        return waiting

    def step(self, steps: int) -> None:
        """Advance by a number of steps.

        Raises
        ------
        ConfigError
            If no positions were set, or all are the same.
        """
        self._look_for_positions()
        super().step(steps)

    def _look_for_positions(self) -> None:
        if not self._placed:  # positions of zero are those of a Context that was given none
            positions = self.context.getState(positions=True).getPositions(asNumpy=True)._value
            self._placed = len(positions) == 1 or bool(np.ptp(positions, axis=0).any())
            if not self._placed:
                raise ConfigError(
                    "all particles are at one place, as where no positions were set: call "
                    "simulation.context.setPositions(pdb.positions) before step"
                )


class LearnedStateReporter:
    """Write what became of the jumps, as comma-separated values.

    Columns: step, time (ps), jumps tried and accepted, refused by each guard, classical steps in place of refused
    jumps, temperature of each element (K; 2 K / 3 N k_B, not corrected for constraints), milliseconds per jump and per
    classical step since the last line.

    Parameters
    ----------
    file : str, Path or writable
        ``sys.stdout``, or a file that is replaced (appended to with ``append``).
    reportInterval : int
        Steps between two lines.
    append : bool

    Raises
    ------
    ConfigError
        If the interval is not positive.
    """

    GUARDS = (
        "displacement",
        "speed",
        "surroundings",
        "bond",
        "chirality",
        "torsion",
        "constraints",
        "energy",
        "spread",
        "audits",
    )

    def __init__(self, file: str | Path | IO[str], reportInterval: int, *, append: bool = False):
        if reportInterval < 1:
            raise ConfigError(f"reportInterval is {reportInterval}; expected a number of steps >= 1")
        self._interval = int(reportInterval)
        self._own = isinstance(file, (str, Path))
        self._file: IO[str] = open(file, "a" if append else "w", encoding="utf-8") if self._own else file  # type: ignore[arg-type, assignment]  # noqa: SIM115
        self._header = not append
        self._atoms: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # particles, masses, symbols
        self._last = (0.0, 0, 0.0, 0)

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """When the next report is due and what it needs."""
        left = self._interval - simulation.currentStep % self._interval
        return {"steps": left, "periodic": None, "include": ["velocities"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write a line.

        Raises
        ------
        ConfigError
            If the simulation has another integrator than a LearnedIntegrator.
        """
        integrator = simulation.integrator
        if not isinstance(integrator, LearnedIntegrator):
            raise ConfigError(
                f"the integrator is a {type(integrator).__name__}; this reporter is for LearnedIntegrator: remove it"
            )
        if self._atoms is None:
            self._atoms = _atoms(simulation)
        speeds = self._speeds(integrator)
        particles, masses, symbols = self._atoms
        velocities = state.getVelocities(asNumpy=True)._value[particles] * NM
        temperatures = temperature_per_element(0.5 * masses * np.square(velocities).sum(axis=1), symbols)
        statistics = integrator.statistics
        if self._header:
            columns = ["step", "time (ps)", "tried", "accepted", *(f"refused: {name}" for name in self.GUARDS)]
            columns += ["fallback steps", *(f"T {name} (K)" for name in temperatures), "ms/jump", "ms/classical step"]
            print("#" + ",".join(f'"{name}"' for name in columns), file=self._file)
            self._header = False
        values = [
            str(simulation.currentStep),
            f"{state.getTime().value_in_unit(unit.picosecond):.6g}",
            str(statistics.tried),
            str(statistics.accepted),
            *(str(statistics.rejected.get(name, 0)) for name in self.GUARDS),
            str(statistics.fallback_steps),
            *(f"{value:.1f}" for value in temperatures.values()),
            *speeds,
        ]
        print(",".join(values), file=self._file, flush=True)

    def _speeds(self, integrator: LearnedIntegrator) -> tuple[str, str]:
        now = (
            integrator.jump_seconds,
            integrator.statistics.tried,
            integrator.classical_seconds,
            integrator.classical_steps_taken,
        )
        jump, tried, classical, steps = (a - b for a, b in zip(now, self._last, strict=True))
        self._last = now
        return _milliseconds(jump, tried), _milliseconds(classical, steps)

    def __del__(self) -> None:
        if getattr(self, "_own", False) and hasattr(self, "_file"):
            self._file.close()


def _milliseconds(seconds: float, count: float) -> str:
    return f"{1e3 * seconds / count:.4g}" if count else "nan"


def _atoms(simulation: app.Simulation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, masses and symbols of the particles that move and are atoms."""
    system = simulation.system
    elements = [atom.element for atom in simulation.topology.atoms()]
    masses = np.array([system.getParticleMass(i)._value for i in range(system.getNumParticles())])
    chosen = np.array([i for i, element in enumerate(elements) if element is not None and masses[i] > 0])
    return chosen, masses[chosen], np.array([elements[i].symbol for i in chosen])
