"""The jump force: a Force of an OpenMM System that hands positions to a propagator, by one of four back-ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._extras import naming_extras
from ...errors import CompatibilityError, ConfigError, MissingDependencyError
from .backends import make_force, plugin_has, read_force
from .register import FORCE_NAME
from .system import JumpSystem, read_system

if TYPE_CHECKING:
    from openmm.app import Topology

    from ...propagator.learned_map import LearnedMap

with naming_extras(__name__):
    import openmm

DEFAULT_GROUP = 31
BACKENDS = ("host", "python", "torch", "python_torch")
_OLDEST = (8, 6)  # earlier releases hold their CUDA context while Python runs, and lack parts of PythonForce


@dataclass(frozen=True, eq=False)
class JumpForce:
    """How a System and a propagator meet.

    Attributes
    ----------
    backend : {"host", "python", "torch", "python_torch"}
    group : int
        Force group of the jump force; no other force may be in it.
    part : JumpSystem
        The atoms that jump.
    topology : openmm.app.Topology
        Of the System.
    """

    backend: str
    group: int
    part: JumpSystem
    topology: Topology


def add_jump_force(
    system: openmm.System,
    topology: Topology,
    propagator: LearnedMap,
    atoms: Iterable[Any] | None = None,
    backend: str = "auto",
    group: int = DEFAULT_GROUP,
    *,
    platform: openmm.Platform | None = None,
) -> JumpForce:
    """Make a System ready for learned jumps.

    Parameters
    ----------
    system : openmm.System
        Gets one more force. It acts in jumps only, its energy is zero.
    topology : openmm.app.Topology
        Elements and bonds.
    propagator : LearnedMap
    atoms : iterable of int or of openmm.app.topology.Atom, optional
        Atoms that jump; the others stand still meanwhile. Default: all but virtual sites.
    backend : {"auto", "host", "python", "torch", "python_torch"}
        ``host`` reads and writes the Context between steps, its force is empty. ``python`` is OpenMM's PythonForce,
        ``torch`` the TorchForce of openmmtorch, ``python_torch`` the PythonTorchForce of openmm-torch after 1.5;
        the last two leave positions on a GPU. ``auto`` takes ``host`` on the platforms Reference and CPU, and for
        propagators that need forces at their midpoint, which the others cannot evaluate; else ``python_torch`` where
        it is installed, else ``python``.
    group : int
        Force group of the force, 0 to 31, not used by another force.
    platform : openmm.Platform, optional
        That the Context will have; ``auto`` looks at it. Default: the fastest, which is OpenMM's choice as well.

    Returns
    -------
    JumpForce

    Raises
    ------
    CompatibilityError
        If the propagator does not fit (see :func:`~fastegnn_md.engines.openmm.system.read_system`), the System has a
        jump force or the group is in use.
    ConfigError
        If back-end or group do not exist, or the back-end cannot serve the propagator.
    MissingDependencyError
        If OpenMM is older than 8.6, or a plugin is not installed.
    """
    check_version()
    if not (isinstance(group, int) and 0 <= group <= 31):
        raise ConfigError(f"group is {group!r}; OpenMM has the force groups 0 to 31")
    if propagator.wants_forces == "midpoint":
        if backend not in ("auto", "host"):
            raise ConfigError(midpoint_advice(backend))
        backend = "host"
    backend = choose_backend(backend, platform)
    _refuse_second(system)
    check_group(system, group, None)
    part = read_system(system, topology, propagator, atoms)
    force = make_force(backend, part, system.usesPeriodicBoundaryConditions())
    force.setName(FORCE_NAME)
    force.setForceGroup(group)
    system.addForce(force)
    return JumpForce(backend, group, part, topology)


def find_jump_force(system: openmm.System, topology: Topology, propagator: LearnedMap) -> JumpForce | None:
    """The jump force that a System has already, as one that was read from XML; None if it has none.

    Raises
    ------
    CompatibilityError
        If the propagator does not fit the System.
    """
    index = _index(system)
    if index is None:
        return None
    force = system.getForce(index)
    backend, particles = read_force(force)
    sites = sum(system.isVirtualSite(i) for i in range(system.getNumParticles()))
    everything = len(particles) in (0, system.getNumParticles() - sites)
    part = read_system(system, topology, propagator, None if everything else particles)
    return JumpForce(backend, force.getForceGroup(), part, topology)


def choose_backend(backend: str, platform: openmm.Platform | None) -> str:
    """Resolve ``auto``, and look whether a back-end is installed.

    Raises
    ------
    ConfigError
        If there is no such back-end.
    MissingDependencyError
        If its plugin is not installed.
    """
    if backend == "auto":
        if platform is None:
            known = [openmm.Platform.getPlatform(i) for i in range(openmm.Platform.getNumPlatforms())]
            platform = max(known, key=lambda one: one.getSpeed())
        if platform.getName() in ("Reference", "CPU"):
            return "host"
        return "python_torch" if plugin_has("PythonTorchForce") else "python"
    if backend not in BACKENDS:
        raise ConfigError(f"unknown back-end {backend!r}; expected auto, {', '.join(BACKENDS)}")
    if backend == "torch" and not plugin_has("TorchForce"):
        raise MissingDependencyError(
            "the back-end 'torch' needs TorchForce of openmm-torch: pip install 'fastegnn-md[openmm-torch]', with the "
            "release of torch it was built for; or use backend='python', which needs no plugin"
        )
    if backend == "python_torch" and not plugin_has("PythonTorchForce"):
        raise MissingDependencyError(
            "the back-end 'python_torch' needs PythonTorchForce of openmm-torch, which release 1.5 does not have yet: "
            "build openmm-torch from source, or use backend='python', which needs no plugin"
        )
    return backend


def midpoint_advice(backend: str) -> str:
    """Why a back-end cannot serve a propagator with forces at the midpoint."""
    return (
        f"this propagator needs forces half a jump ahead, which the back-end {backend!r} cannot evaluate within a "
        "step; use backend='host'"
    )


def check_version() -> None:
    """Refuse an OpenMM that is too old; raises :class:`~fastegnn_md.errors.MissingDependencyError`."""
    found = openmm.Platform.getOpenMMVersion()
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if numbers < _OLDEST:
        raise MissingDependencyError(
            f"learned jumps need OpenMM {_OLDEST[0]}.{_OLDEST[1]} or later, this is {found}: pip install -U openmm"
        )


def check_group(system: openmm.System, group: int, jump_force: int | None) -> None:
    """Refuse a force group that a force other than the jump force is in."""
    users = [
        type(force).__name__
        for index, force in enumerate(system.getForces())
        if force.getForceGroup() == group and index != jump_force
    ]
    if users:
        raise CompatibilityError(
            f"force group {group} is used by {', '.join(users)}; jumps need a group of their own: give another group"
        )


def _index(system: openmm.System) -> int | None:
    names = [force.getName() for force in system.getForces()]
    return names.index(FORCE_NAME) if FORCE_NAME in names else None


def _refuse_second(system: openmm.System) -> None:
    index = _index(system)
    if index is not None:
        raise CompatibilityError(
            f"the System has a jump force already (force {index}, group {system.getForce(index).getForceGroup()}); "
            "one is enough, remove it first: system.removeForce"
        )


def check_binding(system: openmm.System, force: JumpForce) -> None:
    """Look whether a jump force belongs to the System of a Context.

    Raises
    ------
    CompatibilityError
        If the System has none, has another number of particles, or another force has joined the group.
    """
    index = _index(system)
    check_group(system, force.group, index)
    if index is None:
        raise CompatibilityError(
            "the System of this Context has no jump force: call add_jump_force on it before the Context is made, and "
            "bind what it returns"
        )
    if force.part.n_particles != system.getNumParticles():
        raise CompatibilityError(
            f"the jump force is for {force.part.n_particles} particles, this Context has "
            f"{system.getNumParticles()}; bind what add_jump_force returned for its System"
        )


def bound_context(reference: Callable[[], openmm.Context | None] | None) -> openmm.Context:
    """The Context that an integrator was bound to, from the weak reference it keeps.

    Raises
    ------
    ConfigError
        If there is no reference, or the Context was deleted.
    """
    context = None if reference is None else reference()
    if context is None:
        raise ConfigError(
            "this integrator has no Context; make the simulation with LearnedSimulation, or call "
            "integrator.bind(context, force) with what add_jump_force returned"
        )
    return context
